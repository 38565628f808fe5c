r"""Noise with the shape of the smallest step of a diffusion: a normal around the middle of each cell.

A diffusion model is a density of y = (x + u) / L where u is normal around 1/2, with the standard deviation s in units
of a cell. There are two ways to draw such noise:

====================  ==================================================================================================
``truncated_normal``  u is kept inside the cell: r(u given x) is a truncated normal, and P(x) is the mass of the cell
                      (Zheng et al. 2023, "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs")
``gaussian``          u may leave the cell; then P(x) is the integral of p(y) P(x given y), where P(x given y) is
                      proportional to the density of y around the middle of the cell of x. The log-weight is log p(y)
                      + log P(x given y) - log q(y given x)
====================  ==================================================================================================

If the terms of ``gaussian`` except log p(y) are left out, the number is not a likelihood. In published code this
mistake was worth 0.92 bits/dim (the repository Kim-Dongjun/Soft-Truncation, issues 2 and 3).

Invariants (``tests/models/test_kernel_noise.py``): both kinds of noise have their densities
(``test_truncated_noise_has_its_density``, ``test_the_weights_of_gaussian_noise_are_those_of_all_levels``), and the mean
weight is the mass of an image (``test_the_mean_weight_is_the_mass``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import ndtri

from bitsperdim.likelihoods.truncated import truncated_normal
from bitsperdim.models.parts.dequantization import Dequantizer, uniform

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
REACH = 9.0  # standard deviations; beyond them a normal has less than 1e-17 of its height


class TruncatedNormalDequantizer(Dequantizer):
    """A normal around the middle of the cell, truncated to the cell.

    Args:
        scale: standard deviation s before truncation, in units of a cell.
    """

    def __init__(self, scale: float) -> None:
        """Store the scale."""
        super().__init__()
        self.scale = scale

    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw u, and return log r(u given x)."""
        v = uniform(x, n_samples, generator, noise)
        edge = torch.full_like(v.flatten(), 0.5 / self.scale)
        z, log_mass = truncated_normal(-edge, edge, v.flatten())
        log_r = -z.square() / 2 - HALF_LOG_2PI - math.log(self.scale) - log_mass
        return 0.5 + self.scale * z.reshape(v.shape), log_r.reshape(v.shape).flatten(2).sum(2)


class GaussianDequantizer(Dequantizer):
    """A normal around the middle of the cell, which may leave the cell, together with P(x given y).

    Args:
        scale: standard deviation s, in units of a cell.
        n_levels: number of levels L.
    """

    def __init__(self, scale: float, n_levels: int) -> None:
        """Store the scale and the number of levels."""
        super().__init__()
        self.scale, self.n_levels = scale, n_levels

    def forward(
        self, x: Tensor, n_samples: int, *, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw u, and return log q(u given x) - log P(x given x + u), which takes the place of log r(u given x)."""
        u = 0.5 + self.scale * ndtri(uniform(x, n_samples, generator, noise))
        # the density around the middle of the cell of x cancels; what is left is the sum over the middles of all cells
        log_r = self.log_density_of_all(x.double() + u) - HALF_LOG_2PI - math.log(self.scale)
        return u, log_r.flatten(2).sum(2)

    def log_density_of_all(self, y: Tensor) -> Tensor:
        """Return the log of the sum over all levels v of exp(-(y - v - 1/2)^2 / (2 s^2)), of the shape of y."""
        nearest = (y - 0.5).round().clamp(0, self.n_levels - 1)
        reach = min(self.n_levels - 1, math.ceil(REACH * self.scale) + 1)
        total = torch.full_like(y, -math.inf)
        for offset in range(-reach, reach + 1):
            level = nearest + offset
            exponent = -((y - level - 0.5) / self.scale).square() / 2
            is_level = (level >= 0) & (level < self.n_levels)
            total = torch.logaddexp(total, torch.where(is_level, exponent, -math.inf))
        return total
