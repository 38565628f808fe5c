"""Typed, validated content of ``params.yaml``.

The file is read in the same way as DVC reads it (YAML 1.2, in which ``1e-05`` is a number), and checked completely
before any work. An unknown key, a wrong type or a value out of range raises an error with one sentence that names the
key, the value and what is allowed. Nothing is converted silently.

Every key has a default, which is the value in the committed file. So a new key does not break a user's file. Only the
keys that DVC itself needs, because ``dvc.yaml`` names them, are required, and the ``family`` of a model. DVC needs
``models``, ``seeds``, ``dataset.name``, ``dataset.path``, and the sections on which stages depend, for which ``{}`` is
enough.

Checks that need the data set are elsewhere (:mod:`bitsperdim.preflight.agreement`, and the stage ``dequantize`` when
the images exist). This module does not import torch.

Invariants (``tests/config/test_params.py``): the committed ``params.yaml`` validates; every kind of mistake gives one
sentence; a float may be written as an integer, but an integer not as a float. The committed file lists all keys, and
gives the same parameters if any one of them is left out (``tests/config/test_defaults.py``). Any bytes validate or give
one sentence, and the check ends soon (``tests/test_fuzz.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from bitsperdim.config.drawn import DrawnSection
from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import (
    FamilySection,
    PositiveFloat,
    Section,
    Size,
    TrainOverrides,
    TrainSection,
    VariationalSection,
    rising,
)
from bitsperdim.config.known import KnownSection
from bitsperdim.config.loading import MAX_ENTRIES, load_yaml
from bitsperdim.config.model_sections import family_section
from bitsperdim.config.sentences import key_shown, listed, sentence, suggestion
from bitsperdim.core.errors import InputError, shown

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Scale = Annotated[float, Field(ge=0.1, le=100)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Number = TypeVar("Number", bound=float)


def without_control_characters(text: str) -> str:
    """Refuse text that cannot be a path, or that a terminal should not show."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("text without control characters")
    return text


Rising = Annotated[list[Number], Field(min_length=1, max_length=20), AfterValidator(rising)]

ProposalName = Literal["refined", "encoder", "prior"]
StudyName = Literal["known", "density_and_mass", "project_delay", "universal_resnet"]
STUDIES: tuple[StudyName, ...] = get_args(StudyName)
SWITCHED_OFF = {"is_switched_off": True}  # content of metrics.json for a study that is not in `studies`

# Names of sections, stages and folders under results/, which a model must not have.
RESERVED = (
    "dataset",
    "dequantize",
    "train",
    "evaluate",
    "models",
    "seeds",
    "studies",
    "preflight",
    "download",
    "report",
    *STUDIES,
)


class DatasetSection(Section):
    """The data set, and the seed of everything that is drawn once for it: splits, binarization, noise."""

    name: str
    path: Annotated[str, Field(min_length=1, max_length=4_096), AfterValidator(without_control_characters)]
    n_levels: Annotated[int, Field(ge=2, le=256)] | None = None
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.2
    seed: Seed = 0
    drawn: DrawnSection = DrawnSection()


class DequantizeSection(Section):
    """Quantization and binarization of the images, before any model sees them."""

    bits: Annotated[int, Field(ge=1, le=7)] | None = None
    binarization: Literal["none", "threshold", "dynamic", "static"] = "none"


class AnnealedSection(Section):
    """Annealed importance sampling for some images, in addition to importance sampling for all images."""

    n_images: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    n_simulated: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    n_chains: Annotated[int, Field(ge=2, le=10_000)] = 4
    n_steps: Annotated[int, Field(ge=2, le=100_000)] = 60
    n_leapfrog: Annotated[int, Field(ge=1, le=1_000)] = 2


