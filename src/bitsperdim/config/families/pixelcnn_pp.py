"""Typed parameters of the PixelCNN++."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bitsperdim.config.families.base import Dropout, HeadSection, Images, Size, check_dropout
from bitsperdim.core.errors import InputError


class PixelCNNppSection(HeadSection):
    """A PixelCNN++ with two shifted streams at several scales."""

    network = "bitsperdim.models.pixelcnn_pp.PixelCNNpp"
    family: Literal["pixelcnn_pp"]
    n_filters: Size = 20
    n_blocks: Annotated[int, Field(ge=1, le=1_000)] = 1
    n_scales: Annotated[int, Field(ge=1, le=16)] = 2
    dropout: Dropout = 0.0

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the blocks of both streams, down and up the scales, and of the outputs."""
        n_blocks = self.n_scales * (2 * self.n_blocks + 1) - 1
        return 60 * n_blocks * self.n_filters**2 + self.n_filters * self.n_outputs(shape, n_levels)

    def check_images(self, name: str, images: Images) -> None:
        """Refuse likelihoods that treat channels one by one, and a dropout rate that would be rounded to 0."""
        super().check_images(name, images)
        if images.shape is not None and self.n_groups(images.shape) != 1:
            raise InputError(
                f"params.yaml: {name}.likelihood = {self.likelihood!r} is not allowed with images of "
                f"{images.shape[0]} channels; it must be 'coupled_logistic'."
            )
        check_dropout(name, self.dropout)
