"""Typed parameters of the multivariate normal density."""

from __future__ import annotations

import math
from typing import Literal

from bitsperdim.config.families.base import FamilySection


class GaussianSection(FamilySection):
    """A multivariate normal density for dequantized images, fitted in closed form."""

    network = "bitsperdim.models.gaussian.Gaussian"
    family: Literal["gaussian"]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of entries of the covariance matrix."""
        return math.prod(shape) ** 2
