"""Typed parameters of the autoregressive flow."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from bitsperdim.config.families.base import DequantizedSection, Size, dense


class FlowSection(DequantizedSection):
    """An autoregressive flow for dequantized images: affine (maf) or with monotonic splines (nsf)."""

    network = "bitsperdim.models.flow.Flow"
    family: Literal["flow"]
    transform: Literal["maf", "nsf"] = "nsf"
    n_transforms: Annotated[int, Field(ge=1, le=1_000)] = 1
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)] = [256]
    n_bins: Annotated[int, Field(ge=2, le=1_000)] = 8

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights, including masked weights and those of learned noise."""
        n_dims = math.prod(shape)
        n_outputs = n_dims * (2 if self.transform == "maf" else 3 * self.n_bins - 1)
        return self.n_transforms * dense([n_dims, *self.hidden_sizes, n_outputs]) + self.weights_of_noise(shape)
