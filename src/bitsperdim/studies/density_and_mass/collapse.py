r"""A density fitted to whole numbers grows without limit; the same density fitted to dequantized values does not.

The data are a distribution P over levels, which is known exactly. The model is a mixture of normals, one for each level
that occurs, with free weights, centres and scales; the scales have no lower limit. It is fitted twice with the same
steps:

- to the levels themselves. Each component becomes a spike, and :math:`-E_P \log p(x)` tends to minus infinity. This
  number looks like a likelihood but is a *density*: it has no lower limit and cannot rank models;
- to x + u with fresh uniform u in [0, 1). With :math:`Q(x) = \int_0^1 p(x + u) \, du`,

  .. math:: -E_{P, u} \log p(x + u) \;\ge\; -E_P \log Q(x) \;\ge\; H(P)

  by Jensen's and Gibbs's inequalities (Theis, van den Oord and Bethge 2016, section 3.1). The inequality holds exactly,
  without sampling error, because it is evaluated on the fitted distribution P, and the expectation over u is an
  integral.

A step goes a fraction of the way of one step of expectation maximization. A plain gradient would not work for spikes,
because the gradient of a centre grows with the inverse square of the scale.

Test data are not used: this study does not measure generalization.

Invariants (``tests/studies/test_density_and_mass.py``):

1. On whole numbers the curve falls below any limit (``test_a_density_of_whole_numbers_falls_without_end``).
2. On dequantized values the curve stays above the cross entropy of the masses, which is above the entropy of P
   (``test_dequantized_data_keep_the_entropy_as_a_bound``).
3. A step is the gradient divided by the information of the observations that a component is responsible for
   (``test_a_step_is_the_scaled_gradient``); no distribution of levels makes it overflow (``test_no_levels_overflow``).
4. The expectation over u agrees with the result of twice as many nodes (``test_the_expectation_over_noise_is_exact``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bitsperdim.core.units import nats_to_bits

FIRST_SCALE = 0.5  # initial scale of every component, in levels
N_DRAWS = 256  # draws of the noise at each step, divided among the levels; at least one for each level
N_NODES = 24  # nodes of the integral over one cell
N_RECORDED = 40


@dataclass
class NormalMixture:
    """A mixture of normals, one for each level; all arrays have the shape (M,).

    Attributes:
        levels: levels of the components.
        weights: weights of the components, which sum to one.
        shifts: centre minus level; stored separately, so that a centre can be arbitrarily close to its level.
        log_scales: natural logarithms of the scales, which are in levels.
    """

    levels: np.ndarray
    weights: np.ndarray
    shifts: np.ndarray
    log_scales: np.ndarray

    @classmethod
    def start(cls, levels: np.ndarray) -> NormalMixture:
        """Return a mixture with equal weights and scales, each component shifted from its level by a quarter level."""
        n = len(levels)
        shifts = np.full(n, 0.25)
        log_scales = np.full(n, math.log(FIRST_SCALE))
        return cls(levels.astype(np.float64), np.full(n, 1 / n), shifts, log_scales)

    def _log_parts(self, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the standardized values z and the logarithms of weight times density, both (N, M)."""
        z = ((x[:, None] - self.levels) + (u[:, None] - self.shifts)) * np.exp(-self.log_scales)
        heights = np.log(self.weights) - self.log_scales - 0.5 * math.log(2 * math.pi)
        return z, heights - 0.5 * z * z

    def log_density(self, x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return log p(x + u) in nats, for x and u of shape (N,)."""
        return _log_sum_exp(self._log_parts(x, u)[1])

    def step(self, x: np.ndarray, u: np.ndarray, p: np.ndarray, size: float) -> None:
        r"""Go a fraction of one step of expectation maximization for x + u, weighted by p.

        With the responsibilities :math:`r_{nm}` and :math:`t_m = \sum_n p_n r_{nm}`,

        .. math:: \Delta \pi_m = \eta \, (t_m - \pi_m), \quad
                  \Delta \mu_m = \frac{\eta \, \sigma_m}{t_m} \sum_n p_n r_{nm} z_{nm}, \quad
                  \Delta \log \sigma_m = \frac{\eta}{2 t_m} \sum_n p_n r_{nm} (z_{nm}^2 - 1)

        This is the gradient of the mean log-density. The gradients of centre and log-scale are divided by the
        information :math:`t_m / \sigma_m^2` and :math:`2 t_m` of the observations that the component is responsible
        for. A component that is responsible for no observation does not move.

        Args:
            x: (N,) levels.
            u: (N,) noise, or zeros.
            p: (N,) weights that sum to one.
            size: the step size, below 1.
        """
        z, log_parts = self._log_parts(x, u)
        r = np.exp(log_parts - log_parts.max(-1)[:, None])  # (N, M)
        r *= (p / r.sum(-1))[:, None]
        total = r.sum(0)
        share = np.divide(r, total, out=np.zeros_like(r), where=total > 0)
        shift = (share * z).sum(0) * np.exp(self.log_scales)
        log_scale = 0.5 * (np.einsum("nm,nm->m", share * z, z) - share.sum(0))
        self.weights = self.weights + size * (total - self.weights)
        self.shifts = self.shifts + size * shift
        self.log_scales = self.log_scales + size * log_scale


@dataclass(frozen=True)
class Collapse:
    """The results of both fits.

    Attributes:
        rows: step, ``raw_bits`` and ``dequantized_bits``: the cross entropies per sub-pixel, in bits.
        mass_bits: cross entropy of the masses Q of the final dequantized fit: its true bits per dimension.
        smallest_scale: smallest scale of the final raw fit, in levels.
        quadrature_error: change of the last ``dequantized_bits`` if the number of nodes is doubled.
    """

    rows: list[dict[str, float]]
    mass_bits: float
    smallest_scale: float
    quadrature_error: float


def fit_both(p: np.ndarray, n_steps: int, step_size: float, generator: np.random.Generator) -> Collapse:
    """Fit the mixture to levels and to dequantized levels.

    Args:
        p: (L,) probabilities of the levels; a level with probability zero gets no component.
        n_steps: number of steps of both fits.
        step_size: step size of both fits, below 1.
        generator: source of randomness for the noise.
    """
    levels = np.flatnonzero(p)
    p = p[levels]
    x, nothing = levels.astype(np.float64), np.zeros(len(levels))
    raw, dequantized = NormalMixture.start(levels), NormalMixture.start(levels)
    n_draws = max(1, N_DRAWS // len(x))
    x_drawn, p_drawn = np.tile(x, n_draws), np.tile(p / n_draws, n_draws)
    recorded = set(np.linspace(0, n_steps, min(N_RECORDED, n_steps) + 1).round().astype(int).tolist())
    rows: list[dict[str, float]] = []
    for step in range(n_steps + 1):
        if step in recorded:
            raw_nats = -float(p @ raw.log_density(x, nothing))
            bits = nats_to_bits(np.array([raw_nats, dequantized_cross_entropy(dequantized, x, p)[0]]))
            rows.append({"step": step, "raw_bits": float(bits[0]), "dequantized_bits": float(bits[1])})
        if step < n_steps:
            raw.step(x, nothing, p, step_size)
            dequantized.step(x_drawn, generator.random(len(x_drawn)), p_drawn, step_size)
    _, mass_nats = dequantized_cross_entropy(dequantized, x, p)
    finer, _ = dequantized_cross_entropy(dequantized, x, p, 2 * N_NODES)
    return Collapse(
        rows=rows,
        mass_bits=nats_to_bits(mass_nats),
        smallest_scale=float(np.exp(raw.log_scales.min())),
        quadrature_error=abs(nats_to_bits(finer) - rows[-1]["dequantized_bits"]),
    )


def dequantized_cross_entropy(
    mixture: NormalMixture, x: np.ndarray, p: np.ndarray, n_nodes: int = N_NODES
) -> tuple[float, float]:
    r"""Return :math:`-E_{P,u} \log p(x + u)` and :math:`-E_P \log Q(x)` in nats, both by Gauss-Legendre quadrature.

    Both integrals use the same nodes in each cell. Since Jensen's inequality also holds for sums, the first is never
    below the second, for any number of nodes.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    u, w = np.tile((nodes + 1) / 2, len(x)), weights / 2
    log_p = mixture.log_density(np.repeat(x, n_nodes), u).reshape(len(x), n_nodes)
    return -float(p @ (log_p @ w)), -float(p @ _log_sum_exp(log_p + np.log(w)))


def entropy(p: np.ndarray) -> float:
    r"""Return :math:`H(P) = -\sum_x P(x) \log P(x)` in nats; levels with probability zero add nothing."""
    p = p[p > 0]
    return -float(p @ np.log(p))


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """Return the logarithm of the sum of exponentials over the last axis."""
    largest = values.max(-1)
    return largest + np.log(np.exp(values - largest[..., None]).sum(-1))
