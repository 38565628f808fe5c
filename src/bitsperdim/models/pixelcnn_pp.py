r"""The PixelCNN++: two shifted streams at several scales, with skip connections between them.

Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications", section 2 and figure 2. A *vertical* stream sees the rows above; a *horizontal*
stream sees the pixels above and to the left. Windows are shifted instead of masked::

    vertical, 2x3:   x x x        horizontal, 2x2:   x x
                     x x x                           x x      the last x is the current position

Each stream goes down through residual blocks at the full size, at half and at a quarter of it, and up again. On the way
up, each block also gets the output of the block at the same height on the way down (a skip connection). Each block of
the horizontal stream also gets the output of the vertical stream at its position::

    full      block x n  ------------------------------->  block x (n+1)
    half         \_ block x n  --------------->  block x (n+1) _/
    quarter            \_ block x n  -->  block x n _/

A block has two convolutions, each after a concatenated exponential linear unit, with dropout between them. Its result
is gated and added to its input (section 2.5; :class:`Block`). Weights are normalised; initially all outputs have the
same spread for training images (Salimans and Kingma 2016). The paper evaluates averaged weights; here they are set by
``train.average_decay``.

All outputs for a pixel depend only on earlier pixels, also if each channel has its own outputs. The likelihood puts R,
G and B in order: it is the coupled mixture of logistics, the only likelihood for images with several channels.

Differences from the paper: the sizes, the number of scales and the share of dropout are parameters; the likelihood has
no smallest scale and no approximation; the output layer starts at the marginals of the training images; images of any
size are allowed, and half of an odd size is rounded up; labels are not used.

Invariants (``tests/models/test_pixelcnn_pp.py``): a pixel sees all earlier pixels within reach
(``test_causality_is_two_sided``); with 5 blocks of 160 filters and 10 mixtures the number of weights equals that of the
public PyTorch version (``test_the_published_size``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import build_head
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import in_full_precision
from bitsperdim.models.parts.activations import add_gated, check_dropout, concatenated_elu, dropped_out
from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling, Memory, at_place, in_row
from bitsperdim.models.pixelcnn import start_at_marginals

Window = tuple[tuple[int, int], tuple[int, int]]  # first and last row, first and last column
VERTICAL: Window = ((-1, 0), (-1, 1))
HORIZONTAL: Window = ((-1, 0), (-1, 0))
POINT: Window = ((0, 0), (0, 0))
START_OF_CHANGES = 0.1  # initial spread of the term that a block adds, before its gate
START_OF_OUTPUTS = 0.1  # initial spread of the outputs
STARTING_IMAGES = 64  # largest number of images that the layers are initialised with


def convolution(n_inputs: int, n_outputs: int, window: Window, *, stride: int = 1, start: float = 1.0) -> CausalConv2d:
    """Return a convolution with normalised weights."""
    rows, columns = window
    return CausalConv2d(n_inputs, n_outputs, rows=rows, columns=columns, stride=stride, normalised=True, start=start)


class Block(nn.Module):
    r"""Two convolutions whose result is gated and added to the input.

    .. math:: x + a \odot \sigma(b), \qquad (a, b) = c_2 * e\big(c_1 * e(x) + c_0 * e(t)\big)

    e are concatenated exponential linear units; t are additional inputs of the block (from skip connections and from
    the vertical stream).

    Args:
        n_filters: number of maps n of the input and the output.
        window: window of both convolutions.
        n_told: number of maps of t; 0: no additional inputs.
        dropout: share of values that are dropped before the second convolution in training.
    """

    def __init__(self, n_filters: int, window: Window, n_told: int, dropout: float) -> None:
        """Build the convolutions."""
        super().__init__()
        self.dropout = dropout
        self.first = convolution(2 * n_filters, n_filters, window)
        self.told = convolution(2 * n_told, n_filters, POINT) if n_told else None
        self.second = convolution(2 * n_filters, 2 * n_filters, window, start=START_OF_CHANGES)

    def forward(
        self, x: Tensor, active: Tensor, told: list[Tensor], memory: Memory | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return the input plus the gated result, (B, n, H, W).

        Args:
            x: input maps (B, n, H, W), or one position of them.
            active: e(x).
            told: e(t) in parts, which are concatenated.
            memory: cache at the current position; None: all positions at once.
            generator: random number generator for dropout.
        """
        hidden = self.first(active, memory)
        if self.told is not None:
            hidden = hidden + self.told(torch.cat(told, 1), memory)
        hidden = concatenated_elu(hidden)
        if self.training and self.dropout:
            hidden = dropped_out(hidden, self.dropout, generator)
        return add_gated(x, self.second(hidden, memory))


