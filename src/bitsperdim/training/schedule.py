r"""Schedules of training: the learning rate of each step, and the weight of the KL term in the first steps.

Both depend only on the number of the step, so a resumed training run uses the same values as an uninterrupted one.

Invariants (``tests/training/test_schedule.py``): with their number of epochs, the stages equal those of Burda et al.
(``test_the_stages_are_those_of_burda``); a weighted objective has the derivatives of
log p(x given z) + w (log p(z) - log q(z given x)), and the value of the bound (``test_the_kl_term_is_weighed``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsperdim.config.families.base import TrainSection
from bitsperdim.likelihoods import LatentDensity

N_STAGES = 8


def learning_rate(settings: TrainSection, step: int, n_steps: int) -> float:
    """Return the learning rate of a step: a linear rise over ``warmup_steps`` (at most half the run), then a schedule.

    The schedule ``cosine`` is half a period of a cosine, from the highest rate to the final one. ``exponential``
    changes the rate by the same factor in every step. ``stages`` are the eight stages of Burda et al. 2016 (in their
    code, ``experiments.py``): stage i, from 0, has a share of the steps proportional to 3^i, and its rate is the
    highest rate times 10^(-i/7), where this factor is rounded to a hundredth.

    Args:
        settings: settings of training.
        step: number of the step, from 0.
        n_steps: number of steps of the whole training run.
    """
    highest, final = settings.learning_rate, settings.final_learning_rate
    warmup = min(settings.warmup_steps, n_steps // 2)
    if step < warmup:
        return highest * (step + 1) / warmup
    n_done, n_all = step - warmup, max(1, n_steps - warmup)
    progress = min(1.0, n_done / n_all)
    if settings.schedule == "cosine":
        return final + (highest - final) * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "exponential":
        return highest * (final / highest) ** progress
    if settings.schedule == "stages":
        parts = [(3**i - 1) // 2 for i in range(N_STAGES + 1)]  # parts before each stage; the last entry is their total
        stage = sum(n_done * parts[-1] >= n_all * before for before in parts[1:-1])  # integers, so no rounding
        return highest * round(10 ** (1 - stage / (N_STAGES - 1)), 1) / 10
    return highest


def kl_weight(settings: TrainSection, step: int, n_steps: int) -> float:
    """Return the weight of the KL term, which rises linearly to 1 over ``kl_warmup_steps`` (at most half the run)."""
    warmup = min(settings.kl_warmup_steps, n_steps // 2)
    return 1.0 if step >= warmup else (step + 1) / warmup


@dataclass
class WeighedDensity:
    r"""A proposal that draws from q(z given x), but whose log-density is a weighted mean with that of the prior.

    .. math:: w \log q(z \mid x) + (1 - w) \log p(z)

    This density is not normalised. log p(x, z) minus it is log p(x given z) + w (log p(z) - log q(z given x)).

    Attributes:
        proposal: q(z given x).
        prior: p(z).
        weight: w, a scalar.
        withheld: (1 - w) (log p(z) - log q(z given x)), (K, B), for the z of the last call of :meth:`log_prob`; adding
            it to their log-weights gives the log-weights for w = 1.
    """

    proposal: LatentDensity
    prior: LatentDensity
    weight: Tensor
    withheld: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """The mean of the proposal."""
        return self.proposal.mean

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the weighted log-density of z (K, B, Z) in nats, (K, B), and store ``withheld``."""
        log_q = self.proposal.log_prob(z)
        self.withheld = (1 - self.weight) * (self.prior.log_prob(z) - log_q)
        return log_q + self.withheld

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the proposal."""
        return self.proposal.rsample(n_samples, generator=generator)

    def detach(self) -> WeighedDensity:
        """Return the same density without derivatives in its parameters."""
        return WeighedDensity(self.proposal.detach(), self.prior.detach(), self.weight)
