"""The section of the study ``known``, about images and estimators whose true log-likelihood is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny

from bitsperdim.config.drawn import Side
from bitsperdim.config.families.base import FamilySection, Images, PositiveInt, Section, TrainSection, rising
from bitsperdim.config.model_sections import family_section
from bitsperdim.core.errors import InputError, shown

KnownName = Literal["ising", "hidden_markov", "templates", "small_pixelcnn"]
Rising = Annotated[
    list[Annotated[int, Field(ge=2, le=100_000)]], Field(min_length=1, max_length=5), AfterValidator(rising)
]
PLACE = "known.excess.families"
FAMILIES: dict[str, dict[str, Any]] = {
    "histogram": {"family": "histogram"},
    "gated_pixelcnn": {
        "family": "gated_pixelcnn",
        "n_filters": 16,
        "n_layers": 2,
        "kernel_size": 5,
        "train": {"epochs": 7, "learning_rate": 0.008},
    },
    "vae": {
        "family": "vae",
        "latent_size": 8,
        "hidden_sizes": [64, 64],
        "train": {"epochs": 16, "learning_rate": 0.003, "validation_samples": 4},
    },
}


def without_repetition(values: list[Any]) -> list[Any]:
    """Refuse a list that holds a value twice."""
    if len(set(values)) < len(values):
        raise ValueError("a list in which each value appears once")
    return values


def read_families(value: object) -> object:
    """Read the section of each model in the same way as the model sections of ``params.yaml``."""
    if not isinstance(value, Mapping):
        return value
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
            raise InputError(
                f"params.yaml: {PLACE} has the key {shown(name)}, which cannot name a model; a name has at most 64 "
                f"lower-case letters, digits, '_' and '-', and begins with a letter."
            )
    sections = {
        name: each if isinstance(each, FamilySection) else family_section(f"{PLACE}.{name}", each)
        for name, each in value.items()
    }
    for name, section in sections.items():
        if section.family == "external":
            raise InputError(
                f"params.yaml: {PLACE}.{name}.family = 'external' is not allowed; use `bitsperdim audit` to compare "
                f"your own model with a known distribution."
            )
    return sections


class ExcessSection(Section):
    """Models that are trained on images from known distributions, and the sizes of these images.

    Attributes:
        strength, n_components: parameters of each distribution; None: the distribution's own default.
        n_samples: K, for models without an exact likelihood.
        families: a section for each model, by its name.
    """

    sources: Annotated[list[KnownName], Field(min_length=1), AfterValidator(without_repetition)] = ["templates"]
    n_channels: Literal[1, 3] = 1
    height: Side = 8
    width: Side = 8
    n_levels: Annotated[int, Field(ge=2, le=256)] = 4
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    n_components: Annotated[int, Field(ge=1, le=100_000)] | None = None
    n_train: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    n_validation: Annotated[int, Field(ge=2, le=1_000_000)] = 300
    n_test: Annotated[int, Field(ge=2, le=1_000_000)] = 600
    n_samples: Annotated[int, Field(ge=2, le=100_000)] = 128
    families: Annotated[
        dict[str, SerializeAsAny[FamilySection]], Field(min_length=1), BeforeValidator(read_families)
    ] = Field(default=FAMILIES, validate_default=True)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of the images, (C, H, W)."""
        return self.n_channels, self.height, self.width

    def check_models(self, train: TrainSection) -> None:
        """Refuse models that cannot be built for these images, or cannot be trained.

        Raises:
            InputError: one sentence naming the key, its value and what is allowed.
        """
        images = Images(self.n_levels, self.image_shape, 0)
        for name, section in self.families.items():
            section.check_images(f"{PLACE}.{name}", images)
            section.check_size(f"{PLACE}.{name}", images)
            section.check_training(f"{PLACE}.{name}", section.settings(train))


class AnnealedMarginalsSection(Section):
    """Settings of annealing, whose lower and upper bounds are compared with known marginal likelihoods."""

    n_images: Annotated[int, Field(ge=2, le=10_000)] = 8  # in each replicate
    n_replicates: Annotated[int, Field(ge=2, le=1_000)] = 20
    n_chains: Annotated[int, Field(ge=2, le=1_000)] = 4
    n_steps: Rising = [4, 20]
    n_leapfrog: Annotated[int, Field(ge=1, le=1_000)] = 3


class EstimatorsSection(Section):
    """Sizes of the study of estimators, which are compared with known marginal likelihoods."""

    n_images: Annotated[int, Field(ge=2, le=10_000)] = 8
    n_replicates: Annotated[int, Field(ge=2, le=1_000)] = 40
    n_samples: Rising = [16, 128, 1024]
    n_epochs: Annotated[int, Field(ge=1, le=10_000)] = 20  # epochs of training for the VAEs
    annealed: AnnealedMarginalsSection = AnnealedMarginalsSection()


class MistakesSection(Section):
    """Sizes of the models, trained on the images of the pipeline, with which known mistakes are made.

    Attributes:
        n_images: largest number of test images, and of validation images.
        n_train: largest number of training images.
        size: height and width of the crop from the middle that replaces larger images.
        n_steps: number of training steps.
        n_samples: K.
        n_asked: approximate number of images that each check of the audit may score.
    """

    n_images: Annotated[int, Field(ge=2, le=10_000)] = 60
    n_train: Annotated[int, Field(ge=2, le=100_000)] = 1000
    size: Annotated[int, Field(ge=2, le=64)] = 8
    n_steps: PositiveInt = 150
    n_samples: Annotated[int, Field(ge=2, le=10_000)] = 64
    n_asked: PositiveInt = 2048


class KnownSection(Section):
    """The study of known truths: models cannot beat them, estimators agree with them, and mistakes are caught."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    excess: ExcessSection = Field(default_factory=ExcessSection)  # made only when needed, as it imports families
    estimators: EstimatorsSection = EstimatorsSection()
    mistakes: MistakesSection = MistakesSection()

    @property
    def families(self) -> set[str]:
        """Families of the models that the study trains."""
        return {section.family for section in self.excess.families.values()} | {"gaussian", "vae"}
