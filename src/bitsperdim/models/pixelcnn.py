r"""The PixelCNN: masked convolutions with an exact likelihood (van den Oord, Kalchbrenner and Kavukcuoglu 2016).

"Pixel Recurrent Neural Networks", section 3.4 and table 1. The feature maps are split into one group for each channel,
so that within a pixel R comes before G before B. A convolution sees everything above, and everything to the left in its
own row. At the centre it sees the groups before its own (mask A, the first layer) or up to and including its own (mask
B, all other layers)::

    3x3 mask:   1 1 1      centre, from group (row) to group (column):
                1 ? 0          mask A:  0 1 1     mask B:  1 1 1
                0 0 0                   0 0 1              0 1 1
                                        0 0 0              0 0 1

The model has a *blind spot*: stacked masks of this shape never see a cone above and to the right of the current pixel
(van den Oord et al. 2016b). ``tests/models/test_pixelcnn.py`` asserts it, and ``gated_pixelcnn.py`` avoids it. No layer
is normalised over a batch.

If the likelihood itself couples the channels of a pixel, all feature maps form one group, which sees only earlier
pixels. The likelihood then puts R before G before B.

Differences from the paper: the input is scaled to [-1, 1]; the sizes are parameters; the kernels have no rows below the
centre, which the masks would set to zero; any likelihood that fits the images may replace the softmax (``heads.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import build_head
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import in_full_precision, level_counts
from bitsperdim.models.parts.causal import CausalConv2d, Memory, groups_of, order_of


def masked(n_inputs: int, n_outputs: int, kernel_size: int, n_groups: int, *, sees_own_group: bool) -> CausalConv2d:
    """Return a masked convolution of the paper.

    Args:
        n_inputs: number of input maps, which are split in order into ``n_groups`` groups, as evenly as possible.
        n_outputs: number of output maps, split in the same way.
        kernel_size: size of the kernel, odd.
        n_groups: number of groups G of the image channels.
        sees_own_group: whether a group sees itself at the centre (mask B) or not (mask A).
    """
    reach = kernel_size // 2
    order = order_of(groups_of(n_inputs, n_groups), groups_of(n_outputs, n_groups), sees_own_group=sees_own_group)
    return CausalConv2d(n_inputs, n_outputs, rows=(-reach, 0), columns=(-reach, reach), order=order)


class ResidualBlock(nn.Module):
    """A residual block: 1x1 to half the maps, masked 3x3, 1x1 back, added to the input (figure 5 of the paper)."""

    def __init__(self, n_maps: int, n_groups: int) -> None:
        """Build three masked convolutions."""
        super().__init__()
        half = n_maps // 2
        self.reduce = masked(n_maps, half, 1, n_groups, sees_own_group=True)
        self.convolve = masked(half, half, 3, n_groups, sees_own_group=True)
        self.expand = masked(half, n_maps, 1, n_groups, sees_own_group=True)

    def forward(self, hidden: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the input plus the change computed by the block."""
        change = self.reduce(F.relu(hidden), memory)
        change = self.convolve(F.relu(change), memory)
        return hidden + self.expand(F.relu(change), memory)


class PixelCNN(AutoregressiveModel):
    """A PixelCNN with any likelihood.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        n_filters: number of feature maps, 2h in the paper; even, and at least 2G so that every group of channels has
            its own maps.
        n_blocks: number of residual blocks.
        kernel_size: kernel size of the first layer, odd.
        likelihood: name of the likelihood, a key of :data:`bitsperdim.likelihoods.HEADS`; the paper uses
            ``categorical``.
        n_mixtures: number of components of the likelihood, if it is a mixture.
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
        """Build the layers."""
        super().__init__(image_shape, n_levels)
        channels = image_shape[0]
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        groups = self.head.n_groups
        check_sizes(n_filters, kernel_size, groups)
        self.first = masked(channels, n_filters, kernel_size, groups, sees_own_group=False)
        self.blocks = nn.ModuleList(ResidualBlock(n_filters, groups) for _ in range(n_blocks))
        self.last = masked(n_filters, n_filters, 1, groups, sees_own_group=True)
        self.to_outputs = masked(n_filters, groups * self.head.n_outputs, 1, groups, sees_own_group=True)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Set the output biases to the marginals of each channel."""
        start_at_marginals(self, self.to_outputs, images)

    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the parameters of p(x_i given x_<i), (B, G * n, H, W), or only those at the position of the memory."""
        hidden = self.first.of_image(x, self.scaled, memory)
        for block in self.blocks:
            hidden = block(hidden, memory)
        return in_full_precision(self.to_outputs, F.relu(self.last(F.relu(hidden), memory)), memory)


def check_sizes(n_filters: int, kernel_size: int, n_groups: int) -> None:
    """Check the number of filters and the kernel size.

    Raises:
        ValueError: ``n_filters`` is odd or too small for the groups, or ``kernel_size`` is even.
    """
    if n_filters % 2 or n_filters < 2 * n_groups:
        raise ValueError(f"n_filters must be even and at least {2 * n_groups}, not {n_filters}")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, not {kernel_size}")


@torch.no_grad()
def start_at_marginals(model: AutoregressiveModel, layer: CausalConv2d, images: Tensor) -> None:
    """Set the biases of the last layer so that the likelihood has the marginals of each channel of the images."""
    counts = level_counts(images, model.n_levels).sum((1, 2), keepdim=True)  # (C, 1, 1, L)
    layer.bias.copy_(model.head.biases(counts).flatten())
