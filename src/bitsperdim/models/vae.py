r"""The variational autoencoder, and with more samples in its objective the importance-weighted one.

Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016 ("Importance Weighted Autoencoders",
eq. 8): the same network, trained on log of the mean of k weights, k = 1 for the VAE.

.. math:: p(z) = \mathcal N(0, I), \quad q(z \mid x) = \mathcal N(\mu(x), \mathrm{diag}\, s(x)^2), \quad
          p(x \mid z) = \prod_d p(x_d \mid z)

Encoder and decoder are fully connected with tanh, as in Burda et al. section 5.

Differences from the paper: the encoder sees the image scaled to [-1, 1] minus the mean training image
(without that, the common background drowns the rest: static MNIST is 3 nats worse after 25 epochs, by
validation); images of more than two levels have a softmax or a discretized density per sub-pixel; biases
of the output start at the marginals of the training images for these too; initial weights are torch's.

Not here yet: two stochastic layers, convolutions, the doubly reparameterized gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bitsperdim.likelihoods import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    DiscretizedLogistic,
    DiscretizedNormal,
    Likelihood,
    at_least_float32,
)
from bitsperdim.models.base import LatentModel, level_counts

LIKELIHOODS = ("bernoulli", "categorical", "logistic", "normal")
DISCRETIZED = {"logistic": DiscretizedLogistic, "normal": DiscretizedNormal}
# of a standard density, by which a scale is told from the standard deviation of the training images
STANDARD_DEVIATION = {"logistic": math.pi / math.sqrt(3), "normal": 1.0}


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
        likelihood: ``bernoulli`` (two levels only), ``categorical``, or ``logistic`` or ``normal``: discretized
            densities with a location and a scale for each sub-pixel.
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
    ) -> None:
        """Build encoder and decoder."""
        super().__init__(image_shape, n_levels)
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, not {likelihood!r}")
        if likelihood == "bernoulli" and n_levels != 2:
            raise ValueError(f"a Bernoulli likelihood has 2 levels, not {n_levels}")
        self.latent_size = latent_size
        self.likelihood = likelihood
        n_outputs = {"bernoulli": 1, "categorical": n_levels}.get(likelihood, 2)
        self.encoder = mlp([self.n_dims, *hidden_sizes])
        self.to_mean = nn.Linear(hidden_sizes[-1], latent_size)
        self.to_log_scale = nn.Linear(hidden_sizes[-1], latent_size)
        self.decoder = mlp([latent_size, *reversed(hidden_sizes)])
        self.to_outputs = nn.Linear(hidden_sizes[0], self.n_dims * n_outputs)
        self.register_buffer("centre", torch.zeros(self.n_dims))

    def initialise(self, images: Tensor) -> None:
        """Take the mean training image, and start the output biases at the marginals.

        For a Bernoulli or categorical likelihood these are the shares of the levels as if each had been seen once
        more, for a discretized density the mean and the standard deviation.
        """
        counts = level_counts(images, self.n_levels).flatten(0, 2)  # (D, L)
        levels = torch.arange(self.n_levels, device=counts.device, dtype=torch.float64)
        mean = counts.double() @ levels / len(images)
        log_masses = ((counts.double() + 1) / (len(images) + self.n_levels)).log()
        if self.likelihood == "bernoulli":
            biases = log_masses[:, 1] - log_masses[:, 0]
        elif self.likelihood == "categorical":
            biases = log_masses.flatten()
        else:
            # 1/12 is the variance inside a cell
            variance = counts.double() @ levels.square() / len(images) - mean.square() + 1 / 12
            log_scale = (variance.sqrt() / STANDARD_DEVIATION[self.likelihood]).log()
            biases = torch.stack([mean / self.half_range - 1, log_scale - math.log(self.half_range)], dim=-1).flatten()
        with torch.no_grad():
            self.to_outputs.bias.copy_(biases)
            self.centre.copy_(self.scaled(mean))

    @property
    def half_range(self) -> float:
        """Half of the range of the levels: the unit in which the network gives locations and scales."""
        return (self.n_levels - 1) / 2

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
        outputs = self.to_outputs(self.decoder(z))  # (K, B, D * outputs)
        if self.likelihood == "bernoulli":
            return Bernoulli(outputs.unflatten(-1, self.image_shape))
        if self.likelihood == "categorical":
            return Categorical(outputs.unflatten(-1, (*self.image_shape, self.n_levels)))
        loc, log_scale = at_least_float32(outputs).unflatten(-1, (*self.image_shape, 2)).unbind(-1)
        head = DISCRETIZED[self.likelihood]
        return head((1 + loc) * self.half_range, log_scale + math.log(self.half_range), self.n_levels)
