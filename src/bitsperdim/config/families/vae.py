"""Typed parameters of the variational autoencoder with fully connected layers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from bitsperdim.config.families.base import LatentSection, Section, Size, dense


class StochasticLayer(Section):
    """A further stochastic layer of a VAE, with the hidden layers of its encoder."""

    latent_size: Size
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]


class VAESection(LatentSection):
    """A variational autoencoder with fully connected layers."""

    network = "bitsperdim.models.vae.VAE"
    family: Literal["vae"]
    latent_size: Size = 16
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)] = [200, 200]
    deeper: Annotated[list[StochasticLayer], Field(max_length=16)] = []

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of all encoders and decoders."""
        n_outputs = shape[1] * shape[2] * self.n_outputs(shape, n_levels)
        first = [*self.hidden_sizes, self.latent_size]
        total = dense([math.prod(shape), *first]) + dense([n_outputs, *first])
        below = self.latent_size
        for layer in self.deeper:
            total += 2 * dense([below, *layer.hidden_sizes, layer.latent_size])
            below = layer.latent_size
        return total
