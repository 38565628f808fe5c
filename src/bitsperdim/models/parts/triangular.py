r"""The sequential proposal: noise in a cell is drawn one dimension after the other, from the density itself.

A triangular map to a standard normal, z_i = T_i(y_i; y_1, ..., y_{i-1}), increases in y_i. Its conditionals have the
known distribution functions :math:`\Phi(T_i)`. In the cell :math:`a_i < y_i < b_i` of an image, the proposal draws

.. math:: z_i \sim \mathcal N(0, 1) \text{ truncated to } \big(T_i(a_i), T_i(b_i)\big), \quad y_i = T_i^{-1}(z_i),
          \qquad w = \prod_i \Big[ \Phi\big(T_i(b_i)\big) - \Phi\big(T_i(a_i)\big) \Big]

each given the values drawn before it. E[w] is the mass of the cell, for every map. This is the simulator of Geweke
(1991), Hajivassiliou and McFadden (1998) and Keane (1994), GHK for short. w does not depend on the last value. If the
dimensions are independent, w does not depend on any value, and one weight is exact.

**Shifted numbers.** The proposal for the first dimensions ignores the later ones; only the weights account for them.
The random numbers that place each z_i in its interval may therefore be shifted on the scale of a normal, by an amount s
for each image and dimension,

.. math:: v = \Phi(\epsilon + s), \quad \epsilon \sim \mathcal N(0, 1), \qquad
          \log w \mathrel{-}= \sum_i s_i \epsilon_i + \tfrac12 s_i^2

This does not change E[w]. (Without a shift, weights are at most one.) :func:`shift_of` learns s from draws that are
used for nothing else: s is the mean of epsilon under their weights, shrunk towards zero to remove noise (James and
Stein 1961).

Maps, edges and masses are float64, for networks of any dtype.

Invariants (``tests/models/test_triangular.py``): E[w] is the mass of the cell, compared with quadrature and
:func:`scipy.stats.multivariate_normal` (``test_weights_average_to_the_mass_of_the_cell``,
``test_masses_of_a_correlated_normal``); independent dimensions are exact (``test_independent_dimensions_are_exact``);
draws stay in their cells (``test_draws_stay_in_their_cells``); no shift changes E[w]
(``test_a_shift_leaves_the_masses``), and a learned shift makes weights vary less (``test_a_learned_shift_helps``).
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

LEAST_SHARE = 1 / 8  # smallest effective share of the draws when a shift is learned; below it, weights are tempered
TEMPERED = 0.8  # weights are repeatedly taken to this power ...
STEPS = 30  # ... at most this many times, down to a total power of 0.001
OPEN = 2.0**-53  # smallest distance of the random numbers from 0 and 1


@dataclass(frozen=True)
class Shifted:
    """Sequential noise with shifted random numbers.

    Attributes:
        shift: shift on the scale of a normal, (D, B) float64.
    """

    shift: Tensor


class TriangularMap(ABC):
    """A triangular map to the standard normal, computed for N rows, one dimension after the other.

    Attributes:
        order: the dimensions 0 to D-1 in the order of the map.
    """

    order: Sequence[int]

    @abstractmethod
    def start(self, edges: Tensor, n_rows: int) -> Tensor:
        """Start with no known values.

        Args:
            edges: lower and upper edges of the cells in the coordinates of y, (2, D, B) float64.
            n_rows: number of rows N.

        Returns:
            The edges in the coordinates in which the map takes its values, (2, D, B) float64; the outermost edges may
            be infinite.
        """

    @abstractmethod
    def conditional(self, dim: int) -> Rising:
        """Return the map for one dimension, given the values of the dimensions before it in the order."""

    @abstractmethod
    def give(self, dim: int, values: Tensor) -> None:
        """Store the values (N,) float64 of the dimension of the last call of :meth:`conditional`."""


def sequential_log_weights(walk: TriangularMap, edges: Tensor, v: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return the log-weights of images in nats, (K, B) float64.

    Args:
        walk: triangular map of the density.
        edges: edges of the cells of the images, (2, D, B) float64.
        v: uniform numbers in (0, 1), (D, K, B) float64.
        shift: shift of these numbers, (D, B) float64; None: no shift.
    """
    n_samples, n_images = v.shape[1:]
    log_w = torch.zeros_like(v[0].flatten())
    if shift is not None:
        normal = ndtri(v)
        by = shift[:, None]
        log_w -= (by * (normal + by / 2)).sum(0).flatten()
        v = ndtr(normal + by).clamp(OPEN, 1 - OPEN)
    edges = walk.start(edges, n_samples * n_images)
    v = v.flatten(1)
    for number, dim in enumerate(walk.order):
        rising = walk.conditional(dim)
        cells = edges[:, dim].repeat(1, n_samples)  # (2, KB)
        low, high = rising.forward(cells)
        z, log_mass = truncated_normal(low, high, v[dim])
        log_w += log_mass
        if number < len(walk.order) - 1:
            walk.give(dim, torch.minimum(torch.maximum(rising.inverse(z[None])[0], cells[0]), cells[1]))
    return log_w.unflatten(0, (n_samples, n_images))


def shift_of(v: Tensor, log_w: Tensor) -> Tensor:
    """Learn a shift from draws without a shift.

    Args:
        v: uniform numbers of the draws, (D, K, B) float32 or float64.
        log_w: log-weights of the draws, (K, B).

    Returns:
        The shift, (D, B) float64; zero if the draws give no information.
    """
    power = torch.ones_like(log_w[0])
    for _ in range(STEPS):
        shares = torch.softmax(power * log_w, 0)
        n_counting = 1 / shares.square().sum(0)
        power = torch.where(n_counting < LEAST_SHARE * len(log_w), TEMPERED * power, power)
    normal = ndtri(v.double().clamp(HALF_A_STEP, 1 - HALF_A_STEP))  # float32 numbers may have been rounded to 1
    mean = (shares * normal).sum(1)
    of_noise = len(mean) / n_counting / mean.square().sum(0)  # expected share of noise in the sum of squares
    return torch.nan_to_num((1 - of_noise).clamp(min=0) * mean)
