"""Causal layers: the window is exact, and rows and pixels give the same as all positions at once."""

import itertools

import pytest
import torch
from torch import Tensor

from bitsperdim.models.parts.causal import CausalConv2d, CausalUpsampling, Memory, groups_of, in_row, order_of

pytestmark = pytest.mark.processor

WINDOWS = [
    ((-1, 0), (-1, 1)),
    ((-2, -1), (-1, 1)),
    ((-1, -1), (-2, 2)),
    ((-1, 0), (-1, -1)),
    ((-1, 0), (-1, 0)),
    ((0, 0), (-3, 0)),
    ((0, 0), (0, 0)),
]
SHAPES = [(5, 6), (4, 3), (1, 7), (6, 1)]


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("rows", "columns"), WINDOWS)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_sees_its_window(rows: tuple[int, int], columns: tuple[int, int], stride: int) -> None:
    """Tested by gradients, two-sided, for odd and even sides; the map of half the size is rounded up."""
    layer = CausalConv2d(2, 3, rows=rows, columns=columns, stride=stride).double()
    x = maps(1, 2, 5, 6).requires_grad_()
    output = layer(x)
    assert output.shape == (1, 3, -(-5 // stride), -(-6 // stride))
    for row, column in itertools.product(range(output.shape[2]), range(output.shape[3])):
        (gradient,) = torch.autograd.grad(output[0, :, row, column].sum(), x, retain_graph=True)
        seen = {(int(r), int(c)) for r, c in (gradient[0] != 0).any(0).nonzero()}
        window = itertools.product(range(rows[0], rows[1] + 1), range(columns[0], columns[1] + 1))
        places = {(stride * row + r, stride * column + c) for r, c in window}
        assert seen == {(r, c) for r, c in places if 0 <= r < 5 and 0 <= c < 6}


def test_an_order_masks_the_own_place_and_what_is_right_of_it() -> None:
    order = order_of(groups_of(4, 2), groups_of(6, 2), sees_own_group=False)
    layer = CausalConv2d(4, 6, rows=(-1, 0), columns=(-1, 1), order=order).double()
    x = maps(1, 4, 3, 3).requires_grad_()
    for output, expected in ((0, []), (5, [0, 1])):  # an output of the first group, and one of the second
        (gradient,) = torch.autograd.grad(layer(x)[0, output, 1, 1], x)
        assert gradient[0, :, 1, 1].nonzero().flatten().tolist() == expected
        assert (gradient[0, :, 0] != 0).all()
        assert (gradient[0, :, 1, 0] != 0).all()
        assert (gradient[0, :, 1:, 2] == 0).all()
        assert (gradient[0, :, 2] == 0).all()
    assert layer.n_masked == 6 * 4 + (24 - 3 * 2)  # to the right; at the own place without allowed ones


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize(("rows", "columns"), WINDOWS)
@pytest.mark.parametrize("normalised", [False, True])
def test_the_three_ways_agree(
    rows: tuple[int, int], columns: tuple[int, int], height: int, width: int, normalised: bool
) -> None:
    """All at once, row by row, and pixel by pixel give the same; later values are unknown and do not matter."""
    layer = CausalConv2d(2, 3, rows=rows, columns=columns, normalised=normalised).double()
    x = maps(2, 2, height, width)
    whole, image = layer(x), Memory(height, width)
    by_row, by_pixel = Memory(height, width), Memory(height, width)
    for row in range(height):
        expected = whole[:, :, row : row + 1]
        close(layer.of_image(x, lambda x: x, image.go_to(row)), expected)
        if rows[1] == 0:
            close(layer(x[:, :, row : row + 1], by_row.go_to(row)), expected)
        for column in range(width):
            close(layer.of_image(x, lambda x: x, image.go_to(row, column)), expected[..., column : column + 1])
            if rows[1] == 0 and columns[1] <= 0:
                place = by_pixel.go_to(row, column)
                layer(maps(2, 2, 1, 1, seed=9), place)  # an earlier visit, which does not count
                close(layer(x[:, :, row : row + 1, column : column + 1], place), expected[..., column : column + 1])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("is_wide", [False, True])
def test_coarser_maps_are_causal(height: int, width: int, is_wide: bool) -> None:
    """To half the size and back: a position sees rows above (and its row to the left); row by row gives the same."""
    columns = (-1, 1) if is_wide else (-1, 0)
    halve = CausalConv2d(2, 3, rows=(-1, 0), columns=columns, stride=2, normalised=True).double()
    double = CausalUpsampling(3, 2, is_wide=is_wide).double()
    x = maps(2, 2, height, width).requires_grad_()
    whole = double(halve(x), (height, width))
    assert whole.shape == x.shape
    for row, column in itertools.product(range(height), range(width)):
        (gradient,) = torch.autograd.grad(whole[:, :, row, column].sum(), x, retain_graph=True)
        seen = (gradient != 0).any(0).any(0)
        later = torch.arange(height * width).reshape(height, width) > row * width + column
        assert not seen[row + 1 :].any()
        assert is_wide or not (seen & later).any()
        assert seen.any()
    by_row, by_pixel = Memory(height, width), Memory(height, width)
    for row in range(height):
        close(by_place(halve, double, x[:, :, row : row + 1], by_row.go_to(row)), whole[:, :, row : row + 1])
        for column in [] if is_wide else range(width):
            pixel = x[:, :, row : row + 1, column : column + 1]
            found = by_place(halve, double, pixel, by_pixel.go_to(row, column))
            close(found, whole[:, :, row : row + 1, column : column + 1])


def by_place(halve: CausalConv2d, double: CausalUpsampling, x: Tensor, memory: Memory) -> Tensor:
    coarse = halve(x, memory) if memory.is_on_grid else None
    if coarse is None:
        halve.remember(x, memory)
    return double(coarse, (memory.height, memory.width), memory)


def test_rows_are_visited_in_order() -> None:
    layer = CausalConv2d(1, 1, rows=(-1, 0)).double()
    memory = Memory(4, 1)
    layer(maps(1, 1, 1, 1), memory.go_to(0, 0))
    with pytest.raises(AssertionError, match="row 2 came after row 0"):
        layer(maps(1, 1, 1, 1), memory.go_to(2, 0))


def test_what_rows_above_say_is_computed_once_a_row() -> None:
    memory, calls = Memory(2, 3), []
    for row, column in itertools.product(range(2), range(3)):
        memory.go_to(row, column)
        assert in_row(memory, lambda: calls.append(memory.column) or memory.row) == row
        assert memory.column == column
    assert calls == [None, None]  # None: for the whole row
    assert in_row(None, lambda: "all") == "all"


@pytest.mark.parametrize("is_upsampling", [False, True])
def test_the_start_is_normalised(is_upsampling: bool) -> None:
    """Outputs start with mean zero and the given spread over some images; constant outputs are not amplified."""
    layer: CausalConv2d | CausalUpsampling = (
        CausalUpsampling(3, 4, is_wide=True)
        if is_upsampling
        else CausalConv2d(3, 4, rows=(-1, 0), columns=(-1, 1), normalised=True, start=0.3)
    )
    layer.double()

    def output(x: Tensor) -> Tensor:
        return layer(x, (12, 10)) if isinstance(layer, CausalUpsampling) else layer(x)

    x = 5 + 2 * maps(7, 3, 6, 5)
    layer.is_starting = True
    output(x)
    assert not layer.is_starting
    found, start = output(x), layer.start
    close(found.mean((0, 2, 3)), torch.zeros(4).double())
    close(found.std((0, 2, 3), correction=0), torch.full((4,), start, dtype=torch.float64))
    layer.is_starting = True
    output(torch.zeros(2, 3, 6, 5).double())
    assert layer.gain is not None
    close(layer.gain.detach(), torch.full((4,), start, dtype=torch.float64))
