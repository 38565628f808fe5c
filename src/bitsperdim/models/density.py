"""Densities on the unit cube; dequantization noise connects them with probability masses of images.

Invariants: see :mod:`bitsperdim.models.base`; tested by ``tests/models/test_flows.py``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from bitsperdim.models.base import ImageModel, Kind
from bitsperdim.models.inputs import check_noise
from bitsperdim.models.parts.dequantization import (
    MAX_LEVELS,
    Dequantizer,
    VariationalDequantizer,
    dequantize,
    uniform,
)
from bitsperdim.models.parts.triangular import Shifted, TriangularMap, sequential_log_weights, shift_of

NoiseFrom = Literal["own", "sequential"] | Shifted | Dequantizer  # a Dequantizer: one fitted to the density
NoiseName = Literal["uniform", "truncated_normal", "gaussian", "variational", "sequential", "fitted"]


class DensityModel(ImageModel):
    r"""A density p(y) of dequantized images y = (x + u) / L in [0, 1)^D.

    .. math:: \log w_k = \log p\Big(\frac{x + u_k}{L}\Big) - D \log L - \log r(u_k \mid x), \qquad u_k \sim r(u \mid x)

    P(x), the mass of the cell of x, depends only on the density. The noise distribution is a proposal for P(x), even
    if it was learned together with the density. Any other noise distribution that covers the whole cell is a proposal
    for the same P(x).

    Raises:
        ValueError: there are more than 4,096 levels, so that float32 is too coarse for noise within a level.
    """

    dequantizer: Dequantizer
    fits_noise: bool = False  # whether a conditional flow is fitted as noise, whatever the parameters say

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int) -> None:
        """Store the shape and the levels of the images, and refuse more than 4,096 levels."""
        super().__init__(image_shape, n_levels)
        if n_levels > MAX_LEVELS:
            raise ValueError(f"a density model takes at most {MAX_LEVELS} levels, not {n_levels}")

    @property
    def kind(self) -> Kind:
        """Kind of the result: ``density`` without dequantization noise, otherwise ``lower``."""
        return "lower" if self.dequantizer.is_noise else "density"

    @property
    def keeps_noise(self) -> bool:
        """Whether the dequantizer gives each training image fixed noise."""
        return self.dequantizer.is_fixed

    @property
    def is_triangular(self) -> bool:
        """Whether the density is a single triangular map to a standard normal, so that noise can be sequential."""
        return False

    def triangular(self) -> TriangularMap:
        """Return the triangular map to a standard normal.

        Raises:
            ValueError: the density is not a single triangular map.
        """
        raise ValueError(f"sequential noise needs a density that is one triangular map, not {type(self).__name__}")

    def check(self, x: Tensor, labels: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Check images, labels and noise: see :meth:`ImageModel.check`."""
        super().check(x, labels, noise)
        if noise is not None:
            check_noise(noise, x.shape)

    @abstractmethod
    def log_density(self, y: Tensor) -> Tensor:
        """Return log p(y) in nats, (B,), for y (B, C, H, W) float64 in (0, 1)."""

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        noise_from: NoiseFrom = "own",
    ) -> Tensor:
        """Return log w in nats, (K, B), for u ~ r(u given x); without noise, the density at the middle of the cell.

        Args:
            x: images, see :meth:`ImageModel.log_weights`.
            n_samples: number of samples K.
            labels: not used.
            generator: random number generator for all draws.
            noise: uniform noise for the first rows, see :meth:`ImageModel.log_weights`.
            noise_from: source of the noise: ``own`` is the dequantizer that the model is trained with; ``sequential``
                or a :class:`~bitsperdim.models.parts.triangular.Shifted` is the sequential proposal, which has no
                derivatives (:mod:`bitsperdim.models.parts.triangular`); otherwise another dequantizer.

        Raises:
            ValueError: the noise is sequential, but the density is not a single triangular map.
        """
        if noise_from == "sequential" or isinstance(noise_from, Shifted):
            v = uniform(x, n_samples, generator, noise)
            return self._sequential_log_weights(x, v, noise_from.shift if isinstance(noise_from, Shifted) else None)
        dequantizer = self.dequantizer if noise_from == "own" else noise_from
        n_samples = n_samples if dequantizer.is_noise else 1
        u, log_r_u_given_x = dequantizer(x, n_samples, generator=generator, noise=noise)
        y = dequantize(x, u, self.n_levels)  # (K, B, C, H, W)
        log_density = self.log_density(y.flatten(0, 1)).unflatten(0, y.shape[:2])  # (K, B)
        return log_density - self.n_dims * math.log(self.n_levels) - log_r_u_given_x

    def name_of_noise(self, noise_from: NoiseFrom) -> NoiseName | None:
        """Return the name of the noise; None if there is no noise."""
        if noise_from == "sequential" or isinstance(noise_from, Shifted):
            return "sequential"
        if noise_from != "own":
            return "fitted"
        if not self.dequantizer.is_noise:
            return None
        return "variational" if isinstance(self.dequantizer, VariationalDequantizer) else "uniform"

    @torch.no_grad()
    def shifted(self, x: Tensor, n_samples: int, at_once: int, generator: torch.Generator | None) -> Shifted:
        """Return sequential noise with a shift for each image; the shift is learned from draws used for nothing else.

        Args:
            x: images (B, C, H, W), already checked.
            n_samples: number of samples for each image.
            at_once: number of samples computed at a time.
            generator: random number generator for the draws.

        Raises:
            ValueError: the density is not a single triangular map.
        """
        numbers, log_w = [], []
        for first in range(0, n_samples, at_once):
            v = uniform(x, min(at_once, n_samples - first), generator, None)
            log_w.append(self._sequential_log_weights(x, v, None))
            numbers.append(v.float())
        return Shifted(shift_of(_by_dimension(torch.cat(numbers)), torch.cat(log_w)))

    @torch.no_grad()
    def _sequential_log_weights(self, x: Tensor, v: Tensor, shift: Tensor | None) -> Tensor:
        levels = x.flatten(1).T.double()
        edges = torch.stack([levels, levels + 1]) / self.n_levels
        return sequential_log_weights(self.triangular(), edges, _by_dimension(v), shift)


def _by_dimension(v: Tensor) -> Tensor:
    """Reshape (K, B, C, H, W) to (D, K, B)."""
    return v.flatten(2).movedim(2, 0)
