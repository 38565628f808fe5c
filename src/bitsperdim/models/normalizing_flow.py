r"""Base class of all flows: a bijection from dequantized images to a latent space with a standard normal density.

.. math:: \log p(y) = \log \mathcal N\big(f(y); 0, I\big) + \log |\det J_f(y)|

If a margin is given, the bijection begins with a logit transform. Normalisation layers are initialised on at most
``IMAGES_TO_START`` training images. "ladj" is the logarithm of the absolute value of the Jacobian determinant.

Invariants (``tests/models/test_flows.py``): the inverse inverts, also after training (``test_the_inverse_inverts``);
ladj equals that of autograd's Jacobian (``test_ladj_is_the_jacobian``); the density integrates to one
(``test_the_density_integrates_to_one``).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from bitsperdim.core.randomness import stream
from bitsperdim.likelihoods.base import as_levels
from bitsperdim.models.density import DensityModel
from bitsperdim.models.parts.bijections import Logit
from bitsperdim.models.parts.dequantization import dequantize, dequantizer

IMAGES_TO_START = 1024


class NormalizingFlow(DensityModel):
    """A density by change of variables.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        logit_margin: margin of the logit transform; None: no logit transform.
        dequantization: ``none``, ``uniform_fixed``, ``uniform`` or ``variational``.
        variational: sizes of the network for learned noise: ``n_couplings``, ``n_filters``, ``n_blocks``.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        logit_margin: float | None,
        dequantization: str,
        variational: Mapping[str, int],
    ) -> None:
        """Build the dequantizer and the logit transform."""
        super().__init__(image_shape, n_levels)
        self.logit = None if logit_margin is None else Logit(logit_margin)
        self.dequantizer = dequantizer(dequantization, image_shape, n_levels, variational)

    @abstractmethod
    def to_normal(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and ladj (B,) for values y (B, C, H, W) after the logit transform."""

    @abstractmethod
    def from_normal(self, z: Tensor) -> Tensor:
        """Return y (B, C, H, W) with ``to_normal(y)[0]`` = z (B, D)."""

    @abstractmethod
    def normalise(self, y: Tensor) -> None:
        """Initialise every normalisation with training images y (N, C, H, W) after the logit transform."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    @torch.no_grad()
    def unchecked_initialise(self, images: Tensor) -> None:
        """Initialise the normalisation layers with dequantized training images, evenly spaced in (N, C, H, W)."""
        chosen = torch.linspace(0, len(images) - 1, min(len(images), IMAGES_TO_START)).round().long()
        x = images[chosen.to(images.device)]
        u, _ = self.dequantizer(x, 1, generator=stream("start", device=x.device), noise=None)
        self.normalise(self.stretched(dequantize(x, u[0], self.n_levels))[0])

    def stretched(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images after the logit transform in the dtype of the weights, and its ladj (B,) float64."""
        if self.logit is None:
            return y.to(self.dtype), torch.zeros(len(y), dtype=torch.float64, device=y.device)
        z, ladj = self.logit(y)
        return z.to(self.dtype), ladj

    def to_latent(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and ladj (B,) float64 for y (B, C, H, W) in (0, 1)."""
        stretched, ladj = self.stretched(y)
        z, more = self.to_normal(stretched)
        return z, ladj + more

    def from_latent(self, z: Tensor) -> Tensor:
        """Return y (B, C, H, W) float64 with ``to_latent(y)[0]`` = z (B, D)."""
        y = self.from_normal(z)
        return y.double() if self.logit is None else self.logit.inverse(y)

    def log_density(self, y: Tensor) -> Tensor:
        """Return log p(y) in nats, (B,) float64, for y (B, C, H, W)."""
        z, ladj = self.to_latent(y)
        log_p_z = -0.5 * (z.double().square() + math.log(math.tau)).sum(1)
        return log_p_z + ladj

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z, invert the flow, and return the level of each value; values outside (0, 1) get the nearest level."""
        device = next(self.parameters()).device
        z = torch.randn(n_images, self.n_dims, generator=generator, dtype=self.dtype, device=device)
        levels = (self.from_latent(z) * self.n_levels).floor().clamp(0, self.n_levels - 1)
        return as_levels(levels, self.n_levels)
