"""Typed parameters of one family: a histogram of each sub-pixel."""

from __future__ import annotations

import math
from typing import Literal

from bitsperdim.config.families.base import FamilySection, PositiveFloat


class HistogramSection(FamilySection):
    """Every sub-pixel on its own: counts with a pseudocount."""

    network = "bitsperdim.models.histogram.Histogram"
    family: Literal["histogram"]
    pseudocount: PositiveFloat = 1.0

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of its counts."""
        return math.prod(shape) * n_levels