def blocks_of(scales: nn.ModuleList, scale: int) -> list[Block]:
    """Return the blocks of one scale."""
    return cast(list[Block], list(cast(nn.ModuleList, scales[scale])))


@dataclass
class Said:
    """Outputs of a stream at one scale: e of the maps of its blocks on the way down and up, in order of computation."""

    there: list[Tensor] = field(default_factory=list)
    back: list[Tensor] = field(default_factory=list)


class Stream(nn.Module):
    """The blocks of one stream at all scales, on the way down to the coarsest scale and up again.

    Args:
        n_filters: number of channels of all maps.
        n_blocks: number of blocks n at each scale.
        n_scales: number of scales; each has half the size of the scale before.
        window: window of the convolutions.
        is_vertical: whether this is the vertical stream, which has no input from the other stream. The horizontal
            stream gets the outputs of the vertical stream.
        dropout: share of values that the blocks drop in training.
    """

    def __init__(
        self, n_filters: int, n_blocks: int, n_scales: int, window: Window, *, is_vertical: bool, dropout: float
    ) -> None:
        """Build the blocks and the layers that connect the scales."""
        super().__init__()
        n_heard = 0 if is_vertical else n_filters
        last = n_scales - 1

        def blocks(n: int, n_told: int) -> nn.ModuleList:
            return nn.ModuleList(Block(n_filters, window, n_told, dropout) for _ in range(n))

        self.there = nn.ModuleList(blocks(n_blocks, n_heard) for _ in range(n_scales))
        self.back = nn.ModuleList(
            blocks(n_blocks if scale == last else n_blocks + 1, n_filters + n_heard) for scale in range(n_scales)
        )
        self.halving = nn.ModuleList(convolution(n_filters, n_filters, window, stride=2) for _ in range(last))
        self.doubling = nn.ModuleList(CausalUpsampling(n_filters, n_filters, is_wide=is_vertical) for _ in range(last))

    def forward(
        self,
        x: Tensor,
        heard: list[Said],
        memory: Memory | None,
        generator: torch.Generator | None,
        scale: int = 0,
    ) -> tuple[Tensor, list[Said]]:
        """Go down from one scale to the coarsest and up again.

        Args:
            x: maps (B, n, H, W) at this scale, or one position of them.
            heard: outputs of the vertical stream at each scale, for the whole map or the row; empty for the vertical
                stream itself.
            memory: cache at this scale and at the current position; None: all positions at once.
            generator: random number generator for dropout.
            scale: number of the scale; 0 is the full size.

        Returns:
            The last map, and the outputs of the blocks at this and all coarser scales.
        """
        here = heard[scale] if heard else None
        said = Said()
        coarser = []
        active = concatenated_elu(x)
        on_the_way = [active]
        for number, block in enumerate(blocks_of(self.there, scale)):
            told = [at_place(here.there[number], memory)] if here else []
            x = block(x, active, told, memory, generator)
            active = concatenated_elu(x)
            on_the_way.append(active)
        said.there = on_the_way[1:]
        if scale + 1 == len(self.there):
            on_the_way.pop()  # at the coarsest scale, x itself continues upwards, without a skip connection
        else:
            halve = cast(CausalConv2d, self.halving[scale])
            size = (x.shape[2], x.shape[3])
            coarse = None
            if memory is None or memory.is_on_grid:
                at_half = None if memory is None else memory.coarser
                coarse, coarser = self(halve(x, memory), heard, at_half, generator, scale + 1)
            else:
                halve.remember(x, memory)
            x = self.doubling[scale](coarse, size, memory)
            active = concatenated_elu(x)
        for number, block in enumerate(blocks_of(self.back, scale)):
            told = [at_place(here.back[number], memory)] if here else []
            x = block(x, active, [*told, on_the_way.pop()], memory, generator)
            active = concatenated_elu(x)
            said.back.append(active)
        assert not on_the_way, "each map on the way down is used once on the way up"
        return x, [said, *coarser]


