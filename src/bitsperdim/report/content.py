"""The content of the report, read from ``results`` and checked: metrics, curves, per-image numbers, pictures.

This module neither draws nor formats; :mod:`bitsperdim.results.reading` opens the files. The numbers of
one report must be comparable. A model that was scored on other test images than those that ``dequantize``
describes raises InputError. A model that was scored under another protocol tag (for example, given the
label) is kept, and the report names its protocol.

Invariants (``tests/report/test_report.py``): other test images are refused
(``test_other_test_images_are_refused``); another protocol is named (``test_another_protocol_is_named``).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitsperdim.config.defaults import in_force
from bitsperdim.config.families.base import Section
from bitsperdim.config.params import STUDIES, Params, StudyName
from bitsperdim.core.errors import InputError
from bitsperdim.core.labels import TOLERATED_SHARE
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.stored import Stored
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.core.yardsticks import ImagesMetrics
from bitsperdim.recipes.curves import Curve, read_curves
from bitsperdim.report.published import PublishedNumber, read_published
from bitsperdim.results.density_and_mass import Study, read_study
from bitsperdim.results.known import KnownTruths, read_known
from bitsperdim.results.project_delay import Delay, read_delay
from bitsperdim.results.reading import Columns, Picture, read_columns, read_picture, read_stored
from bitsperdim.results.universal_resnet import ResnetStudy, read_resnet
from bitsperdim.results.variants import Scored, Way, of_models


@dataclass(frozen=True)
class ModelReport:
    """Everything that the report shows about one model.

    Attributes:
        name: name of the model's section.
        family: family of the model.
        description: description of the family, the first sentence of the docstring of its section.
        metrics: metrics of the evaluation.
        n_train_samples: K of the training objective.
        validation_samples: K of the validation bound.
        curve: columns of ``training_curve.csv``.
        bound: columns of ``bound_against_k.csv``, and ``standard_error_bpd``; for some models also ``contrast_bpd``.
        nll: (N,) negative log-likelihood of each test image in nats, the mean over seeds.
        same_as: (N,) index of the first test image that is equal.
        pareto_k: k-hat of each seed and test image; empty if k-hat is not judged.
        samples: images drawn from the model, if it can draw samples.
        reconstructions: each test image above its reconstruction, for models with a latent code.
        completions: test images, and below them completions given their upper halves, for autoregressive models.
        receptive_field: the pixels on which one pixel depends, for autoregressive models.
        is_given_class: whether the model is given the class; then each column of the samples shows one class.
        first_kept_epoch: first epoch whose weights may be kept: the first epoch of fine-tuning, if there is any.
    """

    name: str
    family: str
    description: str
    metrics: Metrics
    n_train_samples: int
    validation_samples: int
    curve: Columns
    bound: Columns
    nll: np.ndarray
    same_as: np.ndarray
    pareto_k: np.ndarray
    samples: Picture | None
    reconstructions: Picture | None
    completions: Picture | None
    receptive_field: Picture | None
    is_given_class: bool
    first_kept_epoch: int

    @property
    def is_bound(self) -> bool:
        """Whether the number is an upper bound on the bits per dimension, or would be without its solver error."""
        return self.metrics.is_sampled

    @property
    def is_estimate(self) -> bool:
        """Whether the number is neither exact nor a bound, because of its solver error."""
        return self.metrics.kind == "estimate"

    @property
    def is_density(self) -> bool:
        """Whether the number is a density at whole numbers, which is not a likelihood and is never ranked."""
        return self.metrics.kind == "density"

    @property
    def is_declared(self) -> bool:
        """Whether the kind of the number is declared by the model and was not verified."""
        return self.metrics.verified is False

    @property
    def relation(self) -> str:
        """The sign before the number: = for an exact number, ≤ for a bound, ≈ for an estimate, empty for a density."""
        return "" if self.is_density else self.metrics.sign

    @property
    def is_sampled(self) -> bool:
        """Whether several importance samples were averaged; only then is there a curve against K."""
        return self.metrics.n_samples > 1

    @property
    def bpd_seed_error(self) -> float | None:
        """The part of the standard error of the mean over seeds that comes from training; None with a single seed."""
        spread = self.metrics.bpd_seed_spread
        return None if spread is None else spread / math.sqrt(self.metrics.n_seeds)

    @property
    def bpd_error_of_both(self) -> float | None:
        """The standard error over test sets and training runs together; None with a single seed.

        Both parts contain the interaction of images and seeds, so the value is too large rather than too small.
        """
        of_seeds = self.bpd_seed_error
        return None if of_seeds is None else math.hypot(self.metrics.bpd_standard_error, of_seeds)

    @property
    def has_small_ess(self) -> bool:
        """Whether the number is flagged because too many images have a small effective sample size."""
        too_few = self.metrics.too_few_samples and self.metrics.ess_below_10_share > TOLERATED_SHARE
        return self.is_sampled and too_few

    @property
    def has_heavy_tails(self) -> bool:
        """Whether the number is flagged because too many images have weights with a heavy tail."""
        return (self.metrics.pareto_k_high_share or 0.0) > TOLERATED_SHARE

    @property
    def is_closed_form(self) -> bool:
        """Whether the model was fitted in closed form, in one pass: then its curve has only epoch 0."""
        return bool((self.curve["epoch"] == 0).all())

    @cached_property
    def best_epochs(self) -> list[tuple[int, int, float]]:
        """Seed, epoch and validation bits per dimension of the weights that were kept.

        These are the weights with the smallest validation value, from the first epoch if several are equal.
        """
        rows = []
        for seed in np.unique(self.curve["seed"]):
            mine = (self.curve["seed"] == seed) & (self.curve["epoch"] >= self.first_kept_epoch)
            best = int(np.argmin(self.curve["validation_bpd"][mine]))
            epoch, bpd = (float(self.curve[name][mine][best]) for name in ("epoch", "validation_bpd"))
            rows.append((int(seed), int(epoch), bpd))
        return rows


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        dataset: name of the data set.
        images: metrics of the images.
        test_images: picture of some test images.
        near_copies: picture of test images beside the training images that they nearly copy; None: there are no such
            images.
        models: models in the order of ``models``.
        studies: studies that are switched on, in the order of ``studies``.
        known: the study of known truths; this and the next three are None if the study is switched off.
        study: the study of densities and masses.
        delay: the study of a rare delay.
        resnet: the study of the one-neuron ResNet.
        ways: one table for each flow that occurs among the models with several ways of dequantizing.
        published: published numbers for the protocol of the images.
        curves: committed training curves of recipes for images of the same kind.
        n_samples: K of the evaluation.
        parameters: (section, [(key, value)]) in the order of ``params.yaml``.
    """

    dataset: str
    images: ImagesMetrics
    test_images: Picture
    near_copies: Picture | None
    models: list[ModelReport]
    studies: list[StudyName]
    known: KnownTruths | None
    study: Study | None
    delay: Delay | None
    resnet: ResnetStudy | None
    ways: list[list[Way]]
    published: list[PublishedNumber]
    curves: list[Curve]
    n_samples: int
    parameters: list[tuple[str, list[tuple[str, str]]]]

    @property
    def likelihoods(self) -> list[ModelReport]:
        """The models that may be ranked: they have likelihoods under the protocol of the images."""
        return [model for model in self.models if not (model.is_density or self.is_of_another_protocol(model))]

    @property
    def of_other_protocols(self) -> list[ModelReport]:
        """The models with likelihoods under another protocol, for example models that were given the label."""
        return [model for model in self.models if not model.is_density and self.is_of_another_protocol(model)]

    def is_of_another_protocol(self, model: ModelReport) -> bool:
        """Return whether a model was scored under another protocol than that of the images."""
        return model.metrics.protocol != self.images.protocol

    @property
    def densities(self) -> list[ModelReport]:
        """The models whose number is a density at whole numbers, not a likelihood."""
        return [model for model in self.models if model.is_density]

    @property
    def is_of_known_truth(self) -> bool:
        """Whether the images are drawn from a distribution whose log P(x) is known."""
        return self.images.truth_bpd is not None

    @property
    def in_terms(self) -> list[ModelReport]:
        """The models with a latent code whose bound at K = 1 is split into rate and distortion."""
        return [model for model in self.models if model.metrics.rate_distortion is not None]

    @property
    def any_impossible(self) -> bool:
        """Whether some model assigns probability zero to a test image."""
        return any(model.metrics.n_impossible_images for model in self.models)

    @property
    def any_estimates(self) -> bool:
        """Whether a number is neither exact nor a bound."""
        return any(model.is_estimate for model in self.models)

    @property
    def any_seeds(self) -> bool:
        """Whether the numbers of single seeds can be shown for at least one ranked model."""
        return any(model.metrics.bpd_by_seed for model in self.likelihoods)

    @property
    def any_seed_spread(self) -> bool:
        """Whether some model was trained with several seeds."""
        return any(model.metrics.bpd_seed_spread is not None for model in self.models)


