"""Densities on the unit cube, which noise of a dequantizer ties to masses of whole numbers.

Invariants: those of :mod:`bitsperdim.models.base`, by ``tests/models/test_flows.py``.
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

NoiseFrom = Literal["own", "sequential"] | Shifted | Dequantizer  # another dequantizer: one fitted to the density
NoiseName = Literal["uniform", "variational", "sequential", "fitted"]


class DensityModel(ImageModel):
    r"""A density p(y) of dequantized images y = (x + u) / L in [0, 1)^D.

    .. math:: \log w_k = \log p\Big(\frac{x + u_k}{L}\Big) - D \log L - \log r(u_k \mid x), \qquad u_k \sim r(u \mid x)

    P(x), the mass of the cell, is that of the density alone. Noise is a proposal for it, also learned noise that the
    density was trained with: any other that reaches the whole cell is a proposal for the same P(x).

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

    @property
    def is_triangular(self) -> bool:
        """Whether the density is one triangular map to a standard normal: then noise may be drawn sequentially."""
        return False

    def triangular(self) -> TriangularMap:
        """Return that map.

        Raises:
            ValueError: the density is no single triangular map.
        """
        raise ValueError(f"sequential noise needs a density that is one triangular map, not {type(self).__name__}")

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
        noise_from: NoiseFrom = "own",
    ) -> Tensor:
        """Return log w for u ~ r(u given x), (K, B) in nats; without noise the density at the middle of the cell.

        Args:
            x: as of :meth:`ImageModel.log_weights`, and so are the others.
            n_samples: K.
            labels: of no use here.
            generator: of all randomness.
            noise: of the first rows.
            noise_from: ``own`` for the noise of the model's training; ``sequential``, perhaps shifted, which
                :mod:`bitsperdim.models.parts.triangular` describes, without derivatives; or another dequantizer.

        Raises:
            ValueError: sequential noise, of a density that is no single triangular map.
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
        """Return what noise is called; None where there is none."""
        if noise_from == "sequential" or isinstance(noise_from, Shifted):
            return "sequential"
        if noise_from != "own":
            return "fitted"
        if not self.dequantizer.is_noise:
            return None
        return "variational" if isinstance(self.dequantizer, VariationalDequantizer) else "uniform"

    @torch.no_grad()
    def shifted(self, x: Tensor, n_samples: int, at_once: int, generator: torch.Generator | None) -> Shifted:
        """Return sequential noise with a shift for each image, learned from draws that are thrown away.

        Args:
            x: (B, C, H, W), checked.
            n_samples: drawn of each image.
            at_once: samples at a time.
            generator: of the draws.

        Raises:
            ValueError: the density is no single triangular map.
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
    """Return (D, K, B) of (K, B, C, H, W)."""
    return v.flatten(2).movedim(2, 0)
