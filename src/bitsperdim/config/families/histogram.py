"""Typed parameters of the histogram of each sub-pixel."""

from __future__ import annotations

import math
from typing import Literal

from bitsperdim.config.families.base import FamilySection, PositiveFloat


class HistogramSection(FamilySection):
    """Independent histograms of all sub-pixels: counts of the levels plus a pseudocount."""

    network = "bitsperdim.models.histogram.Histogram"
    family: Literal["histogram"]
    pseudocount: PositiveFloat = 1.0

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of counts."""
        return math.prod(shape) * n_levels
