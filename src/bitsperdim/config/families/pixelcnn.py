"""Typed parameters of the PixelCNN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bitsperdim.config.families.base import EvenSize, MaskedSection, odd


class PixelCNNSection(MaskedSection):
    """A PixelCNN with masked convolutions."""

    network = "bitsperdim.models.pixelcnn.PixelCNN"
    family: Literal["pixelcnn"]
    n_filters: EvenSize = 64
    n_blocks: Annotated[int, Field(ge=1, le=1_000)] = 4
    kernel_size: Annotated[int, Field(ge=3, le=101), AfterValidator(odd)] = 7

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the first convolution, the blocks and the outputs."""
        ends = shape[0] * self.kernel_size * (self.kernel_size // 2 + 1) + self.n_outputs(shape, n_levels)
        return self.n_filters * ends + (5 * self.n_blocks + 2) * self.n_filters**2 // 2
