r"""The error of constructed and of trained networks against the number of blocks, for three functions.

The distance is that of the theorem, :math:`\int |R - f|` over a box, computed by the midpoint rule on a fine grid that
is the same for all networks. The largest error is searched on that grid and, for constructed networks, also on their
ramps.

- ``step``: five steps on [-1, 1], at places that are not faces of cells.
- ``smooth``: :math:`(1 - x^2) \cos(5 \pi x / 2)` on [-1, 1].
- ``disc``: the indicator of the unit disc on [-2, 2]^2; the construction needs cells only on [-1, 1]^2, because the
  function is zero elsewhere.

Trained networks minimize the mean squared error on a coarser grid. With the absolute error, training for the disc would
end at the median, 0.

Invariant (``tests/studies/universal_resnet/test_universal_resnet.py``): the midpoint rule gives known integrals
(``test_the_distance_of_known_functions``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.studies.universal_resnet import construction
from bitsperdim.studies.universal_resnet.construction import Function
from bitsperdim.studies.universal_resnet.jobs import Architecture, side_by_side, streams, torch_generator
from bitsperdim.studies.universal_resnet.nets import OneNeuronResNet
from bitsperdim.studies.universal_resnet.training import fit, squared_error

FINE = {1: 8_192, 2: 256}  # nodes along each dimension for errors; with powers of two, no node is in a ramp's middle
COARSE = {1: 256, 2: 24}  # nodes along each dimension for training
RAMP_NODES = 9  # nodes on each ramp
CHUNK = 65_536  # points at a time


@dataclass(frozen=True)
class Target:
    """A function and the box on which it is approximated.

    Attributes:
        f: the function, (N, d) -> (N,).
        d: number of dimensions.
        support: the function is 0 outside the box [-support, support]^d.
        reach: the error is integrated over the box [-reach, reach]^d.
    """

    f: Function
    d: int
    support: float
    reach: float

    @property
    def height(self) -> float:
        """The largest minus the smallest value, on the grid on which the error is measured."""
        return float(np.ptp(self.f(midpoints(self.d, FINE[self.d], self.reach))))


def step(x: np.ndarray) -> np.ndarray:
    """Return the function of five steps at x (N, 1)."""
    edges, heights = (-0.71, -0.29, 0.17, 0.53), np.array([0.2, 0.9, 0.4, 1.0, 0.0])
    return heights[np.searchsorted(edges, x[:, 0], side="right")]


def smooth(x: np.ndarray) -> np.ndarray:
    """Return (1 - x^2) cos(5 pi x / 2) at x (N, 1)."""
    return (1 - x[:, 0] ** 2) * np.cos(2.5 * np.pi * x[:, 0])


def disc(x: np.ndarray) -> np.ndarray:
    """Return whether x (N, 2) is in the unit disc, as 0.0 or 1.0."""
    return (np.square(x).sum(-1) < 1).astype(np.float64)


TARGETS = {
    "step": Target(step, 1, 1.0, 1.0),
    "smooth": Target(smooth, 1, 1.0, 1.0),
    "disc": Target(disc, 2, 1.0, 2.0),
}


def midpoints(d: int, n: int, reach: float) -> np.ndarray:
    """Return the centres of n^d equal cells of [-reach, reach]^d, (n^d, d)."""
    return construction.centres(d, -reach, reach, n)


def values(net: OneNeuronResNet, x: np.ndarray) -> np.ndarray:
    """Return y at the points x (N, d), (B, N) or (N,), float64."""
    like = net.offset
    parts = [
        net(torch.from_numpy(x[start : start + CHUNK]).to(like)).double().cpu() for start in range(0, len(x), CHUNK)
    ]
    return torch.cat(parts, -1).numpy()


def distance(y: np.ndarray, target: Target, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the L1 error and the largest error of y (..., N) at the midpoints x, and the share of close points.

    A point is close if its error is less than half the height. For an indicator, this share is the accuracy of the
    decision at the threshold one half.
    """
    error = np.abs(y - target.f(x))
    close = (error < target.height / 2).mean(-1)
    return {"l1": error.mean(-1) * (2 * target.reach) ** target.d, "largest": error.max(-1), "close_share": close}


def constructed(name: str, cells: int, *, join: bool) -> dict[str, object]:
    """Return the number of blocks and the errors of a network constructed for a target."""
    target = TARGETS[name]
    made = construction.plan(target.f, target.d, -target.support, target.support, cells, join=join)
    net = made.network()
    x = midpoints(target.d, FINE[target.d], target.reach)
    found = distance(values(net, x), target, x)
    ramps = on_ramps(target, cells, made.ramp_width)
    on_them = np.abs(values(net, ramps) - target.f(ramps)).max()
    return {
        "function": name,
        "join": int(join),
        "cells": cells,
        "n_blocks": net.depth,
        "l1": float(found["l1"]),
        "largest": float(max(found["largest"], on_them)),
        "close_share": float(found["close_share"]),
        "stated_l1_to_steps": made.error,
    }


def on_ramps(target: Target, cells: int, width: float) -> np.ndarray:
    """Return points on the ramps of coordinate 1, with the other coordinates at the centres of cells."""
    x = construction.centres(target.d, -target.support, target.support, cells)
    faces = np.linspace(-target.support, target.support, cells + 1)[1:-1]
    along = (faces[:, None] + width * (np.arange(RAMP_NODES) / (RAMP_NODES - 1) - 0.5)).ravel()
    others = np.unique(x[:, 1:], axis=0)
    found: np.ndarray = np.concatenate([np.repeat(along, len(others))[:, None], np.tile(others, (len(along), 1))], -1)
    return found


def trained(
    seed: int, depths: Sequence[int], n_seeds: int, n_steps: int, rate: float, device: torch.device
) -> list[dict[str, object]]:
    """Train networks of several depths for each target, and return the errors of each network."""
    tasks = [(number, name, depth) for number, name in enumerate(TARGETS) for depth in depths]

    def one(task: tuple[int, str, int]) -> list[dict[str, object]]:
        number, name, depth = task
        target = TARGETS[name]
        x = midpoints(target.d, COARSE[target.d], target.reach)
        points, y = _tensor(x, device), _tensor(target.f(x), device).expand(n_seeds, -1)
        generator = torch_generator(streams(seed, 5, number, depth))
        nets = Architecture("resnet", 1, depth).build(target.d, n_seeds, generator, reach=target.reach).to(device)
        fit(nets, points, y, squared_error, n_steps, rate)
        fine = midpoints(target.d, FINE[target.d], target.reach)
        with torch.no_grad():
            found = distance(values(nets, fine), target, fine)  # type: ignore[arg-type]  # a ResNet
        return [
            {
                "function": name,
                "n_blocks": depth,
                "seed": index,
                **{key: float(each[index]) for key, each in found.items()},
            }
            for index in range(n_seeds)
        ]

    return [row for found in side_by_side(one, tasks) for row in found]


def all_constructed(cells: Mapping[int, Sequence[int]]) -> list[dict[str, object]]:
    """Return the rows of :func:`constructed` for all targets; ``cells`` gives the numbers of cells by dimension."""
    tasks = [
        (name, size, join) for name, target in TARGETS.items() for join in (False, True) for size in cells[target.d]
    ]
    return side_by_side(lambda task: constructed(task[0], task[1], join=task[2]), tasks)


def _tensor(x: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(device)
