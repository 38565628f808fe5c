"""What the report shows of the study ``density_and_mass``: its metrics and tables, read as a whole and checked.

It draws nothing and computes nothing; what each number is, :mod:`bitsperdim.studies.density_and_mass` says, which
imports torch and is therefore not imported here.

Invariant (``tests/report/test_study.py``): a missing or broken file is one sentence that names it
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
# what each code was made for, by its key in metrics.json, in the order of the report
CODES = {
    "data": "these data",
    "logistic": "a logistic of their mean and spread",
    "negative": "the negative images",
    "uniform": "levels all alike",
}


class LevelsMetrics(Stored):
    """What was counted."""

    n_levels: int
    n_occurring: int
    n_images: int
    n_pixels: int
    entropy_bits: float


class UnitMetrics(Stored):
    """The two densities of one observation in one unit."""

    density_a: float
    density_b: float
    ratio: float


class HypothesesMetrics(Stored):
    """Part one; exact."""

    density_a: float
    density_b: float
    likelihood_ratio: float
    posterior_a: float
    posterior_b: float
    units: dict[str, UnitMetrics]


class CollapseMetrics(Stored):
    """Part two; exact expectations under the fitted models."""

    raw_bits: float
    dequantized_bits: float
    mass_bits: float
    smallest_scale: float


class BoundMetrics(Stored):
    """Part three; exact."""

    n_levels: int
    n_replicates: int
    gap_exact: float
    gap_exact_bits: float
    mass_outside: float


class WordMetrics(Stored):
    """One level and its word."""

    level: int
    probability: float
    surprise_bits: float
    shannon_length: int
    word: str


class CodeMetrics(Stored):
    """One code, in bits per symbol; ``message_bits`` were counted."""

    divergence_bits: float
    cross_entropy_bits: float
    huffman_bits: float
    message_bits: float
    message_error_bits: float
    huffman_message_bits: float


class CodingMetrics(Stored):
    """Part four."""

    n_symbols: int
    words: list[WordMetrics]
    codes: dict[str, CodeMetrics]


class DequantizingMetrics(Stored):
    """Part five; bounds."""

    n_train: int
    n_test: int
    n_test_distinct: int
    n_test_of_all: int
    n_samples: int
    epochs: int
    transform: str


class StudyMetrics(Stored):
    """``results/density_and_mass/metrics.json``."""

    levels: LevelsMetrics
    hypotheses: HypothesesMetrics
    collapse: CollapseMetrics
    bound: BoundMetrics
    coding: CodingMetrics
    dequantizing: DequantizingMetrics


@dataclass(frozen=True)
class Study:
    """Metrics, the columns of each table by its name, and the flow of part five in each way."""

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
        """In words what each code was made for, and what it costs."""
        return [(words, self.metrics.coding.codes[name]) for name, words in CODES.items()]


def read_study(folder: Path) -> Study:
    """Read ``results/density_and_mass``.

    Raises:
        InputError: a file is missing or not what the stage writes.
    """
    path = folder / "metrics.json"
    metrics = read_stored(path, StudyMetrics)
    missing = [name for name in CODES if name not in metrics.coding.codes]
    if missing:
        raise InputError(f"{path}: coding.codes has no {missing[0]!r}, which a stage writes there.")
    tables = {name: read_columns(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
    path = folder / "dequantizing.csv"
    rows = read_rows(path, "way", WAY_COLUMNS)
    unknown = [row["way"] for row in rows if row["way"] not in WAYS]
    if unknown or rows[0]["way"] != WAYS[0]:
        raise InputError(f"{path} does not hold the ways {', '.join(WAYS)}.")
    ways = of_study(rows, WAYS[0])
    return Study(metrics, tables, ways)
