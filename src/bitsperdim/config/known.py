"""The section of the study ``known``: what is trained on data whose log-likelihood is known, and what is done wrong."""

from __future__ import annotations

from bitsperdim.config.families.base import Section


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
