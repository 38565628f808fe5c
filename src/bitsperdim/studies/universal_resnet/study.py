r"""The study ``universal_resnet``: networks of one-neuron blocks, trained and constructed.

It has four parts:

- :mod:`.essay`: which networks fit three predicates of the plane, compared with the essay's numbers;
- :mod:`.ball`: fully connected networks of width 2 have regions that extend to infinity, one-neuron blocks close them;
- :mod:`.construction`: a network whose weights are computed, step by step;
- :mod:`.approximation`: the error against the number of blocks, for constructed and for trained networks.

The accuracies of trained networks depend on the number of steps. This parameter is small by default, so that the whole
study takes only seconds. The errors of constructed networks are deterministic.

Invariants (``tests/studies/universal_resnet/test_universal_resnet.py``): the same parameters give the same bytes
(``test_a_rerun_is_byte_identical``); the figures of the derivation show the network that is measured
(``test_the_last_step_is_the_network``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bitsperdim.core.files import write_csv, write_json, write_npz
from bitsperdim.studies.universal_resnet import approximation, ball, construction, essay
from bitsperdim.studies.universal_resnet.approximation import TARGETS
from bitsperdim.studies.universal_resnet.predicates import PREDICATES

if TYPE_CHECKING:
    from bitsperdim.config.params import UniversalResnetSection

__all__ = ["PREDICATES", "Results", "study", "write"]

Rows = Sequence[Mapping[str, Any]]

DERIVED_CELLS, DERIVED_ERROR = 9, 0.9  # for the figures: few cells, and ramps that are wide enough to be seen
DERIVED_POINTS = 369
PLANE_CELLS = 8  # cells along each side in the figure of levels
DISC_PIXELS = 96


@dataclass(frozen=True)
class Results:
    """The results of the study.

    Attributes:
        metrics: content of ``metrics.json``.
        tables: rows of each CSV file, by its name.
        regions: arrays of ``regions.npz``: points, labels, and decision regions as 127 tanh of an eighth of the
            log-odds, int8.
    """

    metrics: dict[str, Any]
    tables: dict[str, Rows]
    regions: dict[str, np.ndarray]


def study(section: UniversalResnetSection, device: torch.device) -> Results:
    """Run the four parts of the study."""
    rates = section.learning_rates.model_dump()
    of_essay = essay.run(section.seed, section.n_points, section.n_seeds, section.n_steps, rates, device)
    of_ball = ball.run(section.seed, section.n_points, section.n_seeds, section.n_steps, rates, device)
    trained = approximation.trained(
        section.seed, section.depths, section.n_seeds, section.n_steps, rates["approximation"], device
    )
    constructed = approximation.all_constructed({1: section.cells_line, 2: section.cells_plane})
    levels, disc = of_the_plane(section.cells_plane[-1])
    metrics = {
        "n_steps": section.n_steps,
        "n_seeds": section.n_seeds,
        "n_points": section.n_points,
        "majority": {
            name: float(100 * max(inside.mean(), 1 - inside.mean()))
            for name, inside in zip(PREDICATES, of_essay.labels, strict=True)
        },
        "accuracy": essay.summary(of_essay),
        "ball": ball.summary(of_ball),
        "constructed": {
            f"{name}{'_joined' if join else ''}": _largest(constructed, name, join)
            for name in TARGETS
            for join in (False, True)
        },
    }
    tables: dict[str, Rows] = {
        "accuracy": essay.rows(of_essay),
        "ball": of_ball.rows,
        "constructed": constructed,
        "trained": trained,
        "derivation": derivation(),
        "levels": levels,
    }
    regions: dict[str, np.ndarray] = {
        "points": of_essay.x.astype(np.float32),
        "labels": of_essay.labels.astype(np.uint8),
        "essay": _as_int8(of_essay.regions),
        "ball_points": of_ball.x.astype(np.float32),
        "ball_labels": of_ball.inside.astype(np.uint8),
        "ball": _as_int8(of_ball.regions),
        "disc": disc,
    }
    return Results(metrics, tables, regions)


def write(folder: Path, results: Results) -> None:
    """Write ``metrics.json``, ``regions.npz`` and one CSV for each table into ``folder``."""
    for name, rows in results.tables.items():
        write_csv(folder / f"{name}.csv", list(rows[0]), rows)
    write_npz(folder / "regions.npz", results.regions)
    write_json(folder / "metrics.json", results.metrics)


def derivation() -> list[dict[str, float]]:
    """Return the residual stream of a small network along a line after each step, for the function ``smooth``.

    The columns are x, f, the step function, coordinate 1 after the staircase, after half of the moves and after all
    moves, and the output of the network.
    """
    target = TARGETS["smooth"]
    made = construction.plan(target.f, 1, -1.0, 1.0, DERIVED_CELLS, error=DERIVED_ERROR)
    net = made.network()
    x = np.linspace(-1.15, 1.15, DERIVED_POINTS)[:, None]
    after = {
        "staircase": made.phases["levels"],
        "half": made.phases["levels"] + (DERIVED_CELLS + 1) // 2,
        "moved": made.phases["moves"],
    }
    stream = {name: net.stream(torch.from_numpy(x), n)[:, 0].numpy() for name, n in after.items()}
    columns = {
        "x": x[:, 0],
        "f": np.where(np.abs(x[:, 0]) <= 1, target.f(x), 0.0),
        "steps": construction.steps(target.f, 1, -1.0, 1.0, DERIVED_CELLS, x),
        **stream,
        "network": net(torch.from_numpy(x)).numpy(),
    }
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]


def of_the_plane(cells: int) -> tuple[Rows, np.ndarray]:
    """Return the levels of each cell in a small construction of the disc, and the decision region of a larger one.

    Returns:
        Rows with x1, x2, level and value; and an array (pixels, pixels), int8, of 127 tanh(2 R - 1) on [-2, 2]^2.
    """
    target = TARGETS["disc"]
    made = construction.plan(target.f, 2, -1.0, 1.0, PLANE_CELLS)
    x = construction.centres(2, -1.0, 1.0, PLANE_CELLS)
    net = made.network()
    level = net.stream(torch.from_numpy(x), made.phases["levels"])[:, 0].numpy()
    level = np.rint(level - level.min()) + 1
    value = net(torch.from_numpy(x)).numpy()
    rows = [
        {"x1": float(a), "x2": float(b), "level": int(n), "value": round(float(v), 6) + 0.0}
        for (a, b), n, v in zip(x, level, value, strict=True)
    ]
    large = construction.construct(target.f, 2, -1.0, 1.0, cells)
    y = large(torch.from_numpy(essay.grid(DISC_PIXELS, target.reach))).numpy()
    return rows, _as_int8(np.tanh(2 * y - 1).reshape(DISC_PIXELS, DISC_PIXELS))


def _largest(rows: Rows, name: str, join: bool) -> dict[str, Any]:
    """Return the numbers of the largest constructed network of a function."""
    chosen = [row for row in rows if row["function"] == name and row["join"] == int(join)]
    keys = ("n_blocks", "cells", "l1", "largest", "close_share", "stated_l1_to_steps")
    return {key: chosen[-1][key] for key in keys}


def _as_int8(tanh: np.ndarray) -> np.ndarray:
    return np.rint(127 * tanh).astype(np.int8)
