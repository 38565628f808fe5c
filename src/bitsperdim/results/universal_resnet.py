"""Reading and checking the metrics, tables and decision regions of the study ``universal_resnet`` for the report.

This module draws nothing and computes nothing. The numbers are explained in
:mod:`bitsperdim.studies.universal_resnet.study`, which is not imported here because it imports torch.

Invariant (``tests/report/test_resnet.py``): a missing or broken file gives one sentence that names the file
(``test_a_missing_file_is_one_sentence``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import Stored
from bitsperdim.results.reading import Columns, read_arrays, read_columns, read_rows, read_stored

PREDICATES = {
    "easy": "inside: radius below 0.4",
    "medium": "inside: radius below 0.4, or 0.7 and above",
    "hard": "inside: radius below 0.3, or 0.6 to 0.8, or at random with probability 0.1",
}
RINGS = {"easy": (0.4,), "medium": (0.4, 0.7), "hard": (0.3, 0.6, 0.8)}
# keys of metrics.json, as in studies/universal_resnet/essay.py and ball.py -> names in the report, in its order
NETS = {
    **{f"resnet_{depth}": f"one-neuron ResNet, {depth} blocks" for depth in (5, 10, 40)},
    **{f"dense_{width}_{depth}": f"width {width}, {depth} layers" for width in (2, 6) for depth in (5, 10, 40)},
    **{f"single_{width}": f"one layer of width {width}" for width in (5, 10, 40, 100, 300)},
}
DRAWN = ("resnet_5", "resnet_40", "dense_2_10", "dense_6_10", "single_100")
DEPTHS = (1, 2, 3, 4, 5)
BALL_KINDS = {"dense_2": "width 2", "resnet": "one-neuron ResNet"}
FUNCTIONS = {"step": "five steps", "smooth": "a smooth function", "disc": "the unit disc"}
ERRORS = ("n_blocks", "l1", "largest", "close_share")
TABLES = {
    "derivation": ("x", "f", "steps", "staircase", "half", "moved", "network"),
    "levels": ("x1", "x2", "level", "value"),
}


class ScoreMetrics(Stored):
    """Accuracy in percent of one network on one predicate, over seeds, and the accuracy that the essay reports."""

    mean: float
    spread: float
    best: float
    fresh_mean: float
    essay_mean: float
    essay_spread: float | None = None


class NetMetrics(Stored):
    """One network of the essay."""

    n_parameters: int
    easy: ScoreMetrics
    medium: ScoreMetrics
    hard: ScoreMetrics

    @property
    def scores(self) -> list[ScoreMetrics]:
        """Scores in the order of the predicates."""
        return [self.easy, self.medium, self.hard]


class BallMetrics(Stored):
    """Results on the ball for one kind of network and one depth."""

    n_nets: int
    n_closed: int
    best: float
    mean: float


class ConstructedMetrics(Stored):
    """The largest constructed network of a function."""

    n_blocks: int
    cells: int
    l1: float
    largest: float
    close_share: float


class ResnetMetrics(Stored):
    """Content of ``results/universal_resnet/metrics.json``."""

    n_steps: int
    n_seeds: int
    n_points: int
    majority: dict[str, float]
    accuracy: dict[str, NetMetrics]
    ball: dict[str, BallMetrics]
    constructed: dict[str, ConstructedMetrics]


@dataclass(frozen=True)
class ResnetStudy:
    """Metrics, columns of tables by name, rows of constructed and trained networks, and arrays of ``regions.npz``."""

    metrics: ResnetMetrics
    tables: dict[str, Columns]
    constructed: list[dict[str, str | float]]
    trained: list[dict[str, str | float]]
    regions: dict[str, np.ndarray]

    @property
    def nets(self) -> list[tuple[str, NetMetrics]]:
        """Name of each network in the report, and its accuracies."""
        return [(words, self.metrics.accuracy[name]) for name, words in NETS.items()]

    @property
    def majority(self) -> list[tuple[str, float]]:
        """Each predicate, and the share of its larger class in percent."""
        return [(name, self.metrics.majority[name]) for name in PREDICATES]

    @property
    def ball(self) -> list[tuple[int, list[BallMetrics]]]:
        """Each depth, with the results of both kinds of networks."""
        return [(depth, [self.metrics.ball[f"{kind}_{depth}"] for kind in BALL_KINDS]) for depth in DEPTHS]

    def errors(self, function: str, *, join: bool) -> list[dict[str, str | float]]:
        """Return the rows of the constructed networks of a function."""
        return [row for row in self.constructed if row["function"] == function and bool(row["join"]) == join]

    def errors_trained(self, function: str) -> list[dict[str, str | float]]:
        """Return the rows of the trained networks of a function."""
        return [row for row in self.trained if row["function"] == function]

    def best_trained(self, function: str) -> list[dict[str, str | float]]:
        """Return the row of the seed with the smallest L1 error for each number of blocks."""
        rows = self.errors_trained(function)
        sizes = sorted({float(row["n_blocks"]) for row in rows})
        return [min((row for row in rows if row["n_blocks"] == size), key=lambda row: row["l1"]) for size in sizes]


def read_resnet(folder: Path) -> ResnetStudy:
    """Read ``results/universal_resnet``.

    Raises:
        InputError: a file is missing, or has another format than the stage writes.
    """
    path = folder / "metrics.json"
    metrics = read_stored(path, ResnetMetrics)
    expected = {
        "accuracy": list(NETS),
        "ball": [f"{kind}_{depth}" for kind in BALL_KINDS for depth in DEPTHS],
        "majority": list(PREDICATES),
        "constructed": [f"{name}{end}" for name in FUNCTIONS for end in ("", "_joined")],
    }
    for key, names in expected.items():
        for name in names:
            if name not in getattr(metrics, key):
                raise InputError(f"{path}: {key} has no {name!r}, which the stage always writes.")
    tables = {name: read_columns(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
    constructed = read_rows(folder / "constructed.csv", "function", ("join", "cells", *ERRORS))
    trained = read_rows(folder / "trained.csv", "function", ("seed", *ERRORS))
    for name, rows in (("constructed", constructed), ("trained", trained)):
        if {row["function"] for row in rows} != set(FUNCTIONS):
            raise InputError(f"{folder / name}.csv must have the functions {', '.join(FUNCTIONS)}, and no others.")
    shapes: dict[str, tuple[int | None, ...]] = {
        "points": (metrics.n_points, 2),
        "labels": (len(PREDICATES), metrics.n_points),
        "essay": (len(DRAWN), len(PREDICATES), None, None),
        "ball_points": (metrics.n_points, 2),
        "ball_labels": (metrics.n_points,),
        "ball": (len(BALL_KINDS) * len(DEPTHS), None, None),
        "disc": (None, None),
    }
    return ResnetStudy(metrics, tables, constructed, trained, read_arrays(folder / "regions.npz", shapes))
