"""Reading and checking the metrics and tables of the study ``density_and_mass`` for the report.

This module draws nothing and computes nothing. The numbers are explained in :mod:`bitsperdim.studies.density_and_mass`,
which is not imported here because it imports torch.

Invariant (``tests/report/test_study.py``): a missing or broken file gives one sentence that names the file
(``test_a_missing_file_of_the_study_is_one_sentence``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import Stored
from bitsperdim.results.reading import Columns, read_columns, read_rows, read_stored
from bitsperdim.results.variants import Way, of_study

TABLES = {
    "hypotheses": ("y", "density_a", "density_b"),
    "intervals": ("width", "p_a", "p_b", "ratio", "posterior_b"),
    "levels": ("level", "probability"),
    "collapse": ("step", "raw_bits", "dequantized_bits"),
    "density": ("y", "density"),
    "bound_by_level": ("level", "mass", "log_mass", "mean_log_density", "cv_squared"),
    "bound_against_k": ("n_samples", "gap", "gap_error", "leading", "coverage", "coverage_error", "error_ratio"),
    "blocks": ("block", "words", "huffman_bits", "shannon_bits"),
}
WAY_COLUMNS = (
    "train_samples",
    "n_parameters",
    "train_bpd",
    "elbo_bpd",
    "bpd",
    "bpd_standard_error",
    "difference_bpd",
    "difference_bpd_standard_error",
    "bias_bpd",
    "ess_median",
    "too_few_samples",
)
# as in bitsperdim.studies.density_and_mass.dequantizing; the first is the reference
WAYS = ("uniform", "uniform_fixed", "variational", "importance_weighted")
# the distribution for which each code was made, by its key in metrics.json, in the order of the report
CODES = {
    "data": "these data",
    "logistic": "a logistic with their mean and spread",
    "negative": "the inverted images",
    "uniform": "equally likely levels",
}


class LevelsMetrics(Stored):
    """Counts of the levels."""

    n_levels: int
    n_occurring: int
    n_images: int
    n_pixels: int
    entropy_bits: float


class UnitMetrics(Stored):
    """The two densities of one observation, in one unit of measurement."""

    density_a: float
    density_b: float
    ratio: float


class HypothesesMetrics(Stored):
    """Part one, two hypotheses; exact numbers."""

    density_a: float
    density_b: float
    likelihood_ratio: float
    posterior_a: float
    posterior_b: float
    units: dict[str, UnitMetrics]


class CollapseMetrics(Stored):
    """Part two, collapse of a density; exact expectations under the fitted models."""

    raw_bits: float
    dequantized_bits: float
    mass_bits: float
    smallest_scale: float


class BoundMetrics(Stored):
    """Part three, the bound; exact numbers."""

    n_levels: int
    n_replicates: int
    gap_exact: float
    gap_exact_bits: float
    mass_outside: float


class WordMetrics(Stored):
    """One level and its code word."""

    level: int
    probability: float
    surprise_bits: float
    shannon_length: int
    word: str


class CodeMetrics(Stored):
    """One code, in bits per symbol; ``message_bits`` is counted, the other numbers are computed."""

    divergence_bits: float
    cross_entropy_bits: float
    huffman_bits: float
    message_bits: float
    message_error_bits: float
    huffman_message_bits: float


class CodingMetrics(Stored):
    """Part four, coding."""

    n_symbols: int
    words: list[WordMetrics]
    codes: dict[str, CodeMetrics]


class DequantizingMetrics(Stored):
    """Part five, dequantization; bounds."""

    n_train: int
    n_test: int
    n_test_distinct: int
    n_test_of_all: int
    n_samples: int
    epochs: int
    transform: str


class StudyMetrics(Stored):
    """Content of ``results/density_and_mass/metrics.json``."""

    levels: LevelsMetrics
    hypotheses: HypothesesMetrics
    collapse: CollapseMetrics
    bound: BoundMetrics
    coding: CodingMetrics
    dequantizing: DequantizingMetrics


@dataclass(frozen=True)
class Study:
    """Metrics, the columns of each table by its name, and the results of part five for each kind of noise."""

    metrics: StudyMetrics
    tables: dict[str, Columns]
    ways: list[Way]

    def rows(self, name: str) -> list[dict[str, float]]:
        """Return the rows of a table."""
        columns = self.tables[name]
        values = zip(*columns.values(), strict=True)
        return [dict(zip(columns, (float(value) for value in row), strict=True)) for row in values]

    @property
    def codes(self) -> list[tuple[str, CodeMetrics]]:
        """The distribution for which each code was made, in words, and the cost of the code."""
        return [(words, self.metrics.coding.codes[name]) for name, words in CODES.items()]


def read_study(folder: Path) -> Study:
    """Read ``results/density_and_mass``.

    Raises:
        InputError: a file is missing, or has another format than the stage writes.
    """
    path = folder / "metrics.json"
    metrics = read_stored(path, StudyMetrics)
    missing = [name for name in CODES if name not in metrics.coding.codes]
    if missing:
        raise InputError(f"{path}: coding.codes has no {missing[0]!r}, which the stage always writes.")
    tables = {name: read_columns(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
    path = folder / "dequantizing.csv"
    rows = read_rows(path, "way", WAY_COLUMNS)
    unknown = [row["way"] for row in rows if row["way"] not in WAYS]
    if unknown or rows[0]["way"] != WAYS[0]:
        raise InputError(f"{path} does not have the ways {', '.join(WAYS)}, the first of them first.")
    ways = of_study(rows, WAYS[0])
    return Study(metrics, tables, ways)
