"""Images whose log-likelihood is known: the section ``dataset.drawn``, and that of the study ``known``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bitsperdim.config.families.base import Section

Side = Annotated[int, Field(ge=1, le=64)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class DrawnSection(Section):
    """The images of a data set that is drawn from a known distribution."""

    height: Side = 8
    width: Side = 8
    n_channels: Annotated[int, Field(ge=1, le=3)] = 1
    n_train: Count = 4_000
    n_validation: Count = 500
    n_test: Count = 1_000
    strength: Annotated[float, Field(ge=0, le=100)] | None = None
    n_components: Annotated[int, Field(ge=1, le=64)] | None = None


class ExcessSection(Section):
    """The families that are trained on images from a known distribution, and those images."""


class EstimatorsSection(Section):
    """The models whose marginal likelihood is known, and how often each estimator is asked for it."""


class MistakesSection(Section):
    """The models that are trained on the images of the pipeline, and with which the mistakes are made."""


class KnownSection(Section):
    """The study of known truths: nobody beats them, estimators cover them, and mistakes are caught."""

    seed: int = 0
    excess: ExcessSection = ExcessSection()
    estimators: EstimatorsSection = EstimatorsSection()
    mistakes: MistakesSection = MistakesSection()
