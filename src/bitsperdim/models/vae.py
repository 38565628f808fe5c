r"""The variational autoencoder (VAE); with more samples in its objective, the importance-weighted autoencoder (IWAE).

Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016 ("Importance Weighted Autoencoders", eq. 8). Both train
the same network on the log of the mean of k importance weights; k = 1 for the VAE.

.. math:: p(z_L) = \mathcal N(0, I), \quad
          p(z_l \mid z_{l+1}) = \mathcal N(\mu_l(z_{l+1}), \mathrm{diag}\, s_l(z_{l+1})^2), \quad
          p(x \mid z_1) = \prod_d p(x_d \mid z_1)

With coupled channels, the product is over pixels. The proposal
:math:`q(z \mid x) = q(z_1 \mid x) \prod_l q(z_{l+1} \mid z_l)` also consists of normals. With one stochastic layer,
L = 1.

All layers are fully connected with tanh, as in Burda et al. section 5: 784-200-200-50, and with two stochastic layers
784-200-200-100-100-100-50.

Differences from the paper:

- The encoder sees the image scaled to [-1, 1] minus the mean training image. Without the subtraction, the common
  background hides the rest, and static MNIST is 3 nats worse after 25 epochs, on the validation set.
- Any likelihood that fits the images may replace the Bernoulli (``heads.py``). The output biases start at the marginals
  of the training images for these likelihoods too.
- The recipes train with larger batches, a cosine schedule and averaged weights, for fewer epochs.

The initial weights are as in the paper: those of Glorot and Bengio 2010, with biases of zero. The initial weights of
torch are smaller. With them, the VAE of the default run is 1.0 nats worse and its IWAE is the same (three seeds, on the
validation set).

A convolutional VAE is in :mod:`bitsperdim.models.conv_vae`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitsperdim.likelihoods import (
    BernoulliHead,
    DiagonalNormal,
    Likelihood,
    NormalChain,
    bernoulli_log_prob_of_layer,
    build_head,
    learned_bernoulli_log_prob_of_layer,
    tanh_,
)
from bitsperdim.models.base import in_full_precision, level_counts
from bitsperdim.models.latent import LatentModel, LatentNormal

ROWS_AT_ONCE = 1024  # samples times images that a Bernoulli evaluates at a time, without derivatives


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given sizes with a tanh after each."""
    layers: list[nn.Module] = []
    for n_inputs, n_outputs in pairwise(sizes):
        layers += [nn.Linear(n_inputs, n_outputs), nn.Tanh()]
    return nn.Sequential(*layers)


def start_like_glorot(module: nn.Module) -> None:
    """Draw the weights of a linear layer uniformly with variance 2 / (inputs + outputs); set its biases to zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class NormalLayer(nn.Module):
    """A stochastic layer: a normal given the previous stochastic layer.

    Args:
        n_inputs: size of the previous layer.
        hidden_sizes: sizes of the hidden layers in between.
        latent_size: size of this stochastic layer.
    """

    def __init__(self, n_inputs: int, hidden_sizes: Sequence[int], latent_size: int) -> None:
        """Build the network."""
        super().__init__()
        self.hidden = mlp([n_inputs, *hidden_sizes])
        self.to_mean = nn.Linear(hidden_sizes[-1], latent_size)
        self.to_log_scale = nn.Linear(hidden_sizes[-1], latent_size)

    def forward(self, inputs: Tensor) -> DiagonalNormal:
        """Return the normal (..., Z) given inputs (..., n)."""
        hidden = self.hidden(inputs)
        return DiagonalNormal(*(in_full_precision(layer, hidden) for layer in (self.to_mean, self.to_log_scale)))

    def fixed(self, inputs: Tensor) -> DiagonalNormal:
        """Return the same normal, differentiable with respect to its inputs but not to the weights."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return cast(DiagonalNormal, functional_call(self, weights, (inputs,)))


