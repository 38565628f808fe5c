r"""Dequantization: noise in [0, 1) as the latent variable that ties a density to a mass on integers.

With any noise density r(u given x) on [0, 1)^D,

.. math:: P(x) = \int p\Big(\frac{x+u}{L}\Big) L^{-D} \, du
               = \mathbb E_{u \sim r} \Big[ \frac{p((x+u)/L)}{L^D \, r(u|x)} \Big]

so that log p - D log L - log r is a log-weight (Theis, van den Oord and Bethge 2016, eq. 4-7;
Hoogeboom et al. 2020 for more than one draw). Uniform noise has log r = 0.

Not here yet: noise that is fixed for ever, variational noise, the logit transform.

Invariants (``tests/test_dequantization.py``):

1. The dequantized value lies in its cell [x/L, (x+1)/L) to rounding, and strictly below 1 at the top
   cell (``test_the_top_cell_stays_below_one``): in float32 (L-1+u)/L would round to 1 about once in
   150,000 draws at 256 levels, and have an infinite logit.
2. In float64 flooring gives the image back (``test_flooring_inverts``); in float32 the largest noise
   may round up to the next cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from bitsperdim.likelihoods import draw_each

MAX_LEVELS = 4096  # beyond, float32 has too few values inside a cell


class Dequantizer(nn.Module, ABC):
    """Noise with a density r(u given x) on [0, 1)^D."""

    @abstractmethod
    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw noise for each image.

        Args:
            x: (B, C, H, W) uint8.
            n_samples: K.
            generator: of the noise.
            noise: uniform noise (B, C, H, W) to use for the first of the K draws.

        Returns:
            u (K, B, C, H, W) float32 in [0, 1), and log r(u given x) (K, B) in nats.
        """


class UniformDequantizer(Dequantizer):
    """Independent uniform noise: log r = 0."""

    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw u uniformly from [0, 1)."""
        like = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        given = [] if noise is None else [noise.to(like)[None]]
        n_drawn = n_samples - len(given)
        drawn = [draw_each(torch.rand, n_drawn, like, generator)] if n_drawn else []
        u = torch.cat([*given, *drawn])
        return u, torch.zeros(u.shape[:2], device=x.device)


def dequantize(x: Tensor, u: Tensor, n_levels: int, dtype: torch.dtype) -> Tensor:
    """Return (x + u) / L in ``dtype``, always inside [0, 1); ``x`` broadcasts against ``u``."""
    exact = (x.double() + u.double()) / n_levels
    below_one = 1 - torch.finfo(dtype).eps / 2  # the largest value below 1
    return exact.to(dtype).clamp(max=below_one)
