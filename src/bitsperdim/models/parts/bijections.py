r"""The parts of a flow: invertible maps of images with the logarithm of their Jacobian determinant.

A bijection f and a base density p_0 give the density :math:`p(y) = p_0(f(y)) \, |\det J_f(y)|`. Each part returns
z = f(y) and ladj, the log of the absolute value of that determinant.

There are no batch statistics. Activation normalisation (Kingma and Dhariwal 2018, section 3.1) takes mean and standard
deviation from training images once, before training; afterwards they are parameters.

Autoregressive transforms are not here; they come from zuko (:mod:`bitsperdim.models.flow`).

Invariants (``tests/models/test_bijections.py``): the inverse inverts (``test_the_inverse_inverts``); ladj equals that
of autograd's Jacobian (``test_ladj_is_the_jacobian``); a coupling starts as the identity
(``test_a_coupling_starts_as_the_identity``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import at_least_float32


class Bijection(nn.Module, ABC):
    """An invertible map of a batch of images, optionally conditioned on a context for each image."""

    @abstractmethod
    def forward(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z, with as many values as y (B, ...), and ladj (B,) in nats."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return y with f(y) = z."""

    def initialise(self, y: Tensor) -> None:
        """Initialise the map with its inputs y (N, ...) for training images, once, before training."""


