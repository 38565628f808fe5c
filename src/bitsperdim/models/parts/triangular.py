r"""The sequential proposal: noise in a cell drawn one dimension after the other, by the density itself.

A triangular map to a standard normal, z_i = T_i(y_i; y_1, ..., y_{i-1}) rising in y_i, has conditionals with known
distribution functions :math:`\Phi(T_i)`. In the cell :math:`a_i < y_i < b_i` of an image

.. math:: z_i \sim \mathcal N(0, 1) \text{ truncated to } \big(T_i(a_i), T_i(b_i)\big), \quad y_i = T_i^{-1}(z_i),
          \qquad w = \prod_i \Big[ \Phi\big(T_i(b_i)\big) - \Phi\big(T_i(a_i)\big) \Big]

each given the values drawn before it. E[w] is the mass of the cell, whatever the map. This is the simulator of Geweke
(1991), Hajivassiliou and McFadden (1998) and Keane (1994), GHK for short. Nothing of w depends on the last value, and
where the dimensions are independent nothing on any: then one weight is exact.

**Shifted numbers.** What the last dimensions say of the first is in the weights alone. So the numbers that decide where
in its interval each z_i is may be shifted on the scale of a normal, by an amount s for each image and dimension,

.. math:: v = \Phi(\epsilon + s), \quad \epsilon \sim \mathcal N(0, 1), \qquad
          \log w \mathrel{-}= \sum_i s_i \epsilon_i + \tfrac12 s_i^2

which leaves E[w] as it is (without a shift weights are at most one). :func:`shift_of` learns s from draws that are
thrown away: the mean of epsilon under their weights, shrunk to zero as far as it is noise (James and Stein 1961).

Maps, edges and masses are float64, whatever the dtype of the networks.

Invariants (``tests/models/test_triangular.py``): E[w] is the mass of the cell, against quadrature and
:func:`scipy.stats.multivariate_normal` (``test_weights_average_to_the_mass_of_the_cell``,
``test_masses_of_a_correlated_normal``); independent dimensions are exact (``test_independent_dimensions_are_exact``);
draws stay in their cells (``test_draws_stay_in_their_cells``); a shift, whatever it is, leaves E[w] as it is
(``test_a_shift_leaves_the_masses``), and one that was learned makes weights vary less (``test_a_learned_shift_helps``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from bitsperdim.likelihoods.truncated import truncated_normal
from bitsperdim.models.parts.dequantization import HALF_A_STEP
from bitsperdim.models.parts.rising import Rising

LEAST_SHARE = 1 / 8  # of draws that count when a shift is learned: where fewer do, weights are tempered
TEMPERED, STEPS = 0.8, 30  # weights are taken to this power again and again, down to 0.001
OPEN = 2.0**-53  # numbers stay so far from 0 and 1


@dataclass(frozen=True)
class Shifted:
    """Sequential noise whose numbers are shifted, (D, B) float64, on the scale of a normal."""

    shift: Tensor


class TriangularMap(ABC):
    """A triangular map to the standard normal, walked through for N rows, one dimension after the other.

    Attributes:
        order: the dimensions, 0 to D-1, as the map goes through them.
    """

    order: Sequence[int]

    @abstractmethod
    def start(self, edges: Tensor, n_rows: int) -> Tensor:
        """Begin with no values given.

        Args:
            edges: (2, D, B) float64, the lower and the upper edges of cells in the coordinates of y.
            n_rows: N, of which the values will be given.

        Returns:
            The edges where the map takes its values, (2, D, B) float64; the first and last ones may be infinite.
        """

    @abstractmethod
    def conditional(self, dim: int) -> Rising:
        """Return the map of one dimension, given the values of those before it in the order."""

    @abstractmethod
    def give(self, dim: int, values: Tensor) -> None:
        """Take the values (N,) float64 of the dimension that was asked for last."""


def sequential_log_weights(walk: TriangularMap, edges: Tensor, v: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return the log-weights of images, (K, B) float64 nats.

    Args:
        walk: the map.
        edges: (2, D, B) float64, of the images' cells.
        v: (D, K, B) float64, uniform numbers in (0, 1).
        shift: (D, B) float64, of these numbers; None: none.
    """
    n_samples, n_images = v.shape[1:]
    log_w = torch.zeros_like(v[0].flatten())
    if shift is not None:
        normal, by = ndtri(v), shift[:, None]
        log_w -= (by * (normal + by / 2)).sum(0).flatten()
        v = ndtr(normal + by).clamp(OPEN, 1 - OPEN)
    edges, v = walk.start(edges, n_samples * n_images), v.flatten(1)
    for number, dim in enumerate(walk.order):
        rising, cells = walk.conditional(dim), edges[:, dim].repeat(1, n_samples)  # (2, KB)
        low, high = rising.forward(cells)
        z, log_mass = truncated_normal(low, high, v[dim])
        log_w += log_mass
        if number < len(walk.order) - 1:
            walk.give(dim, torch.minimum(torch.maximum(rising.inverse(z[None])[0], cells[0]), cells[1]))
    return log_w.unflatten(0, (n_samples, n_images))


def shift_of(v: Tensor, log_w: Tensor) -> Tensor:
    """Return a shift that was learned from draws without one, (D, B) float64; zero where they say nothing.

    Args:
        v: (D, K, B) their numbers, float32 or float64.
        log_w: (K, B) their log-weights.
    """
    power = torch.ones_like(log_w[0])
    for _ in range(STEPS):
        shares = torch.softmax(power * log_w, 0)
        n_counting = 1 / shares.square().sum(0)
        power = torch.where(n_counting < LEAST_SHARE * len(log_w), TEMPERED * power, power)
    normal = ndtri(v.double().clamp(HALF_A_STEP, 1 - HALF_A_STEP))  # float32 numbers may have been rounded to 1
    mean = (shares * normal).sum(1)
    of_noise = len(mean) / n_counting / mean.square().sum(0)  # share of the squares that chance alone would make
    return torch.nan_to_num((1 - of_noise).clamp(min=0) * mean)
