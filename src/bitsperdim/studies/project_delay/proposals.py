r"""Other durations to draw from, and what that does to the error, exactly.

To see a rare delay, durations are drawn with other means :math:`\lambda_i^{-1} s_i`, exponential still, and weighted by

.. math:: w = \prod_i s_i \, e^{-(\lambda_i - \mu_i) t_i}, \qquad \mu_i = \lambda_i / s_i, \qquad
          E_\mu[w \, 1\{T \ge d\}] = P(T \ge d)

so that the mean of :math:`w 1\{T \ge d\}` over n draws has the variance :math:`(M - P^2) / n`. The second moment M is
an integral over exponential densities again, with the rates :math:`\nu_i = 2 \lambda_i - \mu_i`,

.. math:: M = E_\mu[w^2 \, 1\{T \ge d\}] = \prod_i \frac{\lambda_i^2}{\mu_i \nu_i} \; P_\nu(T \ge d)

where :math:`P_\nu` is that of a project with those rates: so the chain gives it exactly. It is finite if and only if
every :math:`\nu_i` is positive, that is every :math:`s_i > 1/2`: with a shorter mean the weights of long durations grow
faster than those durations become rare (they are late alone, however short the others are).

log M is a convex function of :math:`\mu`: minus a sum of :math:`\log \mu_i` and the logarithm of an integral of
:math:`e^{\mu \cdot t}`. Its minimum is the least variance that exponential durations can have
(:func:`least_variance`). Finding it needs what is to be estimated, so it is a yardstick and no method.

Reference: Owen 2013, "Monte Carlo theory, methods and examples", chapter 9, for the estimator and its variance.

Invariants (``tests/studies/test_project_delay.py``):

1. The second moment is the one simulated, and infinite from half the mean downwards
   (``test_the_second_moment_is_the_one_simulated``, ``test_half_the_mean_has_infinite_variance``).
2. No proposal nearby has less variance than the least (``test_the_least_variance_is_the_least``).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bitsperdim.studies.project_delay.chain import Chain
from bitsperdim.studies.project_delay.network import Project

N_NEWTON = 100
CONVERGED = 1e-12  # nats, of the Newton decrement: the full step that follows squares what is left


def scaled(project: Project, scale: float, tasks: tuple[int, ...], others: float = 1.0) -> np.ndarray:
    """Return the means, (n_tasks,), those of ``tasks`` times ``scale`` and all others times ``others``."""
    factors = np.full(project.n_tasks, others)
    factors[list(tasks)] = scale
    return np.array(project.means) * factors


def log_weights(project: Project, means: np.ndarray, durations: np.ndarray) -> np.ndarray:
    r"""Return :math:`\log w = \sum_i \log s_i - (\lambda_i - \mu_i) t_i` in nats, (n,).

    Args:
        project: whose durations are meant.
        means: (n_tasks,) positive, of which the durations were drawn.
        durations: (n, n_tasks).
    """
    own = np.array(project.means)
    return np.log(means / own).sum() - durations @ (1 / own - 1 / means)


def log_second_moment(chain: Chain, rates: Tensor, deadline: float) -> Tensor:
    """Return log M in nats, a scalar, exact, of drawing with ``rates`` (n_tasks,); infinite where M is."""
    own = chain.rates
    tilted = 2 * own - rates
    if bool((tilted <= 0).any()):
        return torch.tensor(math.inf, dtype=torch.float64)
    return (own.square() / (rates * tilted)).log().sum() + chain.log_tail(deadline, tilted)


def variance(chain: Chain, means: np.ndarray, deadline: float) -> float:
    """Return the variance M - P^2 of one weighted draw, exact; infinite where it is."""
    probability = math.exp(chain.log_tail(deadline))
    second = math.exp(log_second_moment(chain, 1 / torch.from_numpy(means), deadline))
    return second - probability**2


def effective_share(project: Project, means: np.ndarray) -> float:
    r"""Return :math:`1 / E_\mu[w^2] = \prod_i (2 s_i - 1) / s_i^2`, exact: the limit of ESS / n of all weights.

    Those of the draws that are not late are among them; 0 where the second moment is infinite.
    """
    scale = means / np.array(project.means)
    return float(np.prod(np.maximum(2 * scale - 1, 0) / scale**2))


def least_variance(chain: Chain, deadline: float) -> np.ndarray:
    """Return the means, (n_tasks,), of the least M, by Newton's method from those given a delay.

    Raises:
        ArithmeticError: it does not converge.
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
