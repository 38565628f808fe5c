r"""The PixelCNN: masked convolutions, an exact likelihood (van den Oord, Kalchbrenner and Kavukcuoglu 2016).

"Pixel Recurrent Neural Networks", section 3.4 and table 1. Feature maps belong to the channels in
turn, so that inside a pixel R comes before G before B. A convolution sees everything above, and to
the left in its own row; at the centre it sees the groups before its own (mask A, the first layer)
or up to its own (mask B, all others)::

    3x3 mask:   1 1 1      centre, from group (row) to group (column):
                1 ? 0          mask A:  0 1 1     mask B:  1 1 1
                0 0 0                   0 0 1              0 1 1
                                        0 0 0              0 0 1

It has a *blind spot*: stacked masks of this shape never see a cone above and to the right of the
current pixel (van den Oord et al. 2016b), which ``tests/models/test_pixelcnn.py`` asserts. Nothing
here is gated, and no layer is normalised over a batch.

Where the likelihood couples the channels of a pixel itself, all feature maps are one group, which sees earlier
pixels only, and the likelihood puts R before G before B.

Differences from the paper: the input is scaled to [-1, 1]; the sizes are parameters; any likelihood that fits the
images may take the place of the softmax (``heads.py``).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import Likelihood, build_head
from bitsperdim.models.base import AutoregressiveModel, level_counts


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees only what comes before.

    Args:
        n_inputs: input feature maps, split into ``n_groups`` groups in order, as evenly as they can be.
        n_outputs: output feature maps, split likewise.
        kernel_size: odd; the image size is kept.
        n_groups: G, into which the channels of the image fall.
        sees_own_group: at the centre, whether a group sees itself (mask B) or not (mask A).
    """

    mask: Tensor

    def __init__(self, n_inputs: int, n_outputs: int, kernel_size: int, *, n_groups: int, sees_own_group: bool) -> None:
        """Build the convolution and its mask."""
        super().__init__(n_inputs, n_outputs, kernel_size, padding=kernel_size // 2)
        centre = kernel_size // 2
        mask = torch.zeros(n_outputs, n_inputs, kernel_size, kernel_size)
        mask[:, :, :centre] = 1
        mask[:, :, centre, :centre] = 1
        group_of_output = torch.arange(n_outputs) * n_groups // n_outputs
        group_of_input = torch.arange(n_inputs) * n_groups // n_inputs
        earlier = group_of_input[None, :] < group_of_output[:, None]
        own = group_of_input[None, :] == group_of_output[:, None]
        mask[:, :, centre, centre] = (earlier | own if sees_own_group else earlier).float()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Convolve with the masked weights."""
        return F.conv2d(input, self.weight * self.mask, self.bias, padding=self.padding)


class ResidualBlock(nn.Module):
    """1x1 to half the maps, masked 3x3, 1x1 back, added to the input (figure 5 of the paper)."""

    def __init__(self, n_maps: int, n_groups: int) -> None:
        """Build three masked convolutions."""
        super().__init__()
        half = n_maps // 2
        self.reduce = MaskedConv2d(n_maps, half, 1, n_groups=n_groups, sees_own_group=True)
        self.convolve = MaskedConv2d(half, half, 3, n_groups=n_groups, sees_own_group=True)
        self.expand = MaskedConv2d(half, n_maps, 1, n_groups=n_groups, sees_own_group=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the input plus what the block adds."""
        change = self.reduce(F.relu(hidden))
        change = self.convolve(F.relu(change))
        return hidden + self.expand(F.relu(change))


class PixelCNN(AutoregressiveModel):
    """A PixelCNN with any likelihood.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        n_filters: 2h in the paper; even, and at least 2G so that every group of channels has maps of its own.
        n_blocks: residual blocks.
        kernel_size: of the first layer, odd.
        likelihood: a key of :data:`bitsperdim.likelihoods.HEADS`; ``categorical`` is that of the paper.
        n_mixtures: the number of its components.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        n_filters: int,
        n_blocks: int,
        kernel_size: int,
        likelihood: str,
        n_mixtures: int,
    ) -> None:
        """Build the stack."""
        super().__init__(image_shape, n_levels)
        channels = image_shape[0]
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        groups = self.head.n_groups
        if n_filters % 2 or n_filters < 2 * groups:
            raise ValueError(f"n_filters must be even and at least {2 * groups}, not {n_filters}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        self.first = MaskedConv2d(channels, n_filters, kernel_size, n_groups=groups, sees_own_group=False)
        self.blocks = nn.Sequential(*(ResidualBlock(n_filters, groups) for _ in range(n_blocks)))
        self.last = MaskedConv2d(n_filters, n_filters, 1, n_groups=groups, sees_own_group=True)
        n_outputs = groups * self.head.n_outputs
        self.to_outputs = MaskedConv2d(n_filters, n_outputs, 1, n_groups=groups, sees_own_group=True)

    @property
    def n_parameters(self) -> int:
        """The weights that the masks let through, and the biases."""
        masks = [module.mask for module in self.modules() if isinstance(module, MaskedConv2d)]
        masked = sum(int((mask == 0).sum()) for mask in masks)
        return super().n_parameters - masked

    def initialise(self, images: Tensor) -> None:
        """Start the output biases at the marginals of each channel."""
        counts = level_counts(images, self.n_levels).sum((1, 2), keepdim=True)  # (C, 1, 1, L)
        with torch.no_grad():
            cast(Tensor, self.to_outputs.bias).copy_(self.head.biases(counts).flatten())

    def conditionals(self, x: Tensor, labels: Tensor | None = None) -> Likelihood:
        """Return p(x_i given x_<i) for all sub-pixels at once."""
        hidden = self.blocks(self.first(self.scaled(x)))
        outputs = self.to_outputs(F.relu(self.last(F.relu(hidden))))  # (B, G * outputs, H, W)
        outputs = outputs.unflatten(1, (self.head.n_groups, self.head.n_outputs))  # (B, G, outputs, H, W)
        return self.head(outputs.permute(0, 1, 3, 4, 2)).given(x)  # from (B, G, H, W, outputs)
