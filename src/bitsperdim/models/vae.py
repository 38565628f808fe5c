r"""The variational autoencoder, and with more samples in its objective the importance-weighted one.

Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016 ("Importance Weighted Autoencoders",
eq. 8): the same network, trained on log of the mean of k weights, k = 1 for the VAE.

.. math:: p(z) = \mathcal N(0, I), \quad q(z \mid x) = \mathcal N(\mu(x), \mathrm{diag}\, s(x)^2), \quad
          p(x \mid z) = \prod_d p(x_d \mid z)

(with coupled channels a product over pixels).

Encoder and decoder are fully connected with tanh, as in Burda et al. section 5.

Differences from the paper: the encoder sees the image scaled to [-1, 1] minus the mean training image
(without that, the common background drowns the rest: static MNIST is 3 nats worse after 25 epochs, by
validation); any likelihood that fits the images may take the place of the Bernoulli (``heads.py``), and the
biases of the output start at the marginals of the training images for these too; initial weights are torch's.

Not here yet: two stochastic layers, convolutions, the doubly reparameterized gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bitsperdim.likelihoods import DiagonalNormal, Likelihood, build_head
from bitsperdim.models.base import LatentModel, level_counts


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given sizes with a tanh after each."""
    layers: list[nn.Module] = []
    for n_inputs, n_outputs in pairwise(sizes):
        layers += [nn.Linear(n_inputs, n_outputs), nn.Tanh()]
    return nn.Sequential(*layers)


class VAE(LatentModel):
    """A VAE of fully connected layers with one stochastic layer.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        latent_size: Z.
        hidden_sizes: of the encoder, from the image on; the decoder mirrors them.
        likelihood: a key of :data:`bitsperdim.likelihoods.HEADS`.
        n_mixtures: the number of its components.
    """

    centre: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        latent_size: int,
        hidden_sizes: Sequence[int],
        likelihood: str,
        n_mixtures: int,
    ) -> None:
        """Build encoder and decoder."""
        super().__init__(image_shape, n_levels)
        channels, height, width = image_shape
        self.latent_size = latent_size
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        n_outputs = self.head.n_groups * height * width * self.head.n_outputs
        self.encoder = mlp([self.n_dims, *hidden_sizes])
        self.to_mean = nn.Linear(hidden_sizes[-1], latent_size)
        self.to_log_scale = nn.Linear(hidden_sizes[-1], latent_size)
        self.decoder = mlp([latent_size, *reversed(hidden_sizes)])
        self.to_outputs = nn.Linear(hidden_sizes[0], n_outputs)
        self.register_buffer("centre", torch.zeros(self.n_dims))

    def initialise(self, images: Tensor) -> None:
        """Take the mean training image, and start the output biases at the marginals of each sub-pixel."""
        counts = level_counts(images, self.n_levels)  # (C, H, W, L)
        levels = torch.arange(self.n_levels, device=counts.device, dtype=torch.float64)
        mean = counts.flatten(0, 2).double() @ levels / len(images)
        with torch.no_grad():
            self.to_outputs.bias.copy_(self.head.biases(counts).flatten())
            self.centre.copy_(self.scaled(mean))

    def prior(self) -> DiagonalNormal:
        """Return the standard normal."""
        zeros = torch.zeros(self.latent_size, dtype=self.to_mean.weight.dtype, device=self.to_mean.weight.device)
        return DiagonalNormal(zeros, zeros)

    def encode(self, x: Tensor) -> DiagonalNormal:
        """Return q(z given x), (B, Z)."""
        hidden = self.encoder(self.scaled(x).flatten(1) - self.centre)
        return DiagonalNormal(self.to_mean(hidden), self.to_log_scale(hidden))

    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z), batch shape (K, B, C, H, W)."""
        outputs = self.to_outputs(self.decoder(z))  # (K, B, G * H * W * outputs)
        return self.head(outputs.unflatten(-1, (self.head.n_groups, *self.image_shape[1:], self.head.n_outputs)))
