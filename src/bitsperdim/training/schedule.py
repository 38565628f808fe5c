r"""What changes from step to step of a training: the learning rate, and the weight of the KL term in its first steps.

Both are functions of the number of the step alone, so that an interrupted training goes on as if it had not been.

Invariants (``tests/training/test_schedule.py``): the stages are those of Burda et al. at their number of epochs
(``test_the_stages_are_those_of_burda``); a weighed objective has the derivatives of
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
    """Rise linearly over ``warmup_steps`` (at most half of the run), then follow the schedule.

    The cosine is half of one, from the highest rate to the final one; exponential: by the same factor in every step.
    The stages are those of Burda et al. 2016 (in their code, ``experiments.py``): of eight the i-th, from 0, takes 3^i
    parts of the steps, at 10^(-i/7) of the highest rate, rounded to a hundredth.

    Args:
        settings: of the training.
        step: its number, from 0.
        n_steps: of the whole training.
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
        parts = [(3**i - 1) // 2 for i in range(N_STAGES + 1)]  # before each stage, and of all
        stage = sum(n_done * parts[-1] >= n_all * before for before in parts[1:-1])  # whole numbers: no rounding
        return highest * round(10 ** (1 - stage / (N_STAGES - 1)), 1) / 10
    return highest


def kl_weight(settings: TrainSection, step: int, n_steps: int) -> float:
    """Return the weight of the KL term: it rises linearly to one over ``kl_warmup_steps`` (at most half of the run)."""
    warmup = min(settings.kl_warmup_steps, n_steps // 2)
    return 1.0 if step >= warmup else (step + 1) / warmup


@dataclass
class WeighedDensity:
    r"""A proposal whose draws are those of q(z given x), but whose log-density is weighed with that of the prior.

    .. math:: w \log q(z \mid x) + (1 - w) \log p(z)

    It is not normalised. Taken from log p(x, z) it leaves log p(x given z) + w (log p(z) - log q(z given x)).

    Attributes:
        proposal: q(z given x).
        prior: p(z).
        weight: w, a scalar.
        withheld: of the z that was asked for last, (1 - w) (log p(z) - log q(z given x)), (K, B): what their
            log-weights lack.
    """

    proposal: LatentDensity
    prior: LatentDensity
    weight: Tensor
    withheld: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """That of the proposal."""
        return self.proposal.mean

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the weighed log-density of z (K, B, Z) in nats, (K, B)."""
        log_q = self.proposal.log_prob(z)
        self.withheld = (1 - self.weight) * (self.prior.log_prob(z) - log_q)
        return log_q + self.withheld

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the proposal."""
        return self.proposal.rsample(n_samples, generator=generator)

    def detach(self) -> WeighedDensity:
        """Return the same density without derivatives in its parameters."""
        return WeighedDensity(self.proposal.detach(), self.prior.detach(), self.weight)