class PixelCNNpp(AutoregressiveModel):
    """A PixelCNN++ with any likelihood that has one group of outputs.

    These are all likelihoods for grey images, and the coupled one for images with several channels.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        n_filters: number of channels of all maps.
        n_blocks: number of blocks n of each stream at each scale on the way down.
        n_scales: number of scales, 3 in the paper; the sides of the coarsest map are those of the image divided by
            2 ** (n_scales - 1).
        dropout: share of values that are dropped in training.
        likelihood: name of the likelihood, a key of :data:`bitsperdim.likelihoods.HEADS`; the paper uses
            ``coupled_logistic``.
        n_mixtures: number of components of the likelihood, if it is a mixture.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        n_filters: int,
        n_blocks: int,
        n_scales: int,
        dropout: float,
        likelihood: str,
        n_mixtures: int,
    ) -> None:
        """Build both streams."""
        super().__init__(image_shape, n_levels)
        channels = image_shape[0]
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        if self.head.n_groups != 1:
            raise ValueError(f"likelihood must be coupled_logistic for {channels} channels, not {likelihood}")
        check_dropout(dropout)
        n_inputs = channels + 1
        self.above = convolution(n_inputs, n_filters, ((-2, -1), (-1, 1)))
        self.above_near = convolution(n_inputs, n_filters, ((-1, -1), (-1, 1)))
        self.left = convolution(n_inputs, n_filters, ((-1, 0), (-1, -1)))
        self.vertical = Stream(n_filters, n_blocks, n_scales, VERTICAL, is_vertical=True, dropout=dropout)
        self.horizontal = Stream(n_filters, n_blocks, n_scales, HORIZONTAL, is_vertical=False, dropout=dropout)
        self.to_outputs = convolution(n_filters, self.head.n_outputs, POINT, start=START_OF_OUTPUTS)

    @torch.no_grad()
    def unchecked_initialise(self, images: Tensor) -> None:
        """Give the outputs of all layers the same spread for some training images.

        The output biases are then set to the marginals of each channel.
        """
        layers = [module for module in self.modules() if isinstance(module, CausalConv2d | CausalUpsampling)]
        for layer in layers:
            layer.is_starting = True
        was_training = self.training
        self.eval().outputs(images[:: -(-len(images) // STARTING_IMAGES)])
        self.train(was_training)
        start_at_marginals(self, self.to_outputs, images)

    def inputs(self, x: Tensor) -> Tensor:
        """Return the image scaled to [-1, 1] with a channel of ones, (B, C + 1, H, W).

        The padding outside of the image is zero in this channel.
        """
        scaled = self.scaled(x)
        return torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1)

    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the parameters of p(x_i given x_<i), (B, n, H, W), or only those at the position of the memory."""
        near, heard = in_row(memory, lambda: self.rows_above(x, memory, generator))
        start = at_place(near, memory) + self.left.of_image(x, self.inputs, memory)
        last, _ = self.horizontal(start, heard, memory, generator)
        return in_full_precision(self.to_outputs, F.elu(last), memory)

    def rows_above(
        self, x: Tensor, memory: Memory | None, generator: torch.Generator | None
    ) -> tuple[Tensor, list[Said]]:
        """Return the input of the horizontal stream from the row above, and the outputs of the vertical stream."""
        near = self.above_near.of_image(x, self.inputs, memory)
        start = self.above.of_image(x, self.inputs, memory)
        return near, self.vertical(start, [], memory, generator)[1]
