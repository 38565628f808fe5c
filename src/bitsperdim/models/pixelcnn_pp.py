r"""The PixelCNN++: two shifted streams at several scales, with skip connections between them.

Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications", section 2 and figure 2. A *vertical* stream sees the rows above, a *horizontal*
stream what is above and to the left; windows are shifted instead of masked::

    vertical, 2x3:   x x x        horizontal, 2x2:   x x
                     x x x                           x x      the last is the own place

Each stream goes through residual blocks at the full size, at half and at a quarter of it, and back; on the way back a
block is told what the one at its height said on the way there, and one of the horizontal stream also what the vertical
stream says at its place::

    full      block x n  ------------------------------->  block x (n+1)
    half         \_ block x n  --------------->  block x (n+1) _/
    quarter            \_ block x n  -->  block x n _/

A block is a pair of convolutions behind concatenated exponential linear units, with dropout between them, gated and
added to its input (section 2.5; :class:`Block`). Weights are normalised and start so that outputs are spread alike for
training images (Salimans and Kingma 2016). The weight average that the paper scores is ``train.average_decay``.

All outputs of a pixel depend on earlier pixels alone, also where channels have outputs of their own: R, G and B are put
in order by the likelihood, the coupled mixture of logistics, which is the only one for images with several channels.

Differences from the paper: the sizes, the number of scales and the share of dropout are parameters; the likelihood has
no smallest scale and no approximation; the output layer starts at the marginals of the training images; images of any
size will do, where half of an odd size is rounded up; labels are not used.

Invariants (``tests/models/test_pixelcnn_pp.py``): a pixel sees all pixels before it that are within reach
(``test_causality_is_two_sided``); with 5 blocks of 160 filters and 10 mixtures there are as many weights as in the
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
from bitsperdim.models.parts.activations import SMALLEST_DROPOUT, add_gated, concatenated_elu, dropped_out
from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling, Memory, at_place, in_row
from bitsperdim.models.pixelcnn import start_at_marginals

Window = tuple[tuple[int, int], tuple[int, int]]  # rows and columns
VERTICAL: Window = ((-1, 0), (-1, 1))
HORIZONTAL: Window = ((-1, 0), (-1, 0))
POINT: Window = ((0, 0), (0, 0))
START_OF_CHANGES = 0.1  # the spread of what a block adds, before its gate, at the start
START_OF_OUTPUTS = 0.1
STARTING_IMAGES = 64  # at most, which the layers start from


def convolution(n_inputs: int, n_outputs: int, window: Window, *, stride: int = 1, start: float = 1.0) -> CausalConv2d:
    """Return a convolution with normalised weights."""
    rows, columns = window
    return CausalConv2d(n_inputs, n_outputs, rows=rows, columns=columns, stride=stride, normalised=True, start=start)


class Block(nn.Module):
    r"""Two convolutions, gated and added to the input.

    .. math:: x + a \odot \sigma(b), \qquad (a, b) = c_2 * e\big(c_1 * e(x) + c_0 * e(t)\big)

    e are concatenated exponential linear units; t is what the block is told beside its input.

    Args:
        n_filters: n, of the input and the output.
        window: of both convolutions.
        n_told: maps of t; 0: none.
        dropout: share of values that are dropped before the second convolution, in training.
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
        """Return the input plus what the block adds, (B, n, H, W).

        Args:
            x: (B, n, H, W), or a place of it.
            active: e(x).
            told: e(t), in parts.
            memory: at the place.
            generator: of dropout.
        """
        hidden = self.first(active, memory)
        if self.told is not None:
            hidden = hidden + self.told(torch.cat(told, 1), memory)
        hidden = concatenated_elu(hidden)
        if self.training and self.dropout:
            hidden = dropped_out(hidden, self.dropout, generator)
        return add_gated(x, self.second(hidden, memory))


def blocks_of(scales: nn.ModuleList, scale: int) -> list[Block]:
    """Return the blocks of one of the scales."""
    return cast(list[Block], list(cast(nn.ModuleList, scales[scale])))


@dataclass
class Said:
    """What a stream said at one scale: e of its maps, on the way there and on the way back, in the order of time."""

    there: list[Tensor] = field(default_factory=list)
    back: list[Tensor] = field(default_factory=list)


