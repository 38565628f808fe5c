"""The constructed network equals the step function except on ramps; its size and its error are as stated."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from bitsperdim.core.errors import InputError
from bitsperdim.studies.universal_resnet import OneNeuronResNet, construct
from bitsperdim.studies.universal_resnet.construction import Function, centres, n_blocks, plan, steps

BUMP = (-1.0, 1.0)


def disc(x: np.ndarray) -> np.ndarray:
    return (np.square(x).sum(-1) < 1).astype(np.float64)


def wave(x: np.ndarray) -> np.ndarray:
    """A function with values of both signs, in any number of dimensions."""
    return np.prod(1 - x**2, -1) * np.cos(5 * x[:, 0] - x[:, -1])


def far_from_zero(x: np.ndarray) -> np.ndarray:
    return 1_000.0 + 200 * np.sin(3 * x[:, 0])


def negative(x: np.ndarray) -> np.ndarray:
    return -np.exp(x.sum(-1))


def constant_zero(x: np.ndarray) -> np.ndarray:
    return np.zeros(len(x))


CASES: dict[str, tuple[Function, int, float, float, int]] = {
    "one cell": (wave, 1, -1.0, 1.0, 1),
    "two cells": (wave, 1, -1.0, 1.0, 2),
    "line": (wave, 1, -1.0, 1.0, 40),
    "line, off centre": (wave, 1, 3.0, 3.5, 7),
    "line, negative": (negative, 1, -2.0, 1.0, 9),
    "line, far from zero": (far_from_zero, 1, -1.0, 1.0, 12),
    "line, zero": (constant_zero, 1, 0.0, 1.0, 3),
    "plane": (wave, 2, -1.0, 1.0, 9),
    "plane, disc": (disc, 2, -1.0, 1.0, 8),
    "plane, odd box": (negative, 2, -0.3, 2.0, 5),
    "space": (wave, 3, -1.0, 1.0, 4),
    "space, one cell": (negative, 3, -1.0, 1.0, 1),
}


def values(net: OneNeuronResNet, x: np.ndarray) -> np.ndarray:
    return net(torch.from_numpy(x)).numpy()


def nodes(d: int, lower: float, upper: float, cells: int, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return midpoints that resolve every ramp, inside the box and one cell's width around it, and their volumes."""
    h = (upper - lower) / cells
    faces = np.linspace(lower, upper, cells + 1)[1:-1]
    edges = [lower - h, lower, lower + delta]
    for face in faces:
        edges += [face - delta / 2, face + delta / 2]
    edges += [upper - delta, upper, upper + h]
    along, widths = [], []
    for low, high in pairwise(edges):
        n = 7 if high - low < 2 * delta else 3
        along += [low + (high - low) * (k + 0.5) / n for k in range(n)]
        widths += [(high - low) / n] * n
    x = np.stack([axis.ravel() for axis in np.meshgrid(*[along] * d)], -1)
    volume = np.array(1.0)
    for _ in range(d):
        volume = np.multiply.outer(volume, widths)
    return x, volume.ravel()


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_centres_of_cells_are_met_and_the_outside_is_zero(case: str, join: bool) -> None:
    f, d, lower, upper, cells = CASES[case]
    net = construct(f, d, lower, upper, cells, join=join)
    assert net.offset.dtype == torch.float64
    x = centres(d, lower, upper, cells)
    largest = max(np.abs(f(x)).max(), 1e-9)
    assert np.abs(values(net, x) - f(x)).max() < 1e-4 * largest
    side, draw = upper - lower, np.random.default_rng(0)
    outside = draw.uniform(lower - 3 * side, upper + 3 * side, (4_000, d))
    outside[:, 0] = np.where(draw.random(4_000) < 0.5, lower - side * 10 ** draw.uniform(-9, 6, 4_000), outside[:, 0])
    outside = np.concatenate([outside, np.full((1, d), 1e9), np.full((1, d), -1e9)])
    outside = outside[((outside < lower) | (outside > upper)).any(-1)]
    assert len(outside) > 1_000
    assert np.abs(values(net, outside)).max() < 1e-11 * largest


@pytest.mark.parametrize("case", CASES)
def test_there_are_as_many_blocks_as_stated(case: str) -> None:
    """Every block has one neuron: it consists only of a row, a bias and a column."""
    f, d, lower, upper, cells = CASES[case]
    net = construct(f, d, lower, upper, cells)
    assert isinstance(net, OneNeuronResNet)
    assert net.rows.shape == net.columns.shape == (1, n_blocks(d, cells), d)
    assert net.biases.shape == (1, n_blocks(d, cells))
    assert net.depth == n_blocks(d, cells) == d * (2 * cells + 3) + (d > 1) + cells**d + 4
    made = plan(f, d, lower, upper, cells, join=True)
    assert made.phases["clamps"] == len(made.rows)
    moves = made.phases["moves"] - made.phases["levels"]
    targets = np.append(0.0, f(centres(d, lower, upper, cells)))
    runs = np.split(targets, np.flatnonzero(np.diff(targets)) + 1)
    assert moves == sum(2 if len(run) > 1 else 1 for run in runs)


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("share", [0.1, 1e-3, 2e-4])
@pytest.mark.parametrize("case", [case for case in CASES if "zero" not in case or "far" in case])
def test_the_stated_error_holds(case: str, share: float, join: bool) -> None:
    f, d, lower, upper, cells = CASES[case]
    error = share * float(np.abs(f(centres(d, lower, upper, cells))).max()) * (upper - lower) ** d
    made = plan(f, d, lower, upper, cells, error=error, join=join)
    assert made.error == error
    x, volume = nodes(d, lower, upper, cells, made.ramp_width)
    distance = np.abs(values(made.network(), x) - steps(f, d, lower, upper, cells, x))
    measured = float(volume @ distance)
    assert 0.01 * error < measured <= error