class RefinedSection(Section):
    """Settings of the proposals that are refined for each image."""

    n_steps: Annotated[int, Field(ge=1, le=100_000)] = 50
    n_samples: Annotated[int, Field(ge=1, le=1_000)] = 4
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    n_rounds: Annotated[int, Field(ge=0, le=5)] = 3
    n_pilot: Annotated[int, Field(ge=32, le=10_000)] = 128
    widening: Annotated[float, Field(ge=1, le=3)] = 1.1
    encoder_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    prior_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class FittedNoiseSection(VariationalSection):
    """Learned noise that is fitted to a density at evaluation time, on training images: sizes and training."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    learning_rate: PositiveFloat = 0.003
    train_samples: Annotated[int, Field(ge=1, le=10_000)] = 1


class EvaluateSection(Section):
    """Settings of the evaluation on the test set by importance sampling."""

    n_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    chunk_size: Annotated[int, Field(ge=1, le=100_000)] = 16
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 120
    n_pictures: Annotated[int, Field(ge=1, le=1_024)] = 64
    seed: Seed = 0
    proposal: ProposalName = "refined"
    refined: RefinedSection = RefinedSection()
    noise: Literal["auto", "own", "fitted"] = "auto"
    fitted_noise: FittedNoiseSection = FittedNoiseSection()
    n_contrast: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    annealed: AnnealedSection = AnnealedSection()


class StudiedNoiseSection(VariationalSection):
    """Sizes of learned noise in the study, smaller than elsewhere."""

    n_filters: Size = 8
    n_blocks: Annotated[int, Field(ge=0, le=100)] = 0


STUDIED_TRAINING = {"epochs": 18, "batch_size": 128, "learning_rate": 0.005, "validation_samples": 1}


def with_studied_training(value: object) -> object:
    """Return changes to ``train``, completed with the study's own changes for the keys that are left out."""
    return {**STUDIED_TRAINING, **value} if isinstance(value, Mapping) else value


class DequantizingSection(Section):
    """The flow that the study trains with several kinds of noise, and its images."""

    n_images: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    transform: Literal["maf", "nsf"] = "maf"
    n_transforms: Annotated[int, Field(ge=1, le=1_000)] = 2
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)] = [128]
    n_bins: Annotated[int, Field(ge=2, le=1_000)] = 8
    logit_margin: Annotated[float, Field(ge=0, lt=0.5)] | None = 0.0
    variational: StudiedNoiseSection = StudiedNoiseSection()
    train_samples: Annotated[int, Field(ge=2, le=10_000)] = 4
    n_samples: Annotated[int, Field(ge=2, le=100_000)] = 64
    train: Annotated[TrainOverrides, BeforeValidator(with_studied_training)] = TrainOverrides.model_validate(
        STUDIED_TRAINING
    )

    def flow(self, way: str) -> FamilySection:
        """Return the section of the flow for one way of dequantizing."""
        content = self.model_dump(exclude={"n_images", "n_samples", "train"})
        content |= {"family": "flow", "train": self.train.model_dump(exclude_unset=True)}
        is_weighted = way == "importance_weighted"
        content["dequantization"] = "uniform" if is_weighted else way
        content["train_samples"] = self.train_samples if is_weighted else 1
        return FAMILIES["flow"].model_validate(content)  # not imported by name: see bitsperdim.core.code


class DensityAndMassSection(Section):
    """Sizes of the study of densities and masses."""

    seed: Seed = 0
    max_pixels: Annotated[int, Field(ge=1_000, le=1_000_000_000)] = 1_000_000
    n_steps: Annotated[int, Field(ge=1, le=2_000)] = (
        400  # with the largest step size, scales reach e^-250, without overflow
    )
    step_size: Annotated[float, Field(gt=0, le=0.25)] = 0.1
    n_replicates: Annotated[int, Field(ge=2, le=1_000)] = 250
    n_samples: Annotated[int, Field(ge=2, le=4_096)] = 1024
    n_symbols: Annotated[int, Field(ge=2, le=50_000)] = 10_000
    dequantizing: DequantizingSection = DequantizingSection()


class MistakeSection(Section):
    """A proposal with infinite variance: tasks off the critical path have at most half of their mean."""

    scale_critical: Scale = 3.0
    scale_others: Annotated[float, Field(ge=0.1, le=0.5)] = 0.4


class CrossEntropySection(Section):
    """Optimization of a proposal by the cross-entropy method, level by level."""

    n_samples: Annotated[int, Field(ge=100, le=1_000_000)] = 20_000
    elite_share: Annotated[float, Field(ge=0.01, le=0.5)] = 0.1
    n_final: Annotated[int, Field(ge=1, le=100)] = 2
    max_rounds: Annotated[int, Field(ge=1, le=1_000)] = 50


class ProjectDelaySection(Section):
    """The study of a rare delay: the deadline, the proposals, and the numbers of draws."""

    seed: Seed = 0
    deadline: Annotated[float, Field(ge=20, le=200)] = 70.0  # the mean is 18; at 200 the probability is 2e-16
    n_samples: Annotated[
        list[Annotated[int, Field(ge=2, le=10_000_000)]], Field(min_length=1, max_length=20), AfterValidator(rising)
    ] = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    scale_all: Scale = 4.0
    scale_critical: Annotated[list[Scale], Field(min_length=1, max_length=10), AfterValidator(rising)] = [2.0, 3.0, 4.0]
    mistake: MistakeSection = MistakeSection()
    n_replicates: Annotated[int, Field(ge=2, le=1_000)] = 200
    replicate_samples: Annotated[
        list[Annotated[int, Field(ge=2, le=10_000)]], Field(min_length=1, max_length=10), AfterValidator(rising)
    ] = [100, 1_000, 5_000]
    cross_entropy: CrossEntropySection = CrossEntropySection()