def title_of(params: Params) -> str:
    """Return the name of the data set; for the user's own images, the name of their file or folder."""
    dataset = params.dataset
    return (Path(dataset.path).stem or dataset.name) if dataset.name in ("folder", "npz") else dataset.name


def read_report(params: Params, results: Path, root: Path) -> Report:
    """Read everything under ``results``, and the published numbers of ``root / "recipes"``.

    Raises:
        InputError: a file is missing or was not written by a stage in this form, or a model was scored on other test
            images.
    """
    images = read_stored(results / "dequantize" / "metrics.json", ImagesMetrics)
    test_images = read_picture(results / "dequantize" / "pictures" / "test_images.png")
    names = read_stored(results / "models.json", _ModelList).models
    models = [_read_model(params, results / name, name, images) for name in names]
    studies = params.studies
    known = read_known(results / "known") if "known" in studies else None
    study = read_study(results / "density_and_mass") if "density_and_mass" in studies else None
    delay = read_delay(results / "project_delay") if "project_delay" in studies else None
    resnet = read_resnet(results / "universal_resnet") if "universal_resnet" in studies else None
    scored = {model.name: _scored(model, images) for model in models if not model.is_density}
    ways = of_models({name: params.section(name) for name in scored}, scored, images.image_shape)
    published = read_published(root, images.protocol, images.image_shape)
    curves = read_curves(root, images.protocol)
    return Report(
        dataset=title_of(params),
        images=images,
        test_images=test_images,
        near_copies=_picture_if_any(results / "dequantize" / "pictures" / "near_copies.png"),
        models=models,
        studies=studies,
        known=known,
        study=study,
        delay=delay,
        resnet=resnet,
        ways=ways,
        published=published,
        curves=curves,
        n_samples=params.evaluate.n_samples,
        parameters=parameters(params),
    )


