"""Typed parameters of the gated PixelCNN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bitsperdim.config.families.base import Dropout, EvenSize, Images, MaskedSection, check_classes, check_dropout, odd


class GatedPixelCNNSection(MaskedSection):
    """A gated PixelCNN with a vertical and a horizontal stack; ``n_classes`` makes it conditional on the class."""

    network = "bitsperdim.models.gated_pixelcnn.GatedPixelCNN"
    family: Literal["gated_pixelcnn"]
    n_filters: EvenSize = 32
    n_layers: Annotated[int, Field(ge=1, le=1_000)] = 4
    kernel_size: Annotated[int, Field(ge=3, le=101), AfterValidator(odd)] = 7
    n_classes: Annotated[int, Field(ge=2, le=65_536)] | None = None
    dropout: Dropout = 0.0

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the first convolution, the other layers, the classes and the outputs."""
        ends = shape[0] * self.kernel_size * (self.kernel_size - 1) + self.n_outputs(shape, n_levels)
        of_classes = 4 * self.n_layers * (self.n_classes or 0)
        return self.n_filters * (ends + of_classes) + (21 * self.n_layers + 6) * self.n_filters**2

    def check_images(self, name: str, images: Images) -> None:
        """Check that ``n_classes`` fits the labels of the images, and that dropout is not rounded to 0."""
        super().check_images(name, images)
        check_dropout(name, self.dropout)
        check_classes(name, self.n_classes, images)
