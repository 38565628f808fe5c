r"""A convolutional variational autoencoder for grey and colour images.

.. math:: p(z) = \mathcal N(0, I), \quad q(z \mid x) = \mathcal N(\mu(x), \mathrm{diag}\, s(x)^2), \quad
          p(x \mid z) = \prod_d p(x_d \mid z)

With coupled channels, the product is over pixels. z is a small map with ``latent_maps`` channels at the coarsest of
``n_scales`` scales. Encoder and decoder are residual networks without normalisation, as in the ResNet VAE of
Kingma et al. 2016 ("Improved Variational Inference with Inverse Autoregressive Flow", section 5), but with one
stochastic layer.

Differences from that paper: one stochastic layer instead of a ladder; no inverse autoregressive flow; no weight
normalisation, but residual branches that start at zero.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import DiagonalNormal, Likelihood, build_head
from bitsperdim.models.base import in_full_precision, level_counts
from bitsperdim.models.latent import LatentModel, LatentNormal


class ResidualBlock(nn.Module):
    """A residual block with two convolutions, each after an exponential linear unit; the second starts at zero."""

    def __init__(self, n_filters: int) -> None:
        """Build the convolutions."""
        super().__init__()
        self.first = nn.Conv2d(n_filters, n_filters, 3, padding=1)
        self.second = nn.Conv2d(n_filters, n_filters, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]  # the convolution has a bias

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, n, H, W)."""
        return x + self.second(F.elu(self.first(F.elu(x))))


class Upsampling(nn.Module):
    """A change of the map size by nearest-neighbour interpolation, followed by a convolution."""

    def __init__(self, n_filters: int, size: tuple[int, int]) -> None:
        """Build the convolution."""
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(n_filters, n_filters, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, n, *size)."""
        return self.convolution(F.interpolate(x, size=self.size, mode="nearest"))


class ConvVAE(LatentModel):
    """A convolutional VAE with one stochastic layer.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        latent_maps: number of channels of z.
        n_scales: number of scales; the sides of z are those of the image, halved ``n_scales`` - 1 times and rounded up.
        n_filters: number of channels of every hidden map.
        n_blocks: number of residual blocks at each scale of the encoder, and of the decoder.
        likelihood: name of the likelihood, a key of :data:`bitsperdim.likelihoods.HEADS`.
        n_mixtures: number of components of the likelihood, if it is a mixture.
        doubly_reparameterized: see :class:`bitsperdim.models.latent.LatentModel`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        latent_maps: int,
        n_scales: int,
        n_filters: int,
        n_blocks: int,
        likelihood: str,
        n_mixtures: int,
        doubly_reparameterized: bool,
    ) -> None:
        """Build encoder and decoder."""
        super().__init__(image_shape, n_levels)
        channels, height, width = image_shape
        self.doubly_reparameterized = doubly_reparameterized
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        sizes = [(-(-height // 2**scale), -(-width // 2**scale)) for scale in range(n_scales)]
        self.latent_shape = (latent_maps, *sizes[-1])

        def blocks() -> list[nn.Module]:
            return [ResidualBlock(n_filters) for _ in range(n_blocks)]

        down: list[nn.Module] = [nn.Conv2d(channels, n_filters, 3, padding=1), *blocks()]
        for _ in sizes[1:]:
            down += [nn.ELU(), nn.Conv2d(n_filters, n_filters, 3, stride=2, padding=1), *blocks()]
        self.encoder = nn.Sequential(*down, nn.ELU(), nn.Conv2d(n_filters, 2 * latent_maps, 1))
        up: list[nn.Module] = [nn.Conv2d(latent_maps, n_filters, 1), *blocks()]
        for _, size in pairwise(reversed(sizes)):
            up += [nn.ELU(), Upsampling(n_filters, size), *blocks()]
        self.decoder = nn.Sequential(*up, nn.ELU())
        self.to_outputs = nn.Conv2d(n_filters, self.head.n_groups * self.head.n_outputs, 1)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Set the output biases to the marginals of each channel."""
        counts = level_counts(images, self.n_levels).sum((1, 2), keepdim=True)  # (C, 1, 1, L)
        with torch.no_grad():
            self.to_outputs.bias.copy_(self.head.biases(counts).flatten())  # type: ignore[union-attr]  # it has a bias

    def prior(self) -> LatentNormal:
        """Return the standard normal prior, shape (Z,)."""
        like = self.to_outputs.weight
        zeros = torch.zeros(self.latent_shape, dtype=like.dtype, device=like.device).flatten()
        return DiagonalNormal(zeros, zeros)

    def encode(self, x: Tensor) -> LatentNormal:
        """Return q(z given x), shape (B, Z)."""
        hidden, last = self.encoder[:-1](self.scaled(x)), self.encoder[-1]
        mean, log_scale = in_full_precision(last, hidden).chunk(2, 1)
        return DiagonalNormal(mean.flatten(1), log_scale.flatten(1))

    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z), batch shape (K, B, C, H, W)."""
        maps = z.flatten(0, 1).unflatten(1, self.latent_shape)
        outputs = in_full_precision(self.to_outputs, self.decoder(maps))
        outputs = outputs.unflatten(1, (self.head.n_groups, self.head.n_outputs))
        return self.head(outputs.permute(0, 1, 3, 4, 2).unflatten(0, z.shape[:2]))  # (K, B, G, H, W, n)
