r"""Causal layers: convolutions that see only earlier values, and the memory that makes sampling fast.

The order of an image is row by row, pixel by pixel, and channel by channel within a pixel. The window of a layer is
given as rows and columns relative to the current position. For example, ``rows=(-1, 0), columns=(-1, 1)`` is the row
above and the current row, with one column on either side::

    columns     -1  0  1
    row -1       x  x  x
    row  0       x  x  x

The layers therefore show in which direction a network looks. A window may cover later positions in the current row.
Either a mask sets their weights to zero (``order``), or they hold no later values: the first layer of a *vertical*
stack sees only rows above, so the maps of the stack contain nothing from the current row or later rows.

The same code of a network computes three things, depending on the ``memory``:

=====================  =========================  =====================================================
memory                 shape of the maps          use
=====================  =========================  =====================================================
None                   (B, n, H, W)               likelihoods and training, all positions at once
at a row               (B, n, 1, W)               a known row, and the outputs of vertical stacks
at a pixel             (B, n, 1, 1)               sampling: only values that depend on the new pixel
=====================  =========================  =====================================================

With a memory each layer stores the last rows of its own input, as many as its window needs, and computes its output
only at the current position. Rows must be visited in order, and so must the pixels of a row. If a pixel is visited
several times, its last visit counts. All maps except those of a whole image are short-lived.

The networks and the drawing of values are not here (``autoregressive.py``).

Invariants (``tests/models/test_causal.py``): a layer sees its window and nothing else
(``test_a_layer_sees_its_window``); row by row and pixel by pixel, it computes the same as for all positions at once
(``test_the_three_ways_agree``); half-sized and double-sized maps are causal for odd sizes too
(``test_coarser_maps_are_causal``); normalised outputs start with the given spread
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
SMALLEST_SPREAD = 1e-3  # an output whose initial spread is below this is not divided by its spread


class Memory:
    """The cached values of all layers at earlier positions, and the current position.

    A memory is changed in place, without gradients. It is valid for one batch of images and for fixed weights.

    Attributes:
        height, width: size of the map at this scale.
        row: row of the current position.
        column: column of the current position; None: the whole row.
        said: a row, and the cached values that depend only on rows above it (:func:`in_row`).
    """

    def __init__(self, height: int, width: int) -> None:
        """Start with an empty cache at the first row."""
        self.height, self.width = height, width
        self.row = 0
        self.column: int | None = None
        self._layers: dict[nn.Module, _LayerMemory] = {}
        self._coarser: Memory | None = None
        self.said: tuple[int, object] | None = None

    def go_to(self, row: int, column: int | None = None) -> Memory:
        """Set the current position and return the memory; a column of None means the whole row."""
        self.row, self.column = row, column
        return self

    @property
    def is_on_grid(self) -> bool:
        """Whether the map of half the size has this position: row and column are even."""
        return self.row % 2 == 0 and (self.column is None or self.column % 2 == 0)

    @property
    def coarser(self) -> Memory:
        """The memory for the map of half the size, at the position that corresponds to the current one."""
        if self._coarser is None:
            self._coarser = Memory(-(-self.height // 2), -(-self.width // 2))
        return self._coarser.go_to(self.row // 2, None if self.column is None else self.column // 2)

    def of(self, layer: nn.Module, start: Callable[[], _LayerMemory]) -> _LayerMemory:
        """Return the cache of a layer, and create it by ``start`` at the first call."""
        if layer not in self._layers:
            self._layers[layer] = start()
        return self._layers[layer]


def in_row(memory: Memory | None, compute: Callable[[], Value]) -> Value:
    """Return the result of ``compute`` for all positions, or for the whole row of a memory.

    Use it for values that depend only on rows above: they are the same at every visit of a row, so they are computed
    at the first visit only.
    """
    if memory is None:
        return compute()
    if memory.said is None or memory.said[0] != memory.row:
        column = memory.column
        memory.column = None
        memory.said = (memory.row, compute())
        memory.column = column
    return memory.said[1]  # type: ignore[return-value]


def at_place(row: Tensor, memory: Memory | None) -> Tensor:
    """Return the current position of a row (B, n, 1, W); without a memory, or at a whole row, return the input."""
    return row if memory is None or memory.column is None else row[..., memory.column : memory.column + 1]


class _LayerMemory:
    """The cache of one layer: its effective weights, computed once, and the last rows of its input.

    Attributes:
        weight: weights in the shape that convolutions take.
        matrix: weights as a matrix (n_outputs, rows * columns * n_inputs), or one matrix for each position in a 2x2
            cell.
        rows: last rows of the input, (B, rows, left + W + right, n), the last of them row number ``row``; None: no
            input yet.
    """

    def __init__(self, weight: Tensor, matrix: Tensor) -> None:
        self.weight, self.matrix = weight, matrix
        self.rows: Tensor | None = None
        self.row = 0

    def put(self, x: Tensor, memory: Memory, n_rows: int, left: int, right: int) -> Tensor:
        """Store the input at the current position, and return the stored rows."""
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

    With ``normalised`` weights (Salimans and Kingma 2016, "Weight Normalization", equation 2) each output has a
    direction v and a gain g,

    .. math:: w = g \, \frac{v}{\lVert v \rVert}

    The gains and biases are initialised so that every output has mean zero and a given spread over some images (section
    3 of that paper).

    Args:
        n_inputs: number of input maps.
        n_outputs: number of output maps.
        rows: first and last row of the window, relative to the current row; both at most 0.
        columns: first and last column, relative to the current column; the first at most 0, the last at least -1.
        order: which inputs each output sees at the current position, (n_outputs, n_inputs); with it, an output sees
            nothing to the right in the last row of the window. None: an output sees the whole window.
        stride: 1, or 2 for a map of half the size, rounded up, with the positions of even row and column.
        normalised: whether the weights have directions and gains.
        start: initial spread of normalised outputs.
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
        self.padding = (-columns[0], columns[1], -rows[0], rows[1])  # left, right, top, bottom; negative values crop
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
        """The number of weights that the mask sets to zero."""
        return 0 if self.mask is None else int((self.mask == 0).sum())

    def effective_weight(self) -> Tensor:
        """Return the weights after mask and normalisation, (n_outputs, n_inputs, rows, columns)."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return weight if self.gain is None else normalised(weight.permute(0, 2, 3, 1), self.gain).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the output at all positions, or at the position of the memory, which then stores ``x``.

        Args:
            x: maps (B, n_inputs, H, W), or a row (B, n_inputs, 1, W), or a pixel (B, n_inputs, 1, 1).
            memory: cache at the position of ``x``; if the stride is 2, this position must be on the grid.
        """
        if memory is None:
            if self.is_starting:
                start_normalised(self, x)
            return F.conv2d(padded(x, self.padding), self.effective_weight(), self.bias, self.stride)
        window = self.remember(x, memory)
        known = memory.of(self, self.known)
        if memory.column is None:
            return F.conv2d(window.permute(0, 3, 1, 2), known.weight, self.bias, (1, self.stride))
        return F.linear(window.flatten(1), known.matrix, self.bias)[..., None, None]

    def remember(self, x: Tensor, memory: Memory) -> Tensor:
        """Store the input at the current position, and return the window there, (B, rows, columns, n_inputs).

        For a whole row, the result is the input of a convolution along this row. If a stride of 2 skips the position,
        only this method has to be called.
        """
        if self.kernel_size == (1, 1):
            return x.permute(0, 2, 3, 1)
        left, right = -self.columns[0], self.columns[1]
        rows = memory.of(self, self.known).put(x, memory, 1 - self.rows[0], left, max(right, 0))
        first, last = (0, memory.width) if memory.column is None else (memory.column, memory.column + 1)
        return rows[:, : self.kernel_size[0], first : last + left + right]

    def of_image(self, x: Tensor, prepare: Callable[[Tensor], Tensor], memory: Memory | None = None) -> Tensor:
        """Return the output for a whole image; with a memory, only the window at its position is read.

        Args:
            x: image (B, C, H, W), whose later values do not matter.
            prepare: map from image values to network inputs, independent for each position.
            memory: cache at the current position; None: all positions at once.
        """
        if memory is None:
            return self(prepare(x))
        row, column = memory.row, memory.column
        top, bottom = row + self.rows[0], max(row + self.rows[1] + 1, 0)
        first, last = (0, x.shape[3]) if column is None else (column, column + 1)
        left, right = first + self.columns[0], last + self.columns[1]
        window = prepare(x[..., max(top, 0) : bottom, max(left, 0) : right])
        padding = (max(-left, 0), max(right - x.shape[3], 0), max(-top, 0), 0)
        window = F.pad(window, padding)
        known = memory.of(self, self.known)
        if column is None:
            return F.conv2d(window, known.weight, self.bias)
        flat = window.permute(0, 2, 3, 1).flatten(1)
        return F.linear(flat, known.matrix, self.bias)[..., None, None]

    def known(self) -> _LayerMemory:
        """Return a cache that holds only the weights."""
        weight = self.effective_weight()
        return _LayerMemory(weight, weight.permute(0, 2, 3, 1).flatten(1).contiguous())

    def extra_repr(self) -> str:
        """Return the sizes and the window, for ``repr``."""
        n_outputs, n_inputs = self.weight.shape[:2]
        return f"{n_inputs}, {n_outputs}, rows={self.rows}, columns={self.columns}, stride={self.stride}"


class CausalUpsampling(nn.Module):
    """An upsampling from a map of half the size: each coarse position gives the four positions of its 2x2 cell.

    The value at a coarse position depends only on values before all four of them. With ``is_wide`` it also gives one
    column to the left. This is causal for vertical stacks, whose values do not depend on their own row.

    The weights are normalised, as in :class:`CausalConv2d`.

    Args:
        n_inputs: number of input maps.
        n_outputs: number of output maps.
        is_wide: whether a coarse position gives three columns instead of two.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, is_wide: bool) -> None:
        """Build the weights."""
        super().__init__()
        self.n_left = 1 if is_wide else 0
        self.weight = nn.Parameter(torch.empty(n_inputs, n_outputs, 2, 2 + self.n_left))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        self.gain = nn.Parameter(torch.ones(n_outputs))
        self.start = 1.0
        self.is_starting = False
        nn.init.normal_(self.weight, std=0.05)

    def effective_weight(self) -> Tensor:
        """Return the weights after normalisation, (n_inputs, n_outputs, 2, columns)."""
        return normalised(self.weight.permute(1, 2, 3, 0), self.gain).permute(3, 0, 1, 2)

    def forward(self, x: Tensor | None, size: tuple[int, int], memory: Memory | None = None) -> Tensor:
        """Return the map of the full size, or only the position of the memory.

        Args:
            x: coarse map (B, n_inputs, h, w), or one row or position of it; None if the memory is not on the grid, so
                that the stored value is used.
            size: size (H, W) of the full map; if a side is odd, the last row or column is cropped.
            memory: cache for the full map; None: all positions at once.
        """
        if memory is None:
            assert x is not None
            if self.is_starting:
                start_normalised(self, x)
            return self.whole(x, self.effective_weight(), size)
        known = memory.of(self, self.known)
        if x is not None:
            known.put(x, memory.coarser, 1, 0, 0)
        assert known.rows is not None, "the first position is on the grid"
        half = memory.row % 2
        if memory.column is None:
            coarse = known.rows.permute(0, 3, 1, 2)  # (B, n_inputs, 1, w)
            wide = F.conv_transpose2d(coarse, known.weight[:, :, half : half + 1], self.bias, (1, 2))
            return wide[..., self.n_left : self.n_left + size[1]]
        assert not self.n_left, "a wide upsampling belongs to a vertical stack, which is computed row by row"
        matrix = known.matrix[half, memory.column % 2]
        return F.linear(known.rows[:, 0, memory.column // 2], matrix, self.bias)[..., None, None]

    def whole(self, x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the map of the full size."""
        full = F.conv_transpose2d(x, weight, self.bias, 2)
        return full[..., : size[0], self.n_left : self.n_left + size[1]]

    def known(self) -> _LayerMemory:
        """Return a cache that holds only the weights."""
        weight = self.effective_weight()
        return _LayerMemory(weight, weight.permute(2, 3, 1, 0).contiguous())


def padded(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Return a map with zeros around it; negative paddings crop the map."""
    return F.pad(x, padding) if any(padding) else x


def normalised(direction: Tensor, gain: Tensor) -> Tensor:
    """Scale each direction (n_outputs, ...) to the norm ``gain`` (n_outputs,), with the fused function of torch."""
    flat = direction.flatten(1)  # no copy if the weights are stored in channels_last format
    return torch._weight_norm(flat, gain[:, None], 0).unflatten(1, direction.shape[1:])


@torch.no_grad()
def start_normalised(layer: CausalConv2d | CausalUpsampling, x: Tensor) -> None:
    """Set gain and bias so that the outputs for these inputs have mean zero and the spread ``layer.start``.

    An output that hardly varies gets ``layer.start`` as its gain instead, because a division by its own spread would
    amplify rounding errors.
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
    """Return the group of each map: in order, and as evenly as possible."""
    return torch.arange(n_maps) * n_groups // n_maps


def order_of(inputs: Tensor, outputs: Tensor, *, sees_own_group: bool) -> Tensor:
    """Return which inputs each output sees at its own position, (n_outputs, n_inputs).

    An output sees earlier groups, and with ``sees_own_group`` its own group too (masks A and B of van den Oord et al.
    2016).

    Args:
        inputs: group of each input map, (n_inputs,).
        outputs: group of each output map, (n_outputs,).
        sees_own_group: whether an output sees its own group.
    """
    earlier, own = inputs[None, :] < outputs[:, None], inputs[None, :] == outputs[:, None]
    return earlier | own if sees_own_group else earlier
