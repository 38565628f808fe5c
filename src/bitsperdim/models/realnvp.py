r"""RealNVP: a multi-scale flow of affine couplings of convolutions (Dinh, Sohl-Dickstein and Bengio 2017).

"Density estimation using Real NVP", sections 3.4 to 3.6. Each scale except the last consists of three couplings on a
checkerboard, a squeeze of 2x2 pixels into channels, and three couplings on halves of the channels. Then half of the
channels are factored out to the base density. The last scale has four couplings on a checkerboard.

.. math:: \log p(y) = \sum_s \log \mathcal N(z_s; 0, I) + \mathrm{ladj}, \qquad z_s \text{ factored out at scale } s

Differences from the paper: activation normalisation after each coupling instead of batch normalisation, so that the
density of an image does not depend on other images; no normalisation in the residual networks; half of the pixels is
factored out, not a fixed half of shuffled channels; the sizes are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from bitsperdim.models.normalizing_flow import NormalizingFlow
from bitsperdim.models.parts.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Squeeze,
    checkerboard,
    half_of_the_channels,
)

N_CHECKERBOARD, N_CHANNEL, N_LAST = 3, 3, 4  # number of couplings in a scale, and in the last scale


class RealNVP(NormalizingFlow):
    """A multi-scale coupling flow.

    Args:
        image_shape: (C, H, W); H and W must be multiples of 2 ** (n_scales - 1), and not both equal to it.
        n_levels: number of levels L.
        n_scales: number of scales; 1 means only the four checkerboard couplings of the last scale.
        n_filters: number of channels in the network of each coupling.
        n_blocks: number of residual blocks in the network of each coupling.
        logit_margin: margin of the logit transform; None: no logit transform.
        dequantization: ``none``, ``uniform_fixed``, ``uniform`` or ``variational``.
        variational: sizes of the network for learned noise.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        n_scales: int,
        n_filters: int,
        n_blocks: int,
        logit_margin: float | None,
        dequantization: str,
        variational: Mapping[str, int],
    ) -> None:
        """Build the couplings."""
        super().__init__(
            image_shape,
            n_levels,
            logit_margin=logit_margin,
            dequantization=dequantization,
            variational=variational,
        )
        channels, height, width = image_shape
        unit = 2 ** (n_scales - 1)
        if height % unit or width % unit:
            raise ValueError(f"n_scales = {n_scales} needs a height and a width that are multiples of {unit}")
        if (height // unit) * (width // unit) < 2:
            raise ValueError(
                f"n_scales = {n_scales} leaves one pixel at the last scale, but a checkerboard needs two; "
                f"choose a smaller n_scales, or larger images"
            )
        sizes = {"n_filters": n_filters, "n_blocks": n_blocks}

        def on_checkerboard(n_couplings: int) -> Iterator[Bijection]:
            for number in range(n_couplings):
                yield AffineCoupling(checkerboard(height, width, odd=bool(number % 2)), channels, **sizes)
                yield ActNorm((channels, 1, 1))

        def on_channels(n_couplings: int) -> Iterator[Bijection]:
            for number in range(n_couplings):
                yield AffineCoupling(half_of_the_channels(channels, second=bool(number % 2)), channels, **sizes)
                yield ActNorm((channels, 1, 1))

        self.n_scales = n_scales
        self.scales = nn.ModuleList()
        start: list[Bijection] = [ActNorm((channels, 1, 1))]
        for _ in range(n_scales - 1):
            parts = [*start, *on_checkerboard(N_CHECKERBOARD), Squeeze()]
            channels, height, width = 4 * channels, height // 2, width // 2
            self.scales.append(nn.ModuleList([*parts, *on_channels(N_CHANNEL)]))
            channels = channels // 2
            start = []
        self.scales.append(nn.ModuleList([*start, *on_checkerboard(N_LAST)]))
        self.last_shape = (channels, height, width)

    def normalise(self, y: Tensor) -> None:
        """Initialise every activation normalisation, one layer after the other."""
        for number, scale in enumerate(self.scales):
            for part in bijections(scale):
                part.initialise(y)
                y, _ = part(y)
            y = y if number == self.n_scales - 1 else y.chunk(2, dim=1)[0]

    def to_normal(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D), the values that each scale factors out in turn, and ladj (B,) float64."""
        ladj = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        factored_out = []
        for number, scale in enumerate(self.scales):
            for part in bijections(scale):
                y, more = part(y)
                ladj = ladj + more.double()
            if number < self.n_scales - 1:
                y, out = y.chunk(2, dim=1)
                factored_out.append(out.flatten(1))
        return torch.cat([*factored_out, y.flatten(1)], dim=1), ladj

    def from_normal(self, z: Tensor) -> Tensor:
        """Return y (B, C, H, W), by the inverse of each scale."""
        n_factored_out = [self.n_dims // 2 ** (number + 1) for number in range(self.n_scales - 1)]
        *factored_out, last = z.split([*n_factored_out, math.prod(self.last_shape)], dim=1)
        y = last.unflatten(1, self.last_shape)
        for number in reversed(range(self.n_scales)):
            if number < self.n_scales - 1:
                y = torch.cat([y, factored_out[number].unflatten(1, y.shape[1:])], dim=1)
            for part in reversed(bijections(self.scales[number])):
                y = part.inverse(y)
        return y


def bijections(scale: nn.Module) -> list[Bijection]:
    """Return the bijections of one scale in order."""
    return [cast(Bijection, part) for part in scale.children()]
