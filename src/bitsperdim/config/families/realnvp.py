"""Typed parameters of the multi-scale flow of affine coupling layers (RealNVP)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bitsperdim.config.families.base import DequantizedSection, Images, Size, of_coupling
from bitsperdim.core.errors import InputError


class RealNVPSection(DequantizedSection):
    """A multi-scale flow of affine coupling layers with convolutions, for dequantized images."""

    network = "bitsperdim.models.realnvp.RealNVP"
    family: Literal["realnvp"]
    n_scales: Annotated[int, Field(ge=1, le=16)] = 2
    n_filters: Size = 16
    n_blocks: Annotated[int, Field(ge=0, le=1_000)] = 0

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of all couplings and of learned noise.

        There are four couplings at the last scale and six at each other scale.
        """
        total = self.weights_of_noise(shape)
        channels = shape[0]
        for _ in range(self.n_scales - 1):
            for n_channels in (channels, 4 * channels):
                total += 3 * of_coupling(n_channels, self.n_filters, self.n_blocks, 2 * n_channels)
            channels *= 2
        return total + 4 * of_coupling(channels, self.n_filters, self.n_blocks, 2 * channels)

    def check_images(self, name: str, images: Images) -> None:
        """Refuse more scales than the images allow: they are halved at each scale, and must keep two pixels."""
        super().check_images(name, images)
        if images.shape is None:
            return
        _, height, width = images.shape
        possible = [
            n_scales
            for n_scales in range(1, 17)
            if not height % (unit := 2 ** (n_scales - 1)) and not width % unit and height * width > unit * unit
        ]
        if self.n_scales not in possible:
            allowed = f"at most {possible[-1]}" if possible else "left out of models"
            raise InputError(
                f"params.yaml: {name}.n_scales = {self.n_scales} is not allowed with images of {height}x{width} "
                f"pixels, which are halved at each scale but the last and must keep two pixels there; "
                f"it must be {allowed}."
            )
