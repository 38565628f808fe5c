"""The section of the study ``known``: what is trained on data whose log-likelihood is known, and what is done wrong."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bitsperdim.config.families.base import PositiveInt, Section


class ExcessSection(Section):
    """The families that are trained on images from a known distribution, and those images."""


class EstimatorsSection(Section):
    """The models whose marginal likelihood is known, and how often each estimator is asked for it."""


class MistakesSection(Section):
    """The models that are trained on the images of the pipeline, and with which the mistakes are made.

    Attributes:
        n_images: of the test and of the validation set, at most.
        n_train: training images, at most.
        size: height and width of the middle of larger images, which stands for them.
        n_steps: of a training.
        n_samples: K.
        n_asked: images that a check of the audit may ask a model for, about.
    """

    n_images: Annotated[int, Field(ge=2, le=10_000)] = 60
    n_train: Annotated[int, Field(ge=2, le=100_000)] = 1000
    size: Annotated[int, Field(ge=2, le=64)] = 8
    n_steps: PositiveInt = 150
    n_samples: Annotated[int, Field(ge=2, le=10_000)] = 64
    n_asked: PositiveInt = 2048


class KnownSection(Section):
    """The study of known truths: nobody beats them, estimators cover them, and mistakes are caught."""

    seed: int = 0
    excess: ExcessSection = ExcessSection()
    estimators: EstimatorsSection = EstimatorsSection()
    mistakes: MistakesSection = MistakesSection()
