r"""The sequential proposal: noise in a cell drawn one dimension after the other, by the density itself.

A triangular map to a standard normal, z_i = T_i(y_i; y_1, ..., y_{i-1}) rising in y_i, has conditionals with known
distribution functions :math:`\Phi(T_i)`. In the cell :math:`a_i < y_i < b_i` of an image

.. math:: z_i \sim \mathcal N(0, 1) \text{ truncated to } \big(T_i(a_i), T_i(b_i)\big), \quad y_i = T_i^{-1}(z_i),
          \qquad w = \prod_i \Big[ \Phi\big(T_i(b_i)\big) - \Phi\big(T_i(a_i)\big) \Big]

each given the values drawn before it. E[w] is the mass of the cell, whatever the map. This is the simulator of Geweke
(1991), Hajivassiliou and McFadden (1998) and Keane (1994), GHK for short. Nothing of w depends on the last value, and
where the dimensions are independent nothing on any: then one weight is exact. The weights are at most one.

Maps, edges and masses are float64, whatever the dtype of the networks.

Invariants (``tests/models/test_triangular.py``): E[w] is the mass of the cell, against quadrature and
:func:`scipy.stats.multivariate_normal` (``test_weights_average_to_the_mass_of_the_cell``,
``test_masses_of_a_correlated_normal``); independent dimensions are exact (``test_independent_dimensions_are_exact``);
draws stay in their cells (``test_draws_stay_in_their_cells``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from bitsperdim.likelihoods.truncated import truncated_normal
from bitsperdim.models.parts.rising import Rising


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


def sequential_log_weights(walk: TriangularMap, edges: Tensor, v: Tensor) -> Tensor:
    """Return the log-weights of images, (K, B) float64 nats.

    Args:
        walk: the map.
        edges: (2, D, B) float64, of the images' cells.
        v: (D, K, B) float64, uniform numbers in (0, 1).
    """
    n_samples, n_images = v.shape[1:]
    edges = walk.start(edges, n_samples * n_images)
    v = v.flatten(1)
    log_w = torch.zeros_like(v[0])
    for number, dim in enumerate(walk.order):
        rising, cells = walk.conditional(dim), edges[:, dim].repeat(1, n_samples)  # (2, KB)
        low, high = rising.forward(cells)
        z, log_mass = truncated_normal(low, high, v[dim])
        log_w += log_mass
        if number < len(walk.order) - 1:
            walk.give(dim, torch.minimum(torch.maximum(rising.inverse(z[None])[0], cells[0]), cells[1]))
    return log_w.unflatten(0, (n_samples, n_images))