class Stream(nn.Module):
    """The blocks of one stream, at all scales, on the way to the coarsest and back.

    Args:
        n_filters: of all maps.
        n_blocks: n, at each scale.
        n_scales: of which each is half the size of the one before.
        window: of its convolutions.
        is_vertical: whether it is the vertical stream, which hears nothing; the other hears that one.
        dropout: of the blocks.
    """

    def __init__(
        self, n_filters: int, n_blocks: int, n_scales: int, window: Window, *, is_vertical: bool, dropout: float
    ) -> None:
        """Build the blocks and what joins the scales."""
        super().__init__()
        n_heard, last = 0 if is_vertical else n_filters, n_scales - 1

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
        """Go there and back from one scale on; return the last map, and what was said at this scale and coarser ones.

        Args:
            x: (B, n, H, W) of this scale, or a place of it.
            heard: what the vertical stream said at each scale, of the whole map or the row; empty for that stream.
            memory: of this scale, at the place.
            generator: of dropout.
            scale: 0 is the full size.
        """
        here, said, coarser = heard[scale] if heard else None, Said(), []
        active = concatenated_elu(x)
        on_the_way = [active]
        for number, block in enumerate(blocks_of(self.there, scale)):
            told = [at_place(here.there[number], memory)] if here else []
            x = block(x, active, told, memory, generator)
            active = concatenated_elu(x)
            on_the_way.append(active)
        said.there = on_the_way[1:]
        if scale + 1 == len(self.there):
            on_the_way.pop()  # the coarsest map turns back itself
        else:
            halve, size, coarse = cast(CausalConv2d, self.halving[scale]), (x.shape[2], x.shape[3]), None
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
        assert not on_the_way, "each map on the way there is told once on the way back"
        return x, [said, *coarser]


class PixelCNNpp(AutoregressiveModel):
    """A PixelCNN++ with any likelihood that has one group of outputs: all for grey images, the coupled for others.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        n_filters: of all maps.
        n_blocks: n, of each stream at each scale on the way there.
        n_scales: 3 in the paper; the coarsest map is the image divided by 2 to the power of ``n_scales`` - 1.
        dropout: the share of values that is dropped in training.
        likelihood: a key of :data:`bitsperdim.likelihoods.HEADS`; ``coupled_logistic`` is that of the paper.
        n_mixtures: the number of its components.
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
        if 0 < dropout < SMALLEST_DROPOUT:
            raise ValueError(f"dropout must be 0, or at least {SMALLEST_DROPOUT}, not {dropout}")
        n_inputs = channels + 1
        self.above = convolution(n_inputs, n_filters, ((-2, -1), (-1, 1)))
        self.above_near = convolution(n_inputs, n_filters, ((-1, -1), (-1, 1)))
        self.left = convolution(n_inputs, n_filters, ((-1, 0), (-1, -1)))
        self.vertical = Stream(n_filters, n_blocks, n_scales, VERTICAL, is_vertical=True, dropout=dropout)
        self.horizontal = Stream(n_filters, n_blocks, n_scales, HORIZONTAL, is_vertical=False, dropout=dropout)
        self.to_outputs = convolution(n_filters, self.head.n_outputs, POINT, start=START_OF_OUTPUTS)

    @torch.no_grad()
    def unchecked_initialise(self, images: Tensor) -> None:
        """Spread the outputs of all layers alike for some training images, and start those of the last at marginals."""
        layers = [module for module in self.modules() if isinstance(module, CausalConv2d | CausalUpsampling)]
        for layer in layers:
            layer.is_starting = True
        was_training = self.training
        self.eval().outputs(images[:: -(-len(images) // STARTING_IMAGES)])
        self.train(was_training)
        start_at_marginals(self, self.to_outputs, images)

    def inputs(self, x: Tensor) -> Tensor:
        """Return the image scaled to [-1, 1], and a channel of ones, (B, C + 1, H, W): zeros are outside of it."""
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
        """Return what the network says of p(x_i given x_<i), (B, n, H, W) or its place of the memory."""
        near, heard = in_row(memory, lambda: self.rows_above(x, memory, generator))
        start = at_place(near, memory) + self.left.of_image(x, self.inputs, memory)
        last, _ = self.horizontal(start, heard, memory, generator)
        return in_full_precision(self.to_outputs, F.elu(last), memory)

    def rows_above(
        self, x: Tensor, memory: Memory | None, generator: torch.Generator | None
    ) -> tuple[Tensor, list[Said]]:
        """Return what the row above says to the start of the horizontal stream, and what the vertical stream says."""
        near = self.above_near.of_image(x, self.inputs, memory)
        start = self.above.of_image(x, self.inputs, memory)
        return near, self.vertical(start, [], memory, generator)[1]
