"""Typed parameters of the convolutional variational autoencoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bitsperdim.config.families.base import LatentSection, Size


class ConvVAESection(LatentSection):
    """A convolutional variational autoencoder."""

    network = "bitsperdim.models.conv_vae.ConvVAE"
    family: Literal["conv_vae"]
    latent_maps: Size = 4
    n_scales: Annotated[int, Field(ge=1, le=16)] = 3
    n_filters: Size = 32
    n_blocks: Annotated[int, Field(ge=0, le=1_000)] = 1

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the 3x3 convolutions between hidden maps, and of the last layers."""
        n_convolutions = 2 * (2 * self.n_scales * self.n_blocks + self.n_scales - 1)
        ends = 3 * self.latent_maps + self.n_outputs(shape, n_levels)
        return 9 * n_convolutions * self.n_filters**2 + ends * self.n_filters
