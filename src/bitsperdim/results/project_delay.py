"""Reading and checking the metrics and tables of the study ``project_delay`` for the report.

This module draws nothing and computes nothing. The numbers are explained in :mod:`bitsperdim.studies.project_delay`,
which is not imported here because it imports torch.

Invariant (``tests/report/test_delay.py``): a missing or broken file gives one sentence that names the file
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
SHORT_BAR = 1.5  # an error bar is flagged if the exact error exceeds it by more than this factor
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Row = Mapping[str, float]


class ExactMetrics(Stored):
    """Exact results of the Markov chain."""

    probability: float
    mean: float
    n_states: int


class TaskMetrics(Stored):
    """One task of the project plan, with times for the mean durations."""

    task: int
    mean: float
    waits_for: list[int]
    start: float
    finish: float
    is_critical: bool


class RoundsMetrics(Stored):
    """Numbers of rounds and draws of the cross-entropy method; no estimate uses these draws."""

    n_rounds: int
    n_drawn: int


class EmptyMetrics(Stored):
    """The largest n without a late naive draw (0: no such n), and the P above which such an n is unlikely."""

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
        """Problem of the error bar in words; empty if there is no problem."""
        if not self.n_late:
            return "no draw is late: nothing is known"
        if self.variance_is_infinite:
            return "infinite variance: no error bar is valid"
        if self.ess < SMALL_ESS:
            return "effective sample size below 10"
        if self.error_factor > SHORT_BAR:
            return f"error bar {self.error_factor:.1f} times too short"
        return ""


class DelayMetrics(Stored):
    """Content of ``results/project_delay/metrics.json``."""

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
        """All numbers of draws n of the replicates, the smallest first."""
        return [int(row["n_samples"]) for row in next(iter(self.of_proposals["coverage"].values()))]

    @property
    def exponent(self) -> int:
        """Exponent of the power of ten of the exact probability, which is the unit of estimates in the report."""
        return math.floor(math.log10(self.metrics.exact.probability))

    @property
    def unit(self) -> str:
        """The unit of estimates as text: 10⁻⁵."""
        return "10" + str(self.exponent).translate(SUPERSCRIPTS)

    def in_units(self, value: float) -> float:
        """Return a probability in this unit."""
        return value / 10.0**self.exponent

    @property
    def shortest_bar(self) -> ProposalMetrics | None:
        """The proposal of finite variance with the most severely too short error bar; None if no bar is too short."""
        flagged = [item for _, item in self.proposals if "too short" in item.flag]
        return max(flagged, key=lambda item: item.error_factor, default=None)

    @property
    def critical(self) -> list[TaskMetrics]:
        """Tasks on the critical path."""
        return [task for task in self.metrics.tasks if task.is_critical]


def read_delay(folder: Path) -> Delay:
    """Read ``results/project_delay``.

    Raises:
        InputError: a file is missing, or has another format than the stage writes.
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
            raise InputError(f"{path} must have all proposals of metrics.json, each with the same numbers of draws.")
        of_proposals[name] = found
    return Delay(metrics, tables, of_proposals)
