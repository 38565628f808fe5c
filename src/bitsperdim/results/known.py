"""Reading and checking the metrics and tables of the study ``known`` for the report.

This module draws nothing and computes nothing. The numbers are explained in :mod:`bitsperdim.studies.known`, which is
not imported here because it imports torch.

Invariant (``tests/report/test_known.py``): a missing or broken file gives one sentence that names the file
(``test_a_missing_or_broken_file_is_one_sentence``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from bitsperdim.core.errors import InputError
from bitsperdim.core.labels import SIGNS
from bitsperdim.core.stored import OfImages, Stored
from bitsperdim.results.mistakes import Mistakes, read_mistakes
from bitsperdim.results.reading import read_rows, read_stored

SOURCES = {
    "ising": "similar neighbours (Ising, Potts)",
    "hidden_markov": "a hidden Markov chain over rows",
    "templates": "templates with noise",
    "small_pixelcnn": "a small autoregressive network",
}
# keys of the tables, as in studies/known/estimators.py -> names in the report, in its order
MODELS = {
    "templates": "templates, encoder broader than the posterior",
    "templates_sure": "templates, overconfident encoder",
    "hidden_markov": "hidden Markov chain, states encoded one by one",
    "hidden_markov_sure": "the same, overconfident encoder",
    "vae_1": "VAE with one latent variable",
    "vae_2": "VAE with two latent variables",
    "vae_2_narrow": "the same, scale of the encoder halved",
    "gaussian": "Gaussian of two sub-pixels",
}
ESTIMATORS = ("bound", "jackknife", "extrapolation")


class ModelMetrics(Stored):
    """One model on one source; the excess is infinite if an image has probability 0 under the model."""

    family: str
    kind: Literal["exact", "lower", "density"]
    n_parameters: int
    n_samples: int
    bpd: float
    bpd_standard_error: float
    bpd_monte_carlo_error: float
    bias_bpd: float
    too_few_samples: bool
    excess_bpd: float
    excess_bpd_standard_error: float
    evidence_nats: float
    critical_nats: float
    is_refuted: bool

    @property
    def sign(self) -> str:
        """Relation sign of the number and of the excess."""
        return SIGNS[self.kind]


class SourceMetrics(OfImages):
    """One source of images: the truth and yardsticks for its test images, in bits/dim, and the models."""

    strength: float
    n_components: int
    truth_bpd: float
    truth_bpd_standard_error: float
    entropy_rate_bpd: float
    entropy_rate_bpd_standard_error: float
    independent_bpd: float
    uniform_bpd: float
    models: dict[str, ModelMetrics]

    @property
    def ranked(self) -> list[tuple[str, ModelMetrics]]:
        """The models, ordered by their excess."""
        return sorted(self.models.items(), key=lambda item: item[1].excess_bpd)


class ExcessMetrics(Stored):
    """Excess of models over the truth, on images whose likelihood is known."""

    n_train: int
    n_validation: int
    n_test: int
    n_levels: int
    image_shape: list[int]
    n_samples: int
    level: float
    sources: dict[str, SourceMetrics]

    @property
    def named(self) -> list[tuple[str, SourceMetrics]]:
        """Name of each source in the report, and its numbers."""
        return [(SOURCES[name], found) for name, found in self.sources.items()]

    @property
    def n_models(self) -> int:
        """Number of models that were compared with the truth."""
        return sum(len(source.models) for source in self.sources.values())

    @property
    def n_refuted(self) -> int:
        """Number of models that are refuted."""
        return sum(model.is_refuted for source in self.sources.values() for model in source.models.values())


class MarginalMetrics(Stored):
    """A model whose log P(x) is known: the mean of log P(x), and its largest possible error."""

    log_p_nats: float
    log_p_nats_error: float


class EstimatorsMetrics(Stored):
    """Sizes of the study of estimators, and its models."""

    n_images: int
    n_replicates: int
    n_annealed_images: int
    n_annealed_replicates: int
    n_chains: int
    models: dict[str, MarginalMetrics]

    @property
    def largest_error(self) -> float:
        """Largest error of the known values, nats."""
        return max(model.log_p_nats_error for model in self.models.values())


class KnownMetrics(Stored):
    """Content of ``results/known/metrics.json``."""

    excess: ExcessMetrics
    estimators: EstimatorsMetrics


class EstimateRow(Stored):
    """Row of ``estimators.csv`` for one model and K; ``pareto_k_median`` is None if K is too small to judge it."""

    model: str
    n_samples: int
    log_p_nats: float
    bound_bias: float
    bound_bias_error: float
    jackknife_bias: float
    jackknife_bias_error: float
    extrapolation_bias: float
    extrapolation_bias_error: float
    stated_bias: float
    n_bound_covers: int
    bound_is_short: int
    n_bound_within: int
    within_is_short: int
    n_jackknife_stated: int
    n_jackknife_covers: int
    jackknife_is_short: int
    n_flagged: int
    ess_median: float
    pareto_k_median: float | None = None


class BracketRow(Stored):
    """Row of ``annealing.csv`` for one model and number of steps."""

    model: str
    n_steps: int
    lower_bias: float
    lower_bias_error: float
    upper_bias: float
    upper_bias_error: float
    n_lower_covers: int
    lower_is_short: int
    n_upper_covers: int
    upper_is_short: int
    n_bracket_covers: int
    bracket_is_short: int
    acceptance: float


class TablesMetrics(Stored):
    """Rows of both tables."""

    estimators: list[EstimateRow]
    annealing: list[BracketRow]


class MadeOnceMetrics(Stored):
    """Content of ``docs/known_truths.json``: more models, sources and replicates, with the machine that made them."""

    excess: ExcessMetrics
    estimators: EstimatorsMetrics
    tables: TablesMetrics
    seconds: int
    made_with: dict[str, str]


@dataclass(frozen=True)
class KnownTruths:
    """Metrics, rows of the estimators and of annealing, and the mistakes."""

    metrics: KnownMetrics
    estimators: list[EstimateRow]
    annealing: list[BracketRow]
    mistakes: Mistakes

    @property
    def n_samples(self) -> list[int]:
        """All numbers of samples K, the smallest first."""
        return sorted({row.n_samples for row in self.estimators})

    @property
    def most_samples(self) -> list[EstimateRow]:
        """Rows with the largest K."""
        return [row for row in self.estimators if row.n_samples == self.n_samples[-1]]

    @property
    def by_model(self) -> list[tuple[str, list[EstimateRow]]]:
        """Name of each model in the report, and its rows, one for each K."""
        return by_model(self.estimators)

    @property
    def brackets(self) -> list[tuple[str, BracketRow]]:
        """Name of each annealed model in the report, with a row."""
        return [(MODELS[row.model], row) for row in self.annealing]

    def n_short(self, statement: str) -> int:
        """Return the number of rows in which a statement is true less often than stated, by more than chance."""
        rows = self.annealing if statement in ("lower", "upper", "bracket") else self.estimators
        return sum(getattr(row, f"{statement}_is_short") for row in rows)


def by_model(rows: Sequence[EstimateRow]) -> list[tuple[str, list[EstimateRow]]]:
    """Return the name of each model in the report, and its rows, one for each K."""
    return [(words, [row for row in rows if row.model == name]) for name, words in MODELS.items()]


def check_names(metrics: KnownMetrics | MadeOnceMetrics, tables: TablesMetrics, path: Path) -> None:
    """Check the names of sources and models.

    Raises:
        InputError: a name is unknown or missing; the message names the file.
    """
    unknown = [name for name in metrics.excess.sources if name not in SOURCES]
    if unknown or not metrics.excess.sources:
        raise InputError(f"{path}: excess.sources must have some of the keys {', '.join(SOURCES)}, and no others.")
    of_rows = {row.model for row in tables.estimators}
    if not of_rows == set(metrics.estimators.models) == set(MODELS) >= {row.model for row in tables.annealing}:
        raise InputError(f"{path}: the tables of estimators must have the models {', '.join(MODELS)}.")


def read_known(folder: Path) -> KnownTruths:
    """Read ``results/known``.

    Raises:
        InputError: a file is missing, or has another format than the stage writes.
    """
    metrics = read_stored(folder / "metrics.json", KnownMetrics)
    estimators = _rows(folder / "estimators.csv", EstimateRow, ("pareto_k_median",))
    annealing = _rows(folder / "annealing.csv", BracketRow)
    check_names(metrics, TablesMetrics(estimators=estimators, annealing=annealing), folder)
    return KnownTruths(metrics, estimators, annealing, read_mistakes(folder))


Schema = TypeVar("Schema", bound=Stored)


def _rows(path: Path, schema: type[Schema], may_be_nan: tuple[str, ...] = ()) -> list[Schema]:
    """Read the rows of a table of models."""
    types = {name: field.annotation for name, field in schema.model_fields.items() if name != "model"}
    rows = read_rows(path, "model", tuple(types), may_be_nan)
    whole = {name for name, kind in types.items() if kind is int}
    for row in rows:
        for name in whole:
            if not float(row[name]).is_integer():
                raise InputError(f"{path}: {name} = {row[name]} must be an integer.")
            row[name] = int(row[name])
    return [schema.of({name: value for name, value in row.items() if value == value}, str(path)) for row in rows]
