"""Densities on the unit cube, which noise of a dequantizer ties to masses of whole numbers.

Invariants: those of :mod:`bitsperdim.models.base`, by ``tests/models/test_flows.py``.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from bitsperdim.models.base import ImageModel, Kind
from bitsperdim.models.inputs import check_noise
from bitsperdim.models.parts.dequantization import MAX_LEVELS, Dequantizer, dequantize


class DensityModel(ImageModel):
    r"""A density p(y) of dequantized images y = (x + u) / L in [0, 1)^D.

    .. math:: \log w_k = \log p\Big(\frac{x + u_k}{L}\Big) - D \log L - \log r(u_k \mid x), \qquad u_k \sim r(u \mid x)

    Raises:
        ValueError: more levels than float32 can tell noise within.
    """

    dequantizer: Dequantizer

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int) -> None:
        """Refuse more than 4,096 levels."""
        super().__init__(image_shape, n_levels)
        if n_levels > MAX_LEVELS:
            raise ValueError(f"a density model takes at most {MAX_LEVELS} levels, not {n_levels}")

    @property
    def kind(self) -> Kind:
        """``density`` without dequantization noise, else ``lower``."""
        return "lower" if self.dequantizer.is_noise else "density"

    @property
    def keeps_noise(self) -> bool:
        """Whether the dequantizer is of fixed noise."""
        return self.dequantizer.is_fixed

    def check(self, x: Tensor, labels: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Refuse what is not images of this model, or not noise for them: see :meth:`ImageModel.check`."""
        super().check(x, labels, noise)
        if noise is not None:
            check_noise(noise, x.shape)

    @abstractmethod
    def log_density(self, y: Tensor) -> Tensor:
        """Return log p(y), (B,) in nats, of y (B, C, H, W) float64 in (0, 1)."""

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return log w for u ~ r(u given x), (K, B) in nats; without noise the density at the middle of the cell."""
        n_samples = n_samples if self.dequantizer.is_noise else 1
        u, log_r_u_given_x = self.dequantizer(x, n_samples, generator=generator, noise=noise)
        y = dequantize(x, u, self.n_levels)  # (K, B, C, H, W)
        log_density = self.log_density(y.flatten(0, 1)).unflatten(0, y.shape[:2])  # (K, B)
        return log_density - self.n_dims * math.log(self.n_levels) - log_r_u_given_x