class Logit(Bijection):
    r"""The logit map from the unit interval to the real line, in float64.

    .. math:: z = \mathrm{logit}(s), \quad s = m + (1 - 2m) \, y, \qquad
              \mathrm{ladj} = \sum_d \log(1 - 2m) - \log s_d - \log(1 - s_d)

    With m > 0 the image of (0, 1) is bounded, and the mass that the flow puts outside of it is lost. With m = 0 no mass
    is lost, but values near 0 and 1 are stretched without bound (Dinh et al. 2017, section 4.1, where m = 0.05).

    Args:
        margin: margin m, in [0, 1/2).
    """

    def __init__(self, margin: float) -> None:
        """Store the margin."""
        super().__init__()
        if not 0 <= margin < 0.5:
            raise ValueError(f"logit_margin must be at least 0 and below 0.5, not {margin}")
        self.margin = margin

    def forward(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and ladj in float64, for y (B, ...) in (0, 1), or with m > 0 in [0, 1]."""
        s = self.margin + (1 - 2 * self.margin) * y.double()
        log_s, log_rest = torch.log(s), torch.log1p(-s)
        ladj = (math.log1p(-2 * self.margin) - log_s - log_rest).flatten(1).sum(1)
        return log_s - log_rest, ladj

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return y in float64; it lies outside [0, 1] if z lies outside the image of [0, 1]."""
        return (torch.sigmoid(z.double()) - self.margin) / (1 - 2 * self.margin)


class ActNorm(Bijection):
    r"""Activation normalisation: an affine map of each channel (Kingma and Dhariwal 2018, section 3.1).

    .. math:: z = e^{a} \, (y - b)

    Args:
        shape: shape of a and b, broadcast against one image: (C, 1, 1) for one map per channel, (D,) for one per
            dimension.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Start as the identity."""
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def initialise(self, y: Tensor) -> None:
        """Give the images (N, ...) mean 0 and standard deviation 1; constant values keep their scale."""
        over = [0, *(dim + 1 for dim, size in enumerate(self.shift.shape) if size == 1)]
        mean, spread = y.double().mean(over), y.double().std(over, correction=0)
        is_constant = y.amax(over) == y.amin(over)  # the spread is then 0, or only a rounding error of the mean
        with torch.no_grad():
            self.shift.copy_(mean.reshape(self.shift.shape))
            self.log_scale.copy_(-torch.where(is_constant, 1.0, spread).log().reshape(self.shift.shape))

    def forward(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and ladj."""
        places = y[0].numel() // self.log_scale.numel()
        ladj = self.log_scale.sum() * places
        return (y - self.shift) * torch.exp(self.log_scale), ladj.expand(len(y))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return y."""
        return z * torch.exp(-self.log_scale) + self.shift


class Squeeze(Bijection):
    """A squeeze from (C, H, W) to (4C, H/2, W/2) (Dinh et al. 2017, 3.6).

    The channels of the four pixels in each 2x2 block become the channels of one pixel. The first half of the channels
    comes from the two pixels on the diagonal of the block.
    """

    def forward(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z (B, 4C, H/2, W/2) and ladj 0."""
        blocks = F.pixel_unshuffle(y, 2).unflatten(1, (y.shape[1], 4))  # (B, C, 4, H/2, W/2)
        top_left, top_right, bottom_left, bottom_right = blocks.unbind(2)
        return torch.cat([top_left, bottom_right, top_right, bottom_left], dim=1), y.new_zeros(len(y))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return y (B, C, H, W)."""
        top_left, bottom_right, top_right, bottom_left = z.chunk(4, dim=1)
        blocks = torch.stack([top_left, top_right, bottom_left, bottom_right], dim=2)
        return F.pixel_shuffle(blocks.flatten(1, 2), 2)


class ConvResNet(nn.Module):
    """A residual network of convolutions without normalisation, whose last layer starts at zero.

    Args:
        n_inputs: number of input channels.
        n_outputs: number of output channels.
        n_filters: number of hidden channels.
        n_blocks: number of residual blocks.
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_filters: int, n_blocks: int) -> None:
        """Build the layers."""
        super().__init__()
        self.first = nn.Conv2d(n_inputs, n_filters, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(n_filters, n_filters, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(n_filters, n_filters, 1),
            )
            for _ in range(n_blocks)
        )
        self.last = nn.Conv2d(n_filters, n_outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return maps (B, n_outputs, H, W)."""
        hidden = self.first(hidden)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(F.relu(hidden))


class AffineCoupling(Bijection):
    r"""An affine coupling: one part of the image shifts and scales the other part (Dinh et al. 2017, eq. 7-9).

    .. math:: z = m \odot y + (1 - m) \odot \big( y \odot e^{s} + t \big), \qquad
              s = r \odot \tanh(\ldots), \quad (s, t) \text{ of } m \odot y \text{ and the context}

    r, the scale of s in each channel, is also learned.

    Args:
        mask: mask m, (C, H, W) or broadcast against it; 1 for values that do not change.
        n_channels: number of channels C.
        n_filters: number of hidden channels in the network for s and t.
        n_blocks: number of residual blocks in the network for s and t.
        n_context: number of channels of the context.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, n_channels: int, *, n_filters: int, n_blocks: int, n_context: int = 0) -> None:
        """Build the network; the coupling starts as the identity."""
        super().__init__()
        self.register_buffer("mask", mask.float(), persistent=False)
        self.network = ConvResNet(n_channels + n_context, 2 * n_channels, n_filters, n_blocks)
        self.reach = nn.Parameter(torch.ones(n_channels, 1, 1))

    def shift_and_log_scale(self, seen: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return t and s; they are zero for values that do not change."""
        inputs = seen if context is None else torch.cat([seen, context], dim=1)
        raw, shift = at_least_float32(self.network(inputs)).chunk(2, dim=1)
        moved = 1 - self.mask
        return moved * shift, moved * self.reach * torch.tanh(raw)

    def forward(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and ladj."""
        shift, log_scale = self.shift_and_log_scale(y * self.mask, context)
        return y * torch.exp(log_scale) + shift, log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return y."""
        shift, log_scale = self.shift_and_log_scale(z * self.mask, context)
        return (z - shift) * torch.exp(-log_scale)


def checkerboard(height: int, width: int, *, odd: bool) -> Tensor:
    """Return a mask (1, H, W) that is 1 where row plus column is odd, or where it is even."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return ((rows + columns) % 2 == int(odd)).float()[None]


def half_of_the_channels(n_channels: int, *, second: bool) -> Tensor:
    """Return a mask (C, 1, 1) that is 1 for the first or the second half of an even number of channels."""
    is_first = torch.arange(n_channels) < n_channels // 2
    return (~is_first if second else is_first).float()[:, None, None]