class VAE(LatentModel):
    """A VAE of fully connected layers.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        latent_size: size of the stochastic layer next to the image.
        hidden_sizes: sizes of the hidden layers in its encoder, starting at the image; the decoder mirrors them.
        deeper: further stochastic layers, each with its ``latent_size`` and the ``hidden_sizes`` of its encoder.
        likelihood: name of the likelihood, a key of :data:`bitsperdim.likelihoods.HEADS`.
        n_mixtures: number of components of the likelihood, if it is a mixture.
        doubly_reparameterized: see :class:`bitsperdim.models.latent.LatentModel`.
    """

    centre: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        latent_size: int,
        hidden_sizes: Sequence[int],
        deeper: Sequence[Mapping[str, Any]],
        likelihood: str,
        n_mixtures: int,
        doubly_reparameterized: bool,
    ) -> None:
        """Build encoders and decoders."""
        super().__init__(image_shape, n_levels)
        channels, height, width = image_shape
        self.doubly_reparameterized = doubly_reparameterized
        self.latent_sizes = [latent_size, *(layer["latent_size"] for layer in deeper)]
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        n_outputs = self.head.n_groups * height * width * self.head.n_outputs
        all_hidden = [hidden_sizes, *(layer["hidden_sizes"] for layer in deeper)]
        inputs = [self.n_dims, *self.latent_sizes[:-1]]
        self.encoders = nn.ModuleList(
            NormalLayer(*sizes) for sizes in zip(inputs, all_hidden, self.latent_sizes, strict=True)
        )
        self.decoders = nn.ModuleList(  # one for each stochastic layer except the first, to the layer below it
            NormalLayer(above, hidden[::-1], below)
            for (below, above), hidden in zip(pairwise(self.latent_sizes), all_hidden[1:], strict=True)
        )
        self.decoder = mlp([latent_size, *reversed(hidden_sizes)])
        self.to_outputs = nn.Linear(hidden_sizes[0], n_outputs)
        self.register_buffer("centre", torch.zeros(self.n_dims))
        self.apply(start_like_glorot)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Store the mean training image, and set the output biases to the marginals of each sub-pixel."""
        counts = level_counts(images, self.n_levels)  # (C, H, W, L)
        levels = torch.arange(self.n_levels, device=counts.device, dtype=torch.float64)
        mean = counts.flatten(0, 2).double() @ levels / len(images)
        with torch.no_grad():
            self.to_outputs.bias.copy_(self.head.biases(counts).flatten())
            self.centre.copy_(self.scaled(mean))

    def prior(self) -> LatentNormal:
        """Return p(z): the standard normal, or a chain that starts at the deepest stochastic layer."""
        zeros = torch.zeros(self.latent_sizes[-1], dtype=self.to_outputs.weight.dtype, device=self.centre.device)
        first = DiagonalNormal(zeros, zeros)
        if len(self.latent_sizes) == 1:
            return first
        links = [cast(NormalLayer, layer) for layer in reversed(self.decoders)]
        return NormalChain(first, links, self.latent_sizes[::-1], is_reversed=True)

    def encode(self, x: Tensor) -> LatentNormal:
        """Return q(z given x), shape (B, Z)."""
        first, *rest = (cast(NormalLayer, layer) for layer in self.encoders)
        scale = 2 / (self.n_levels - 1)
        normal = first(torch.add(-1 - self.centre, x.flatten(1).to(self.dtype), alpha=scale))  # scaled minus centre
        return NormalChain(normal, rest, self.latent_sizes, is_reversed=False) if rest else normal

    def decode(self, z: Tensor) -> Likelihood:
        """Return p(x given z), batch shape (K, B, C, H, W)."""
        hidden = self.decoder(z[..., : self.latent_sizes[0]])
        outputs = in_full_precision(self.to_outputs, hidden)  # (K, B, G * H * W * outputs)
        return self.head(outputs.unflatten(-1, (self.head.n_groups, *self.image_shape[1:], self.head.n_outputs)))

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x given z) in nats, (K, B); for a Bernoulli, with few passes over memory.

        Without derivatives, a Bernoulli is computed from z to the result for a few samples at a time (on a CPU), so
        that hidden values stay in the cache of the processor.
        """
        if not isinstance(self.head, BernoulliHead):
            return super().log_p_x_given_z(x, z)
        layer = (self.to_outputs.weight, self.to_outputs.bias)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(z.device.type):
            hidden = self.decoder(z[..., : self.latent_sizes[0]])
            with torch.autocast(z.device.type, enabled=False):
                return learned_bernoulli_log_prob_of_layer(x, hidden.to(self.dtype), *layer)
        n_at_once = max(1, ROWS_AT_ONCE // len(x)) if z.device.type == "cpu" else len(z)
        parts = z[..., : self.latent_sizes[0]].split(n_at_once)
        workspace = z.new_empty(2, min(len(z), n_at_once) * len(x), self.n_dims)
        return torch.cat([bernoulli_log_prob_of_layer(x, self.hidden(part), *layer, workspace) for part in parts])

    def hidden(self, z: Tensor) -> Tensor:
        """Return the last hidden layer of the decoder, (K, B, n), without derivatives."""
        values = z
        for layer in self.decoder[::2]:  # the others are tanh
            values = tanh_(layer(values))
        return values
