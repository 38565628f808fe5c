r"""Increasing maps of the real line with their inverses, in float64, with a separate map for each of N rows.

The maps are affine, or rational-quadratic splines that are the identity outside [-5, 5] (Durkan et al. 2019). They
equal the maps of zuko, which are used in training. Here the parameters come first and the rows last, which is several
times as fast if each row has its own map.

Invariants (``tests/models/test_triangular.py``): the maps equal those of zuko, and the inverses invert
(``test_maps_are_those_of_zuko``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

BOUND = 5.0  # as in zuko: splines map [-5, 5]
SLOPE = 1e-3  # as in zuko: the derivatives of all maps are at least 1e-3


class Rising(ABC):
    """An increasing map for each of N rows."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return y (M, N) for M values of each row, x (M, N) float64; the values may be infinite."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return x (M, N) for y (M, N) float64."""


class Affine(Rising):
    """The affine map y = scale x + shift.

    Args:
        scale: positive scale, (N,) float64 or a scalar.
        shift: shift, (N,) float64.
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        """Store scale and shift."""
        self.scale, self.shift = scale, shift

    @classmethod
    def of_raw(cls, raw: Tensor) -> Affine:
        """Return the map with unconstrained parameters (2, N): shift and log-scale."""
        return cls(torch.exp(_bounded(raw[1].double(), 1)), raw[0].double())

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        return self.scale * x + self.shift

    def inverse(self, y: Tensor) -> Tensor:
        """Return x."""
        return (y - self.shift) / self.scale


class Spline(Rising):
    """A rational-quadratic spline.

    Args:
        raw: unconstrained widths and heights of the bins and derivatives at the inner knots, (3 n_bins - 1, N).
        n_bins: number of bins of each spline.
    """

    def __init__(self, raw: Tensor, n_bins: int) -> None:
        """Compute the knots, in the dtype of the parameters."""
        shares = torch.exp(_bounded(raw[: 2 * n_bins], 2)).unflatten(0, (2, n_bins))
        below = shares.cumsum(1)
        self.knots = raw.new_empty(3, n_bins + 1, raw.shape[1])  # x, y and derivative at each knot
        self.knots[:2, 0], self.knots[2, 0], self.knots[2, -1] = -BOUND, 1.0, 1.0
        self.knots[:2, 1:] = below * (2 * BOUND / below[:, -1:]) - BOUND
        self.knots[2, 1:-1] = torch.exp(_bounded(raw[2 * n_bins :], 1))

    def _around(self, values: Tensor, axis: int) -> tuple[Tensor, ...]:
        """Return x, y and derivative at the knot before each value, width and height of the bin, and end derivative."""
        bin_ = (self.knots[axis, 1:-1, None] < values).sum(0)  # (M, N)
        (x0, y0, d0), (x1, y1, d1) = (self.knots.gather(1, at.expand(3, -1, -1)).double() for at in (bin_, bin_ + 1))
        return x0, y0, d0, x1 - x0, y1 - y0, d1

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        x0, y0, d0, width, height, d1 = self._around(x, 0)
        slope, t = height / width, (x - x0) / width
        cross = t * (1 - t)
        y = y0 + height * (slope * t * t + d0 * cross) / (slope + (d0 + d1 - 2 * slope) * cross)
        return torch.where(x.abs() < BOUND, y, x)

    def inverse(self, y: Tensor) -> Tensor:
        """Return x, the root of a quadratic equation that lies in the bin."""
        x0, y0, d0, width, height, d1 = self._around(y, 1)
        slope, above = height / width, y - y0
        bend = above * (d0 + d1 - 2 * slope)
        a, b, c = height * (slope - d0) + bend, height * d0 - bend, -slope * above
        x = x0 + width * (2 * c / (-b - (b * b - 4 * a * c).sqrt()))
        return torch.where(y.abs() < BOUND, x, y)


def _bounded(raw: Tensor, n_times: int) -> Tensor:
    """Return logarithms with absolute values of at most log(1 / SLOPE) / n_times."""
    return raw / (1 + (raw * (n_times / math.log(SLOPE))).abs())
