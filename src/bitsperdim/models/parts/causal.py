r"""Causal layers: convolutions that see only what comes before, and the memory with which they sample fast.

The order of an image is row by row, pixel by pixel, and inside a pixel channel by channel. A layer says which rows and
columns it sees, counted from its own place; ``rows=(-1, 0), columns=(-1, 1)`` is the row above and its own, one column
to either side::

    columns     -1  0  1
    row -1       x  x  x
    row  0       x  x  x

So the direction in which a network looks is read off its layers. What a window covers beyond the own place in the own
row is masked away (``order``), or is never asked for: layers of a *vertical* stack start from rows above alone, so
that their own row holds nothing that is later.

The same code of a network computes three things, by what ``memory`` it is given:

=====================  =========================  =====================================================
memory                 maps are                   for
=====================  =========================  =====================================================
None                   (B, n, H, W)               likelihoods and training, all places at once
at a row               (B, n, 1, W)               a row that is known, and all that rows above say
at a pixel             (B, n, 1, 1)               sampling: only what depends on the new pixel
=====================  =========================  =====================================================

With a memory each layer remembers the last rows of its own input, no more than its window needs, and computes its
output at the place alone. Rows must be visited in order, and the pixels of a row too; a pixel may be visited several
times, whose last visit counts. All maps but those of a whole image are short-lived.

Not here: networks, and how a value is drawn (``sampling.py``).

Invariants (``tests/models/test_causal.py``): a layer sees its window and nothing else
(``test_a_layer_sees_its_window``); row by row and pixel by pixel it computes what it computes at once
(``test_the_three_ways_agree``); half-sized and double-sized maps are causal for odd sizes too
(``test_coarser_maps_are_causal``); normalised outputs start with the spread asked for
(``test_the_start_is_normalised``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Value = TypeVar("Value")
SMALLEST_SPREAD = 1e-3  # of an output at the start, below which it is not spread to one


class Memory:
    """What the layers of a network remember of earlier places, and the place that is next.

    It is written in place, without gradients, and holds for one batch of images and one state of the weights.

    Attributes:
        height, width: of the map at this scale.
        row: of the place.
        column: of the place; None: the whole row.
        said: a row, and what the rows above say to it (:func:`in_row`).
    """

    def __init__(self, height: int, width: int) -> None:
        """Remember nothing, at the first row."""
        self.height, self.width = height, width
        self.row = 0
        self.column: int | None = None
        self._layers: dict[nn.Module, _LayerMemory] = {}
        self._coarser: Memory | None = None
        self.said: tuple[int, object] | None = None

    def go_to(self, row: int, column: int | None = None) -> Memory:
        """Make a place the next one; a column of None is the whole row."""
        self.row, self.column = row, column
        return self

    @property
    def is_on_grid(self) -> bool:
        """Whether the map of half the size has this place: even rows and even columns."""
        return self.row % 2 == 0 and (self.column is None or self.column % 2 == 0)

    @property
    def coarser(self) -> Memory:
        """The memory of the map of half the size, at its place next to this."""
        if self._coarser is None:
            self._coarser = Memory(-(-self.height // 2), -(-self.width // 2))
        return self._coarser.go_to(self.row // 2, None if self.column is None else self.column // 2)

    def of(self, layer: nn.Module, start: Callable[[], _LayerMemory]) -> _LayerMemory:
        """Return what a layer remembers."""
        if layer not in self._layers:
            self._layers[layer] = start()
        return self._layers[layer]


def in_row(memory: Memory | None, compute: Callable[[], Value]) -> Value:
    """Return what ``compute`` gives, for all places or for the whole row of a memory.

    What rows above say is the same at every visit of a row, so it is computed at the first.
    """
    if memory is None:
        return compute()
    if memory.said is None or memory.said[0] != memory.row:
        column, memory.column = memory.column, None
        memory.said = (memory.row, compute())
        memory.column = column
    return memory.said[1]  # type: ignore[return-value]


def at_place(row: Tensor, memory: Memory | None) -> Tensor:
    """Return the place of a row (B, n, 1, W); without a memory, or at a row, it is there already."""
    return row if memory is None or memory.column is None else row[..., memory.column : memory.column + 1]


class _LayerMemory:
    """The weights of one layer, computed once, and the last rows of its input.

    Attributes:
        weight: as convolutions take it.
        matrix: the same as (n_outputs, rows * columns * n_inputs), or one for each place of a 2x2 cell.
        rows: (B, rows, left + W + right, n), the last is that of ``row``; None: nothing yet.
    """

    def __init__(self, weight: Tensor, matrix: Tensor) -> None:
        self.weight, self.matrix = weight, matrix
        self.rows: Tensor | None = None
        self.row = 0

    def put(self, x: Tensor, memory: Memory, n_rows: int, left: int, right: int) -> Tensor:
        """Remember the input at a place, and return the rows."""
        if self.rows is None:
            self.rows = x.new_zeros(x.shape[0], n_rows, left + memory.width + right, x.shape[1])
            self.row = memory.row
        elif self.row != memory.row:
            assert memory.row == self.row + 1, f"row {memory.row} came after row {self.row}"
            self.rows[:, :-1] = self.rows[:, 1:].clone()
            self.rows[:, -1] = 0
            self.row = memory.row
        if memory.column is None:
            self.rows[:, -1, left : left + memory.width] = x.squeeze(2).transpose(1, 2)
        else:
            self.rows[:, -1, left + memory.column] = x.flatten(1)
        return self.rows


class CausalConv2d(nn.Module):
    r"""A convolution that sees a window of rows and columns.

    With ``normalised`` weights (Salimans and Kingma 2016, "Weight Normalization", equation 2) an output has a direction
    v and a gain g,

    .. math:: w = g \, \frac{v}{\lVert v \rVert}

    which start so that every output has mean zero and a given spread over some images (their section 3).

    Args:
        n_inputs: input maps.
        n_outputs: output maps.
        rows: first and last row of the window, counted from the own; at most 0.
        columns: first and last column, counted from the own; the first at most 0, the last at least -1.
        order: (n_outputs, n_inputs), which inputs an output sees at its own place, where it then sees nothing to the
            right; None: all of the window.
        stride: 2 gives a map of half the size, rounded up, of the places with even row and column.
        normalised: whether weights have directions and gains.
        start: the spread of normalised outputs at the start.
    """

    mask: Tensor | None

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        rows: tuple[int, int] = (0, 0),
        columns: tuple[int, int] = (0, 0),
        order: Tensor | None = None,
        stride: int = 1,
        normalised: bool = False,
        start: float = 1.0,
    ) -> None:
        """Build the weights and the mask."""
        super().__init__()
        self.rows, self.columns, self.stride, self.start = rows, columns, stride, start
        self.kernel_size = (rows[1] - rows[0] + 1, columns[1] - columns[0] + 1)
        self.padding = (-columns[0], columns[1], -rows[0], rows[1])  # left, right, top, bottom; below zero: cut off
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        mask = None
        if order is not None:
            mask = torch.ones(n_outputs, n_inputs, *self.kernel_size)
            mask[:, :, -1, 1 - columns[0] :] = 0
            mask[:, :, -1, -columns[0]] = order.to(mask.dtype)
        self.register_buffer("mask", mask, persistent=False)
        self.gain = nn.Parameter(torch.ones(n_outputs)) if normalised else None
        self.is_starting = False
        if normalised:
            nn.init.normal_(self.weight, std=0.05)
        else:
            bound = 1 / math.sqrt(n_inputs * math.prod(self.kernel_size))
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def n_masked(self) -> int:
        """The number of weights that the mask holds at zero."""
        return 0 if self.mask is None else int((self.mask == 0).sum())

    def effective_weight(self) -> Tensor:
        """Return the weights after mask and normalisation, (n_outputs, n_inputs, rows, columns)."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return weight if self.gain is None else normalised(weight.permute(0, 2, 3, 1), self.gain).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the output at all places, or at the place of the memory, which remembers ``x``.

        Args:
            x: (B, n_inputs, H, W), or a row (B, n_inputs, 1, W), or a pixel (B, n_inputs, 1, 1).
            memory: at the place of ``x``, which is on the grid where the stride is 2.
        """
        if memory is None:
            if self.is_starting:
                start_normalised(self, x)
            return F.conv2d(padded(x, self.padding), self.effective_weight(), self.bias, self.stride)
        window, known = self.remember(x, memory), memory.of(self, self.known)
        if memory.column is None:
            return F.conv2d(window.permute(0, 3, 1, 2), known.weight, self.bias, (1, self.stride))
        return F.linear(window.flatten(1), known.matrix, self.bias)[..., None, None]

    def remember(self, x: Tensor, memory: Memory) -> Tensor:
        """Remember the input at the place, and return the window there, (B, rows, columns, n_inputs).

        Of a row it is the window that moves along it. Where a stride of 2 leaves a place out, only this is due.
        """
        if self.kernel_size == (1, 1):
            return x.permute(0, 2, 3, 1)
        left, right = -self.columns[0], self.columns[1]
        rows = memory.of(self, self.known).put(x, memory, 1 - self.rows[0], left, max(right, 0))
        first, last = (0, memory.width) if memory.column is None else (memory.column, memory.column + 1)
        return rows[:, : self.kernel_size[0], first : last + left + right]

    def of_image(self, x: Tensor, prepare: Callable[[Tensor], Tensor], memory: Memory | None = None) -> Tensor:
        """Return the output for a whole image, of which only the window is read.

        Args:
            x: (B, C, H, W), the image, whose later values do not matter.
            prepare: from values of the image to inputs of the network, place by place.
            memory: at the place that is asked for.
        """
        if memory is None:
            return self(prepare(x))
        row, column = memory.row, memory.column
        top, bottom = row + self.rows[0], max(row + self.rows[1] + 1, 0)
        first, last = (0, x.shape[3]) if column is None else (column, column + 1)
        left, right = first + self.columns[0], last + self.columns[1]
        window = prepare(x[..., max(top, 0) : bottom, max(left, 0) : right])
        padding = (max(-left, 0), max(right - x.shape[3], 0), max(-top, 0), 0)
        window, known = F.pad(window, padding), memory.of(self, self.known)
        if column is None:
            return F.conv2d(window, known.weight, self.bias)
        flat = window.permute(0, 2, 3, 1).flatten(1)
        return F.linear(flat, known.matrix, self.bias)[..., None, None]

    def known(self) -> _LayerMemory:
        """Return a memory that knows the weights alone."""
        weight = self.effective_weight()
        return _LayerMemory(weight, weight.permute(0, 2, 3, 1).flatten(1).contiguous())

    def extra_repr(self) -> str:
        """Say what it sees."""
        n_outputs, n_inputs = self.weight.shape[:2]
        return f"{n_inputs}, {n_outputs}, rows={self.rows}, columns={self.columns}, stride={self.stride}"


class CausalUpsampling(nn.Module):
    """From a map of half the size to one of the full size: each coarse place gives the four of its 2x2 cell.

    What a coarse place knows is earlier than all four. With ``is_wide`` it gives one column to the left as well, for
    vertical stacks, which know nothing of their own row.

    Args:
        n_inputs: input maps.
        n_outputs: output maps.
        is_wide: three columns instead of two.

    Weights are normalised, as of :class:`CausalConv2d`.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, is_wide: bool) -> None:
        """Build the weights."""
        super().__init__()
        self.n_left = 1 if is_wide else 0
        self.weight = nn.Parameter(torch.empty(n_inputs, n_outputs, 2, 2 + self.n_left))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        self.gain = nn.Parameter(torch.ones(n_outputs))
        self.start, self.is_starting = 1.0, False
        nn.init.normal_(self.weight, std=0.05)

    def effective_weight(self) -> Tensor:
        """Return the weights after normalisation, (n_inputs, n_outputs, 2, columns)."""
        return normalised(self.weight.permute(1, 2, 3, 0), self.gain).permute(3, 0, 1, 2)

    def forward(self, x: Tensor | None, size: tuple[int, int], memory: Memory | None = None) -> Tensor:
        """Return the map of the full size, or its place of the memory.

        Args:
            x: (B, n_inputs, h, w) or its place; None where the memory is not on the grid: then it remembers.
            size: (H, W) of the full map; where they are odd the last row or column is cut off.
            memory: of the full map.
        """
        if memory is None:
            assert x is not None
            if self.is_starting:
                start_normalised(self, x)
            return self.whole(x, self.effective_weight(), size)
        known = memory.of(self, self.known)
        if x is not None:
            known.put(x, memory.coarser, 1, 0, 0)
        assert known.rows is not None, "the first place is on the grid"
        half = memory.row % 2
        if memory.column is None:
            coarse = known.rows.permute(0, 3, 1, 2)  # (B, n_inputs, 1, w)
            wide = F.conv_transpose2d(coarse, known.weight[:, :, half : half + 1], self.bias, (1, 2))
            return wide[..., self.n_left : self.n_left + size[1]]
        assert not self.n_left, "a wide upsampling belongs to a vertical stack, which knows rows alone"
        matrix = known.matrix[half, memory.column % 2]
        return F.linear(known.rows[:, 0, memory.column // 2], matrix, self.bias)[..., None, None]

    def whole(self, x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the map of the full size."""
        full = F.conv_transpose2d(x, weight, self.bias, 2)
        return full[..., : size[0], self.n_left : self.n_left + size[1]]

    def known(self) -> _LayerMemory:
        """Return a memory that knows the weights alone."""
        weight = self.effective_weight()
        return _LayerMemory(weight, weight.permute(2, 3, 1, 0).contiguous())


def padded(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Return a map with zeros around it, or less of it where a padding is below zero."""
    return F.pad(x, padding) if any(padding) else x


def normalised(direction: Tensor, gain: Tensor) -> Tensor:
    """Return directions (n_outputs, ...) scaled to the norm ``gain`` (n_outputs,) each, by torch's fused function."""
    flat = direction.flatten(1)  # no copy where the weights lie with their channels last
    return torch._weight_norm(flat, gain[:, None], 0).unflatten(1, direction.shape[1:])


@torch.no_grad()
def start_normalised(layer: CausalConv2d | CausalUpsampling, x: Tensor) -> None:
    """Set gain and bias so that outputs for these inputs have mean zero and the layer's start as their spread.

    An output that hardly varies gets that spread as its gain instead: divided by its own it would be all rounding.
    """
    assert layer.gain is not None
    layer.is_starting = False
    layer.bias.zero_()
    layer.gain.fill_(1)
    output = layer(x, (2 * x.shape[2], 2 * x.shape[3])) if isinstance(layer, CausalUpsampling) else layer(x)
    output = output.float() if output.dtype != torch.float64 else output
    spread = output.std((0, 2, 3), correction=0)
    gain = torch.where(spread > SMALLEST_SPREAD, layer.start / spread, layer.start)
    layer.gain.copy_(gain)
    layer.bias.copy_(-output.mean((0, 2, 3)) * gain)


def groups_of(n_maps: int, n_groups: int) -> Tensor:
    """Return the group of each map: in order, as evenly as they can be."""
    return torch.arange(n_maps) * n_groups // n_maps


def order_of(inputs: Tensor, outputs: Tensor, *, sees_own_group: bool) -> Tensor:
    """Return which inputs an output sees at its own place, (n_outputs, n_inputs), by the groups that they belong to.

    Earlier groups, and its own for all layers but the first (masks B and A of van den Oord et al. 2016).
    """
    earlier, own = inputs[None, :] < outputs[:, None], inputs[None, :] == outputs[:, None]
    return earlier | own if sees_own_group else earlier
