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
current pixel (van den Oord et al. 2016b), which ``tests/models/test_pixelcnn.py`` asserts and ``gated_pixelcnn.py``
mends. No layer is normalised over a batch.

Where the likelihood couples the channels of a pixel itself, all feature maps are one group, which sees earlier
pixels only, and the likelihood puts R before G before B.

Differences from the paper: the input is scaled to [-1, 1]; the sizes are parameters; the rows below the centre, which
the masks hold at zero, are left out of the convolutions; any likelihood that fits the images may take the place of the
softmax (``heads.py``).
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
    """Return a convolution of the paper.

    Args:
        n_inputs: input maps, split into ``n_groups`` groups in order, as evenly as they can be.
        n_outputs: output maps, split likewise.
        kernel_size: odd.
        n_groups: G, into which the channels of the image fall.
        sees_own_group: at the centre, whether a group sees itself (mask B) or not (mask A).
    """
    reach = kernel_size // 2
    order = order_of(groups_of(n_inputs, n_groups), groups_of(n_outputs, n_groups), sees_own_group=sees_own_group)
    return CausalConv2d(n_inputs, n_outputs, rows=(-reach, 0), columns=(-reach, reach), order=order)


class ResidualBlock(nn.Module):
    """1x1 to half the maps, masked 3x3, 1x1 back, added to the input (figure 5 of the paper)."""

    def __init__(self, n_maps: int, n_groups: int) -> None:
        """Build three masked convolutions."""
        super().__init__()
        half = n_maps // 2
        self.reduce = masked(n_maps, half, 1, n_groups, sees_own_group=True)
        self.convolve = masked(half, half, 3, n_groups, sees_own_group=True)
        self.expand = masked(half, n_maps, 1, n_groups, sees_own_group=True)

    def forward(self, hidden: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the input plus what the block adds."""
        change = self.reduce(F.relu(hidden), memory)
        change = self.convolve(F.relu(change), memory)
        return hidden + self.expand(F.relu(change), memory)


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
        check_sizes(n_filters, kernel_size, groups)
        self.first = masked(channels, n_filters, kernel_size, groups, sees_own_group=False)
        self.blocks = nn.ModuleList(ResidualBlock(n_filters, groups) for _ in range(n_blocks))
        self.last = masked(n_filters, n_filters, 1, groups, sees_own_group=True)
        self.to_outputs = masked(n_filters, groups * self.head.n_outputs, 1, groups, sees_own_group=True)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Start the output biases at the marginals of each channel."""
        start_at_marginals(self, self.to_outputs, images)

    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return what the network says of p(x_i given x_<i), (B, G * n, H, W) or its place of the memory."""
        hidden = self.first.of_image(x, self.scaled, memory)
        for block in self.blocks:
            hidden = block(hidden, memory)
        return in_full_precision(self.to_outputs, F.relu(self.last(F.relu(hidden), memory)), memory)


def check_sizes(n_filters: int, kernel_size: int, n_groups: int) -> None:
    """Refuse filters that cannot be halved or do not reach all groups, and kernels without a centre.

    Raises:
        ValueError: saying which.
    """
    if n_filters % 2 or n_filters < 2 * n_groups:
        raise ValueError(f"n_filters must be even and at least {2 * n_groups}, not {n_filters}")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, not {kernel_size}")


@torch.no_grad()
def start_at_marginals(model: AutoregressiveModel, layer: CausalConv2d, images: Tensor) -> None:
    """Start the biases of the last layer where the head has the marginals of each channel of the images."""
    counts = level_counts(images, model.n_levels).sum((1, 2), keepdim=True)  # (C, 1, 1, L)
    layer.bias.copy_(model.head.biases(counts).flatten())
