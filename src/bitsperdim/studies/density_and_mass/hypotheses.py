r"""Two hypotheses and one observation: why a ratio of densities may be used although a density is not a probability.

Hypothesis A says y ~ N(0, 1), hypothesis B says y ~ N(1, 1), and y = 1 is observed. A real observation is not a point
but an interval of some width w around it, and an interval has a probability,

.. math:: P_h(w) = \int_{y - w/2}^{y + w/2} p_h(t) \, dt = w \, p_h(y) \, (1 + O(w^2))

so the width cancels in the ratio, which tends to the ratio of the densities. A change of the unit of length scales all
widths by the same factor. It changes each density, but neither the probabilities nor the ratio.

All numbers are exact: closed forms, and Gauss-Legendre quadrature of an analytic integrand. Every term of the
quadrature is positive, so nothing cancels, however small the width is and however far the tail. No random numbers are
used.

Invariants (``tests/studies/test_density_and_mass.py``):

1. The posteriors are those of the closed form (``test_the_posterior_is_that_of_the_closed_form``).
2. The probabilities of intervals agree with 40-digit arithmetic within 1e-12, relatively
   (``test_intervals_agree_with_many_digits``).
3. Their ratio tends to that of the densities, with the square of the width
   (``test_the_ratio_of_intervals_tends_to_the_ratio_of_densities``).
4. A unit changes the densities and not the ratio (``test_a_unit_changes_the_densities_and_not_the_ratio``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MEANS = (0.0, 1.0)  # of A and of B; both have standard deviation 1
OBSERVED = 1.0
WIDTHS = tuple(2.0**power for power in range(4, -11, -1))
UNITS = {"metre": 1.0, "centimetre": 100.0, "inch": 1 / 0.0254}  # units per metre
N_NODES = 64
CURVE = np.linspace(-3.0, 4.0, 141)


def normal_density(y: np.ndarray | float, mean: float, scale: float = 1.0) -> np.ndarray:
    r"""Return the density of a normal distribution.

    .. math:: p(y) = \frac{1}{\sqrt{2\pi}\,\sigma} \, e^{-(y - \mu)^2 / 2\sigma^2}
    """
    z = (np.asarray(y, dtype=np.float64) - mean) / scale
    return np.exp(-0.5 * z * z) / (math.sqrt(2 * math.pi) * scale)


def interval_probability(centre: float, width: float, mean: float, scale: float = 1.0) -> float:
    """Return the probability of an interval under a normal distribution, for widths up to 20 standard deviations.

    Gauss-Legendre quadrature is exact up to rounding. A difference of two values of the distribution function would
    lose more digits the smaller the width is.
    """
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    return float(0.5 * width * (weights * normal_density(centre + 0.5 * width * nodes, mean, scale)).sum())


def posterior(p_a: float, p_b: float, prior_b: float = 0.5) -> float:
    r"""Return the posterior probability of B.

    .. math:: P(B \mid y) = \frac{P(B) \, p_B(y)}{P(A) \, p_A(y) + P(B) \, p_B(y)}

    Args:
        p_a: density or probability of the observation under A.
        p_b: the same quantity under B, in the same unit.
        prior_b: prior probability P(B).
    """
    return prior_b * p_b / ((1 - prior_b) * p_a + prior_b * p_b)


def by_width() -> list[dict[str, float]]:
    """Return the probabilities of intervals around the observation, their ratio and the posterior, widest first."""
    rows = []
    for width in WIDTHS:
        p_a, p_b = (interval_probability(OBSERVED, width, mean) for mean in MEANS)
        rows.append({"width": width, "p_a": p_a, "p_b": p_b, "ratio": p_b / p_a, "posterior_b": posterior(p_a, p_b)})
    return rows


def by_unit() -> dict[str, dict[str, float]]:
    """Return the densities of the observation under A and B and their ratio, in several units of length.

    The observation is a length in metres.
    """
    table = {}
    for unit, per_metre in UNITS.items():
        p_a, p_b = (float(normal_density(OBSERVED * per_metre, mean * per_metre, per_metre)) for mean in MEANS)
        table[unit] = {"density_a": p_a, "density_b": p_b, "ratio": p_b / p_a}
    return table


def curves() -> list[dict[str, float]]:
    """Return both densities on a grid, for a chart."""
    densities = [normal_density(CURVE, mean) for mean in MEANS]
    return [
        {"y": float(y), "density_a": float(a), "density_b": float(b)} for y, a, b in zip(CURVE, *densities, strict=True)
    ]


def summary() -> dict[str, Any]:
    """Return the densities, their ratio and the posteriors at the observation; every number is exact."""
    p_a, p_b = (float(normal_density(OBSERVED, mean)) for mean in MEANS)
    return {
        "density_a": p_a,
        "density_b": p_b,
        "likelihood_ratio": p_b / p_a,
        "posterior_a": posterior(p_b, p_a),
        "posterior_b": posterior(p_a, p_b),
        "units": by_unit(),
    }
