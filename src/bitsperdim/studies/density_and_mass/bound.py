r"""A density whose masses are known exactly, so that the bound, its bias and its error bar can be checked.

The density p(y) is a mixture of logistics in one dimension, two of them narrow and one broad. The cell of level x is
[x, x+1), and its mass is the integral over the cell,

.. math:: Q(x) = \int_0^1 p(x + u) \, du = F(x+1) - F(x)

which has a closed form that is computed without cancellation. A density model of images does not know the integral: it
samples the noise u. With K samples,

.. math:: L_K(x) = \log \frac1K \sum_{k=1}^K p(x + u_k), \qquad \mathbb E L_K(x) \le \log Q(x), \qquad
          \mathbb E L_K(x) - \log Q(x) = -\frac{\mathrm{CV}^2(x)}{2K} + O(K^{-2})

(Theis, van den Oord and Bethge 2016, equations 4 to 7, for K = 1; Burda, Grosse and Salakhutdinov 2016 for K;
Nowozin 2018, proposition 1, for the bias). The statistics are those that evaluate every model
(:mod:`bitsperdim.evaluation`); here the true values are known.

Q (closed form), the bound at K = 1 and CV (both by quadrature) are exact. The other numbers are Monte Carlo estimates
with a standard error over replicates: the gap at each K (with a control variate that needs the true Q, so that small
gaps can be measured), the coverage of the error bars, and the ratio of estimated to actual error.

Invariants (``tests/studies/test_density_and_mass.py``):

1. The masses of all levels and both tails sum to one, and agree with 40-digit arithmetic
   (``test_the_masses_sum_to_one_and_agree_with_many_digits``).
2. The bound is below the mass on every level (``test_the_mean_log_density_is_below_the_log_mass``).
3. The Monte Carlo gap agrees with the gap by quadrature: for K = 1 and 2 with the exact value, for large K with the
   leading order (``test_the_gap_is_the_one_by_quadrature``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bitsperdim.core.units import nats_to_bits
from bitsperdim.estimators.log_weights import bound_against_k, log_mean_exp, standard_error
from bitsperdim.likelihoods import DiscretizedLogistic, Mixture

N_LEVELS = 8
WEIGHTS, LOCS, SCALES = (0.3, 0.25, 0.45), (2.35, 5.6, 4.0), (0.03, 0.06, 1.2)  # in levels
N_PANELS, N_NODES = 256, 8  # for the integral over one cell; panels are much narrower than the narrowest component
CURVE_POINTS = 60  # points of the chart for each level
INTERVAL = 1.96  # standard errors to each side: 95 % of a normal distribution


def log_density(y: Tensor) -> Tensor:
    r"""Return log p(y) in nats: :math:`\log \sum_m \pi_m \, \sigma(z_m) \, \sigma(-z_m) / s_m`; float64."""
    weights, locs, scales = (torch.tensor(values, dtype=torch.float64) for values in (WEIGHTS, LOCS, SCALES))
    z = (y[..., None] - locs) / scales
    return torch.logsumexp(weights.log() - scales.log() + F.logsigmoid(z) + F.logsigmoid(-z), -1)


def log_masses() -> Tensor:
    """Return the log-masses of the lower tail, of the cells [x, x+1), and of the upper tail.

    A discretized logistic has cells around whole numbers, and its two edge cells reach to infinity. Here one more level
    on each side is added, so that the edge cells are the tails.

    Returns:
        (N_LEVELS + 2,) nats, float64, exact to rounding.
    """
    weights, locs, scales = (torch.tensor(values, dtype=torch.float64) for values in (WEIGHTS, LOCS, SCALES))
    # cell j of the discretized logistic is [j - 1/2, j + 1/2): level x is j = x + 1, so everything moves by 1/2
    components = DiscretizedLogistic(locs + 0.5, scales.log(), N_LEVELS + 2)
    return Mixture(weights.log(), components).log_prob(torch.arange(N_LEVELS + 2))


def by_quadrature() -> tuple[Tensor, Tensor, Tensor]:
    r"""Return, for each level, :math:`\int \log p(x+u) \, du`, :math:`\mathrm{CV}^2` of p(x+u), and the integral of p.

    The method is Gauss-Legendre quadrature in narrow panels. The third value is Q, independent of its closed form.
    """
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    u = torch.tensor((np.arange(N_PANELS)[:, None] + (nodes + 1) / 2).ravel() / N_PANELS)
    w = torch.tensor(np.tile(weights / 2, N_PANELS) / N_PANELS)
    log_p = log_density(torch.arange(N_LEVELS)[:, None] + u)  # (L, nodes)
    mass = log_p.exp() @ w
    return log_p @ w, ((2 * log_p).exp() @ w) / mass.square() - 1, mass


@dataclass(frozen=True)
class Bound:
    """The results of this part; log-masses, bounds and gaps are in nats.

    Attributes:
        by_level: level, ``mass``, ``log_mass``, ``mean_log_density`` (the bound at K = 1) and ``cv_squared``, all
            exact.
        against_k: ``n_samples``; ``gap`` (averaged over levels, weighted by their masses) and its Monte Carlo error;
            ``leading``, the exact leading order; ``coverage`` of nominal 95 % intervals and its error; ``error_ratio``,
            the estimated divided by the actual standard error. At K = 1 no error can be estimated; then the coverage
            is 1 and the ratio infinite.
        curve: y and the density, for a chart.
        summary: metrics of this part.
    """

    by_level: list[dict[str, float]]
    against_k: list[dict[str, float]]
    curve: list[dict[str, float]]
    summary: dict[str, Any]


def estimate_again_and_again(n_replicates: int, n_samples: int, generator: torch.Generator) -> Bound:
    """Repeat the estimate of every level's mass.

    Args:
        n_replicates: R, the number of independent estimates for each level.
        n_samples: the largest K, a power of two.
        generator: source of randomness for the noise.
    """
    all_masses = log_masses()
    log_mass = all_masses[1:-1]
    elbo, cv_squared, _ = by_quadrature()
    share = torch.softmax(log_mass, 0)  # share of each level, without the tails
    levels = torch.arange(N_LEVELS).repeat_interleave(n_replicates)
    u = torch.rand(n_samples, len(levels), generator=generator, dtype=torch.float64)
    log_w = log_density(levels + u)  # (K, L R)
    sizes, bounds = bound_against_k(log_w)
    # the mean of w / Q - 1 has expectation 0 and is correlated with the bound; adding it leaves only second-order noise
    control = torch.expm1(log_mean_exp(log_w).reshape(N_LEVELS, n_replicates) - log_mass[:, None])
    rows = []
    for n, of_size in zip(sizes, bounds.reshape(len(sizes), N_LEVELS, n_replicates), strict=True):
        gaps = share @ (log_mass[:, None] - of_size + control)  # (R,)
        row = {"n_samples": n, "gap": float(gaps.mean()), "gap_error": float(gaps.std()) / math.sqrt(n_replicates)}
        row["leading"] = float(share @ cv_squared) / (2 * n)
        row |= _error_bars(log_w[:n].reshape(n, N_LEVELS, n_replicates), log_mass, share)
        rows.append(row)
    y = torch.arange(N_LEVELS * CURVE_POINTS + 1, dtype=torch.float64) / CURVE_POINTS
    summary = {
        "n_levels": N_LEVELS,
        "gap_exact": float(share @ (log_mass - elbo)),
        "gap_exact_bits": nats_to_bits(float(share @ (log_mass - elbo))),
        "cv_squared": float(share @ cv_squared),
        "mass_outside": float(all_masses[[0, -1]].exp().sum()),
        "components": [
            {"weight": weight, "loc": loc, "scale": scale}
            for weight, loc, scale in zip(WEIGHTS, LOCS, SCALES, strict=True)
        ],
        "n_replicates": n_replicates,
    }
    by_level = [
        {
            "level": level,
            "mass": math.exp(log_mass[level]),
            "log_mass": float(log_mass[level]),
            "mean_log_density": float(elbo[level]),
            "cv_squared": float(cv_squared[level]),
        }
        for level in range(N_LEVELS)
    ]
    curve = [{"y": float(a), "density": float(b)} for a, b in zip(y, log_density(y).exp(), strict=True)]
    return Bound(by_level, rows, curve, summary)


def _error_bars(log_w: Tensor, log_mass: Tensor, share: Tensor) -> dict[str, float]:
    """Return how good the estimated standard errors are, averaged over levels by their shares; log_w is (K, L, R)."""
    n_replicates = log_w.shape[2]
    estimates, errors = log_mean_exp(log_w), standard_error(log_w)  # (L, R)
    covers = ((estimates - log_mass[:, None]).abs() <= INTERVAL * errors).double()
    variances = covers.var(1) / n_replicates  # of each level's coverage
    return {
        "coverage": float(share @ covers.mean(1)),
        "coverage_error": float((share.square() @ variances).sqrt()),
        "error_ratio": float(share @ (errors.square().mean(1).sqrt() / estimates.std(1))),
    }
