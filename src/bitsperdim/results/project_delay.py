"""What the report shows of the study ``project_delay``: its metrics and tables, read as a whole and checked.

It draws nothing and computes nothing; what each number is, :mod:`bitsperdim.studies.project_delay` says, which imports
torch and is therefore not imported here.

Invariant (``tests/report/test_delay.py``): a missing or broken file is one sentence that names it
(``test_a_missing_file_of_the_study_is_one_sentence``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import Stored
from bitsperdim.results.reading import Columns, read_columns, read_rows, read_stored

TABLES = {
    "distribution": ("t", "tail", "density"),
    "durations": ("task", "mean", "given_delay", "cross_entropy", "least_variance"),
    "rounds": ("round", "level", "n_late", "variance_reduction_exact"),
}
OF_PROPOSALS = {
    "estimates": ("n_samples", "n_late", "probability", "standard_error", "ess", "exact_error"),
    "coverage": ("n_samples", "coverage", "coverage_error", "empty", "error_ratio"),
}
SMALL_ESS = 10.0
SHORT_BAR = 1.5  # an exact error that exceeds the estimated one by more is flagged
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Row = Mapping[str, float]


class ExactMetrics(Stored):
    """Of the Markov chain."""

    probability: float
    mean: float
    n_states: int


class TaskMetrics(Stored):
    """One task of the plan at the mean durations."""

    task: int
    mean: float
    waits_for: list[int]
    start: float
    finish: float
    is_critical: bool


class RoundsMetrics(Stored):
    """What the cross-entropy method drew, none of which is in an estimate."""

    n_rounds: int
    n_drawn: int


class EmptyMetrics(Stored):
    """The largest n without a late naive draw (0: there is none), and the P above which that is rare."""

    n_samples: int
    limit: float


class ProposalMetrics(Stored):
    """One proposal at the largest n."""

    label: str
    role: Literal["method", "mistake", "yardstick"]
    n_samples: int
    n_late: int
    probability: float
    standard_error: float
    deviation: float
    ess: float
    ess_all: float
    exact_error: float
    error_factor: float
    variance_reduction: float
    variance_reduction_exact: float
    variance_is_infinite: bool
    n_samples_for_ten_percent: float

    @property
    def flag(self) -> str:
        """What is wrong with the error bar, in words; empty where nothing is."""
        if not self.n_late:
            return "no draw is late: nothing is known"
        if self.variance_is_infinite:
            return "infinite variance: no error bar holds"
        if self.ess < SMALL_ESS:
            return "fewer than 10 weights count"
        if self.error_factor > SHORT_BAR:
            return f"error bar {self.error_factor:.1f} times too short"
        return ""


class DelayMetrics(Stored):
    """``results/project_delay/metrics.json``."""

    deadline: float
    exact: ExactMetrics
    tasks: list[TaskMetrics]
    cross_entropy_rounds: RoundsMetrics
    naive_without_event: EmptyMetrics
    n_samples: int
    n_replicates: int
    proposals: dict[str, ProposalMetrics]


@dataclass(frozen=True)
class Delay:
    """Metrics, the columns of each table by its name, and the rows of each proposal by table and key."""

    metrics: DelayMetrics
    tables: dict[str, Columns]
    of_proposals: dict[str, dict[str, list[Row]]]

    @property
    def proposals(self) -> list[tuple[str, ProposalMetrics]]:
        """Key and metrics of each proposal, in the order of the tables."""
        return [(key, self.metrics.proposals[key]) for key in self.of_proposals["estimates"]]

    @property
    def replicate_sizes(self) -> list[int]:
        """Every n of the replicates, the smallest first."""
        return [int(row["n_samples"]) for row in next(iter(self.of_proposals["coverage"].values()))]

    @property
    def exponent(self) -> int:
        """The power of ten of the exact probability, in which estimates are written."""
        return math.floor(math.log10(self.metrics.exact.probability))

    @property
    def unit(self) -> str:
        """That power in print: 10⁻⁵."""
        return "10" + str(self.exponent).translate(SUPERSCRIPTS)

    def in_units(self, value: float) -> float:
        """Return a probability over that power."""
        return value / 10.0**self.exponent

    @property
    def shortest_bar(self) -> ProposalMetrics | None:
        """The proposal of finite variance whose error bar is flagged as too short, the worst; None where none is."""
        flagged = [item for _, item in self.proposals if "too short" in item.flag]
        return max(flagged, key=lambda item: item.error_factor, default=None)

    @property
    def critical(self) -> list[TaskMetrics]:
        """The tasks of the critical path."""
        return [task for task in self.metrics.tasks if task.is_critical]


def read_delay(folder: Path) -> Delay:
    """Read ``results/project_delay``.

    Raises:
        InputError: a file is missing or not what the stage writes.
    """
    metrics = read_stored(folder / "metrics.json", DelayMetrics)
    tables = {name: read_columns(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
    of_proposals: dict[str, dict[str, list[Row]]] = {}
    for name, columns in OF_PROPOSALS.items():
        path = folder / f"{name}.csv"
        found: dict[str, list[Row]] = {}
        for row in read_rows(path, "proposal", columns):
            found.setdefault(str(row["proposal"]), []).append({column: float(row[column]) for column in columns})
        sizes = {tuple(row["n_samples"] for row in rows) for rows in found.values()}
        if set(found) != set(metrics.proposals) or len(sizes) != 1:
            raise InputError(f"{path} does not hold the proposals of metrics.json, each at the same numbers of draws.")
        of_proposals[name] = found
    return Delay(metrics, tables, of_proposals)