def _scored(model: ModelReport, images: ImagesMetrics) -> Scored:
    metrics, curve = model.metrics, model.curve
    objectives = [
        float(curve["train_bpd"][(curve["seed"] == seed) & (curve["epoch"] == epoch)][0])
        for seed, epoch, _ in model.best_epochs
    ]
    return Scored(
        n_parameters=metrics.n_parameters,
        train_bpd=float(np.mean(objectives)),
        elbo_bpd=bits_per_dim(metrics.elbo_nats, images.image_shape),
        bpd=metrics.bpd,
        bpd_standard_error=metrics.bpd_standard_error,
        bias_bpd=nats_to_bits_per_dim(-metrics.log_p_bias_nats, images.image_shape),
        ess_median=metrics.ess_median,
        too_few_samples=metrics.too_few_samples,
        log_p=-model.nll,
        same_as=model.same_as,
    )


def parameters(params: Params) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return every parameter in force, including defaults, section by section; dots join nested keys."""
    unused = {"sections", *STUDIES} - set(params.studies)
    content = {name: getattr(params, name) for name in Params.model_fields if name not in unused}
    lists = {name: value for name, value in content.items() if not isinstance(value, Section)}
    sections = {name: value for name, value in content.items() if isinstance(value, Section)} | params.sections
    rows = [("general", _flat(lists))]
    return rows + [(name, _flat(in_force(value))) for name, value in sections.items()]


class _ModelList(Stored):
    """``results/models.json``: the models, in the order of the report."""

    models: list[str]


def _read_model(params: Params, folder: Path, name: str, images: ImagesMetrics) -> ModelReport:
    section = params.section(name)
    metrics = read_stored(folder / "metrics.json", Metrics)
    if metrics.test_sha256 != images.test_sha256:
        raise InputError(
            f"{folder / 'metrics.json'} was scored on test images with the hash {metrics.short_hash}, but the test "
            f"images of the data set have the hash {images.short_hash}; evaluate {name} again."
        )
    beside = ("contrast_bpd",) if metrics.contrast is not None else ()
    bound = read_columns(folder / "bound_against_k.csv", ("n_samples", "bpd", "standard_error_nats", *beside))
    bound["standard_error_bpd"] = nats_to_bits_per_dim(bound["standard_error_nats"], images.image_shape)
    per_image = read_columns(folder / "per_image.csv", ("seed", "image", "log_p", "same_as"))
    return ModelReport(
        name=name,
        family=section.family,
        description=(inspect.getdoc(type(section)) or "").split("\n\n")[0].replace("``", ""),
        metrics=metrics,
        n_train_samples=section.n_train_samples,
        validation_samples=section.settings(params.train).validation_samples,
        curve=read_columns(
            folder / "training_curve.csv", ("epoch", "n_presented", "train_bpd", "validation_bpd", "seed")
        ),
        bound=bound,
        nll=-_by_seed(per_image, "log_p", metrics, folder / "per_image.csv").mean(0),
        same_as=_by_seed(per_image, "same_as", metrics, folder / "per_image.csv")[0].astype(np.int64),
        pareto_k=_pareto_k(folder / "per_image.csv", metrics),
        samples=(read_picture if metrics.origin is None else _picture_if_any)(folder / "pictures" / "samples.png"),
        reconstructions=_picture_if_any(folder / "pictures" / "reconstructions.png"),
        completions=_picture_if_any(folder / "pictures" / "completions.png"),
        receptive_field=_picture_if_any(folder / "pictures" / "receptive_field.png"),
        is_given_class="/given-label" in metrics.protocol,
        first_kept_epoch=section.first_finetuned_epoch(section.settings(params.train).epochs) or 0,
    )


def _picture_if_any(path: Path) -> Picture | None:
    return read_picture(path) if path.exists() else None


def _by_seed(per_image: Columns, name: str, metrics: Metrics, path: Path) -> np.ndarray:
    """Return one column of the per-image numbers, shape (seeds, N)."""
    expected = metrics.n_seeds * metrics.n_images
    if len(per_image[name]) != expected:
        raise InputError(f"{path} has {len(per_image[name])} rows, but {expected} images were scored.")
    order = np.lexsort((per_image["image"], per_image["seed"]))
    by_seed: np.ndarray = per_image[name][order].reshape(metrics.n_seeds, metrics.n_images)
    return by_seed


def _pareto_k(path: Path, metrics: Metrics) -> np.ndarray:
    if metrics.pareto_k_limit is None:
        return np.zeros(0)
    return read_columns(path, ("pareto_k",), may_be_nan=("pareto_k",))["pareto_k"]


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _as_yaml(value)))
    return rows


def _as_yaml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_as_yaml(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.9g}"
    return str(value)