def test_the_error_falls_as_cells_grow() -> None:
    for f, d, sizes in ((wave, 1, (4, 8, 16, 32, 64, 128)), (wave, 2, (4, 8, 16))):
        x = centres(d, -1.0, 1.0, 5_000 if d == 1 else 90)
        found = [np.abs(values(construct(f, d, -1.0, 1.0, cells), x) - f(x)).mean() for cells in sizes]
        for coarse, fine in pairwise(found):
            assert fine < 0.7 * coarse


def test_the_largest_error_does_not_fall() -> None:
    """On a ramp between a cell with a value near 1 and a cell with 0, the network is in between or overshoots."""
    for cells in (4, 16, 64):
        made = plan(wave, 1, -1.0, 1.0, cells)
        faces = np.linspace(-1, 1, cells + 1)[1:-1]
        ramps = (faces[:, None] + made.ramp_width * np.linspace(-0.5, 0.5, 41)).reshape(-1, 1)
        worst = np.abs(values(made.network(), ramps) - wave(ramps)).max()
        assert worst > 0.9
        height = np.ptp(np.append(wave(centres(1, -1.0, 1.0, cells)), 0.0))
        assert np.ptp(values(made.network(), ramps)) <= height * (1 + 1e-9)  # the clamps limit the values


def test_the_unit_disc_by_1294_blocks() -> None:
    """On [-2, 2]^2, with cells on the box around the disc; with joined levels, a fifth of the blocks is enough."""
    x = centres(2, -2.0, 2.0, 256)
    inside = disc(x) > 0.5
    net = construct(disc, 2, -1.0, 1.0, 33)
    assert net.depth <= 1_294
    right = ((values(net, x) > 0.5) == inside).mean()
    assert right >= 0.99
    joined = construct(disc, 2, -1.0, 1.0, 33, join=True)
    assert joined.depth < net.depth / 5
    assert ((values(joined, x) > 0.5) == inside).mean() == pytest.approx(right, abs=1e-4)


def test_levels_are_distinct_and_stay_where_they_are_put() -> None:
    """After the staircases, every cell has its own level, at distances of one; a move changes only one level."""
    made = plan(wave, 2, -1.0, 1.0, 5)
    net, x = made.network(), torch.from_numpy(centres(2, -1.0, 1.0, 5))
    levels = net.stream(x, made.phases["levels"])[:, 0]
    assert torch.allclose(levels.diff(), torch.ones(24, dtype=torch.float64), atol=1e-8)
    outside = net.stream(torch.tensor([[7.0, 0.0]], dtype=torch.float64), made.phases["levels"])[0, 0]
    assert float(levels[0] - outside) == pytest.approx(1, abs=1e-8)
    before = levels
    for k in range(25):
        after = net.stream(x, made.phases["levels"] + k + 1)[:, 0]
        assert torch.nonzero(after != before).ravel().tolist() == [24 - k]
        before = after
    assert float(before.max()) < float(outside)


def test_what_cannot_be_constructed_is_one_sentence() -> None:
    for arguments, words in (
        ((wave, 4, -1.0, 1.0, 3), "d = 4 is not allowed; it must be 1, 2 or 3."),
        ((wave, 1, 1.0, 1.0, 3), "lower = 1.0 and upper = 1.0 are not allowed"),
        ((wave, 1, -np.inf, 1.0, 3), "lower = -inf"),
        ((wave, 1, -1.0, 1.0, 0), "cells = 0 is not allowed"),
        ((wave, 3, -1.0, 1.0, 47), "cells = 47 is not allowed"),
        ((lambda x: x, 1, -1.0, 1.0, 3), "f must return one finite number for each of the 3 points."),
        ((lambda x: np.full(len(x), np.nan), 1, -1.0, 1.0, 3), "f must return one finite number"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            construct(*arguments)
    for error in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="it must be a number above 0"):
            construct(wave, 1, -1.0, 1.0, 3, error=error)
    with pytest.raises(InputError, match="too small for float64 with 100 cells"):
        construct(wave, 1, -1.0, 1.0, 100, error=1e-9)


def test_the_step_function_is_that_of_the_cells() -> None:
    x = np.array([[-1.2], [-1.0], [-0.6], [-0.4], [0.99], [1.0], [5.0]])
    found = steps(lambda y: y[:, 0], 1, -1.0, 1.0, 4, x)
    assert found.tolist() == [0.0, -0.75, -0.75, -0.25, 0.75, 0.0, 0.0]