class LearningRatesSection(Section):
    """Largest learning rates of each kind of network in the study of the one-neuron ResNet."""

    resnet: Rate = 0.1
    dense: Rate = 0.03
    single: Rate = 0.1
    approximation: Rate = 0.05


class UniversalResnetSection(Section):
    """The study of the one-neuron ResNet: trained and constructed networks, and the length of training."""

    seed: Seed = 0
    n_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 150
    n_seeds: Annotated[int, Field(ge=2, le=1_000)] = 5
    n_points: Annotated[int, Field(ge=10, le=100_000)] = 300
    learning_rates: LearningRatesSection = LearningRatesSection()
    depths: Rising[Annotated[int, Field(ge=1, le=1_000)]] = [4, 10, 24]
    cells_line: Rising[Annotated[int, Field(ge=2, le=1_000)]] = [4, 8, 16, 32, 64, 128]
    cells_plane: Rising[Annotated[int, Field(ge=2, le=128)]] = [4, 8, 16, 33]


class Params(Section):
    """The whole of ``params.yaml``; ``sections`` holds every model section by name.

    Fields without a default are those that ``dvc.yaml`` names: without them DVC ends with an error.
    """

    dataset: DatasetSection
    dequantize: DequantizeSection
    models: Annotated[list[str], Field(min_length=1, max_length=MAX_ENTRIES)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_ENTRIES)]
    studies: Annotated[list[StudyName], Field(max_length=MAX_ENTRIES)] = list(STUDIES)
    train: TrainSection
    evaluate: EvaluateSection
    known: KnownSection
    density_and_mass: DensityAndMassSection
    project_delay: ProjectDelaySection
    universal_resnet: UniversalResnetSection
    sections: dict[str, FamilySection]

    def section(self, model: str) -> FamilySection:
        """Return the section of one model."""
        if model not in self.sections:
            raise InputError(
                f"There is no model section {shown(model)} in params.yaml; its model sections are "
                f"{listed(self.sections)}."
            )
        return self.sections[model]


def read_params(path: Path) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        InputError: one sentence naming the key, its value and what is allowed.
    """
    return validate(load_yaml(path))


def validate(content: object) -> Params:
    """Validate the content of ``params.yaml``, as in :func:`read_params`."""
    if not isinstance(content, Mapping):
        raise InputError(f"params.yaml must be a mapping of sections, but its content is {shown(content)}.")
    for key in content:
        if not isinstance(key, str):
            raise InputError(f"params.yaml: {shown(key)} is not the name of a section; names must be text.")
    own = {name: content[name] for name in Params.model_fields if name in content and name != "sections"}
    rest = {name: value for name, value in content.items() if name not in own}
    sections: dict[str, FamilySection] = {}
    for name, value in rest.items():
        sections[name] = model_section(name, value)
    try:
        params = Params(**own, sections=sections)
    except ValidationError as error:
        raise InputError(sentence(error, Params)) from error
    _check_lists(params)
    return params


def model_section(name: str, value: object) -> FamilySection:
    """Validate the section of one model.

    Raises:
        InputError: one sentence naming the key, its value and what is allowed.
    """
    known = [*(field for field in Params.model_fields if field != "sections")]
    if not isinstance(value, Mapping) or "family" not in value:
        raise InputError(
            f"params.yaml: {key_shown(name)} is not a known section{suggestion(name, known)}; allowed are "
            f"{listed(known)}, and model sections, which have a key 'family'."
        )
    if name in RESERVED or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
        raise InputError(
            f"params.yaml: {shown(name)} cannot name a model; a name has at most 64 lower-case letters, digits, "
            f"'_' and '-', begins with a letter, and is not the name of a stage or of another section."
        )
    return family_section(name, value)


def _check_lists(params: Params) -> None:
    for model in params.models:
        if model not in params.sections:
            raise InputError(
                f"params.yaml: models names {shown(model)}, which has no section; the model sections are "
                f"{listed(params.sections)}."
            )
    for key, values in (("models", params.models), ("seeds", params.seeds), ("studies", params.studies)):
        for value in [value for value, n_times in Counter[object](values).most_common(1) if n_times > 1]:
            raise InputError(f"params.yaml: {key} names {value!r} twice; each may appear only once.")
