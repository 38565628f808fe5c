r"""Proposals for the durations, and their exact effect on the error.

To see a rare delay, durations are drawn from exponential distributions with other means :math:`\lambda_i^{-1} s_i` and
weighted by

.. math:: w = \prod_i s_i \, e^{-(\lambda_i - \mu_i) t_i}, \qquad \mu_i = \lambda_i / s_i, \qquad
          E_\mu[w \, 1\{T \ge d\}] = P(T \ge d)

so the mean of :math:`w 1\{T \ge d\}` over n draws has the variance :math:`(M - P^2) / n`. The second moment M is also
an integral over exponential densities, with the rates :math:`\nu_i = 2 \lambda_i - \mu_i`,

.. math:: M = E_\mu[w^2 \, 1\{T \ge d\}] = \prod_i \frac{\lambda_i^2}{\mu_i \nu_i} \; P_\nu(T \ge d)

where :math:`P_\nu` is the probability for a project with these rates, so the chain gives it exactly. M is finite if and
only if every :math:`\nu_i` is positive, that is, every :math:`s_i > 1/2`. With a shorter mean, the weights of long
durations grow faster than these durations become rare (a single long duration is enough for a delay, however short the
others are).

log M is a convex function of :math:`\mu`: minus a sum of :math:`\log \mu_i`, plus the logarithm of an integral of
:math:`e^{\mu \cdot t}`. Its minimum is the least variance that exponential proposals can have (:func:`least_variance`).
To find it one must know the probability that is to be estimated, so it is a yardstick and not a method.

Reference: Owen 2013, "Monte Carlo theory, methods and examples", chapter 9, for the estimator and its variance.

Invariants (``tests/studies/test_project_delay.py``):

1. The second moment agrees with simulation, and is infinite for half the mean or less
   (``test_the_second_moment_is_the_one_simulated``, ``test_half_the_mean_has_infinite_variance``).
2. No proposal nearby has a smaller variance than the least variance (``test_the_least_variance_is_the_least``).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bitsperdim.studies.project_delay.chain import Chain
from bitsperdim.studies.project_delay.network import Project

N_NEWTON = 100
CONVERGED = 1e-12  # limit of the Newton decrement in nats; the last full step makes the error quadratically smaller


def scaled(project: Project, scale: float, tasks: tuple[int, ...], others: float = 1.0) -> np.ndarray:
    """Return the means, (n_tasks,), multiplied by ``scale`` for ``tasks`` and by ``others`` for all other tasks."""
    factors = np.full(project.n_tasks, others)
    factors[list(tasks)] = scale
    return np.array(project.means) * factors


def log_weights(project: Project, means: np.ndarray, durations: np.ndarray) -> np.ndarray:
    r"""Return :math:`\log w = \sum_i \log s_i - (\lambda_i - \mu_i) t_i` in nats, (n,).

    Args:
        project: the project with the true means.
        means: (n_tasks,) positive means with which the durations were drawn.
        durations: (n, n_tasks) durations.
    """
    own = np.array(project.means)
    return np.log(means / own).sum() - durations @ (1 / own - 1 / means)


def log_second_moment(chain: Chain, rates: Tensor, deadline: float) -> Tensor:
    """Return the exact log M, a scalar in nats, for draws with ``rates`` (n_tasks,); infinite if M is infinite."""
    own = chain.rates
    tilted = 2 * own - rates
    if bool((tilted <= 0).any()):
        return torch.tensor(math.inf, dtype=torch.float64)
    return (own.square() / (rates * tilted)).log().sum() + chain.log_tail(deadline, tilted)


def variance(chain: Chain, means: np.ndarray, deadline: float) -> float:
    """Return the exact variance M - P^2 of one weighted draw; infinite if M is infinite."""
    probability = math.exp(chain.log_tail(deadline))
    second = math.exp(log_second_moment(chain, 1 / torch.from_numpy(means), deadline))
    return second - probability**2


def effective_share(project: Project, means: np.ndarray) -> float:
    r"""Return :math:`1 / E_\mu[w^2] = \prod_i (2 s_i - 1) / s_i^2`, exact: the limit of ESS / n for all weights.

    These include the weights of draws that are not late. The result is 0 if the second moment is infinite.
    """
    scale = means / np.array(project.means)
    return float(np.prod(np.maximum(2 * scale - 1, 0) / scale**2))


def least_variance(chain: Chain, deadline: float) -> np.ndarray:
    """Return the means, (n_tasks,), that minimize M, by Newton's method from the mean durations given a delay.

    Raises:
        ArithmeticError: the method does not converge.
    """
    rates = 1 / chain.mean_durations_given_delay(deadline)
    for _ in range(N_NEWTON):
        rates = rates.detach().requires_grad_()
        value = log_second_moment(chain, rates, deadline)
        (gradient,) = torch.autograd.grad(value, rates, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(part, rates, retain_graph=True)[0] for part in gradient])
        step = -torch.linalg.solve(hessian, gradient.detach())
        decrement = -float(gradient.detach() @ step)
        if decrement < CONVERGED:
            return (1 / (rates.detach() + step)).numpy()
        size = 1.0
        with torch.no_grad():
            while not _falls(chain, rates, size * step, deadline, float(value) - 0.25 * size * decrement):
                size /= 2
        rates = rates + size * step
    raise ArithmeticError(f"the least variance was not found in {N_NEWTON} steps")


def _falls(chain: Chain, rates: Tensor, step: Tensor, deadline: float, limit: float) -> bool:
    moved = rates + step
    return bool((moved > 0).all()) and float(log_second_moment(chain, moved, deadline)) <= limit
