r"""Tests of whether a model draws images with the probabilities that it states; each of the three holds its level.

*All images can be counted.* The G statistic :math:`2 \sum O \log (O / E)`, with rare images pooled, is compared with
its values for simulated draws from the masses.

*The model has conditionals.* If x is drawn from p, :math:`\prod q(x) / p(x)` over independent draws has the mean 1 for
any mass function q. So Markov's inequality applies to this product, and to its mean over several q: conditionals at
other temperatures, conditionals mixed with a little of the uniform distribution, and independent sub-pixels fitted to
other draws.

*Only log P is known.* The same test uses independent sub-pixels alone. A second test makes Metropolis steps that leave
p invariant. An image drawn from p and the same image some steps later are exchangeable, hence the change d of log p is
as likely as -d. For independent changes of this kind, :math:`P(|\sum d| \ge t \sqrt{\sum d^2}) \le 2 e^{-t^2 / 2}`
whatever their distribution is (Hoeffding 1963, "Probability Inequalities for Sums of Bounded Random Variables", given
all :math:`|d|`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import xlogy
from torch import Tensor

from bitsperdim.auditing.chance import label
from bitsperdim.auditing.check import LEVEL, Case
from bitsperdim.models.external.wrapping import ExternalConditionals

N_SIMULATED = round(1 / LEVEL) - 1  # simulated data sets; the test refutes if none has so large a statistic
EXPECTED = 10.0  # smallest expected number of draws in a cell
MOST_CELLS = 200
TEMPERATURES = (0.5, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.25, 2.0)  # factors that multiply log-masses
MIXED = (0.001, 0.01, 0.1)  # weights of the uniform distribution over levels in the mixtures
N_ALTERNATIVES = len(TEMPERATURES) + len(MIXED) + 1
NUMBERS_AT_ONCE = 2**22  # sub-pixels times levels, 8 bytes each, and a few temporary copies


@dataclass(frozen=True)
class Counted:
    """Result of a G-test.

    Attributes:
        statistic: G.
        critical: critical value; a larger statistic refutes the masses.
        mean: mean statistic of the simulated draws.
    """

    statistic: float
    critical: float
    mean: float

    @property
    def is_refuted(self) -> bool:
        """Whether the statistic is larger than that of every simulated data set."""
        return self.statistic > self.critical


def g_test(masses: np.ndarray, counts: np.ndarray, seed: int) -> Counted:
    """Compare counts of independent draws, (M,), with masses (M,) that sum to one."""
    n_drawn = int(counts.sum())
    order = np.argsort(masses)
    least = max(EXPECTED, n_drawn / MOST_CELLS)
    before = np.concatenate([[0.0], np.cumsum(n_drawn * masses[order])[:-1]])
    cells = np.unique(np.floor(before / least), return_inverse=True)[1]
    expected = np.bincount(cells, n_drawn * masses[order])
    observed = np.bincount(cells, counts[order])
    drawn = np.random.default_rng(seed).multinomial(n_drawn, expected / expected.sum(), N_SIMULATED)
    simulated = 2 * xlogy(drawn, drawn / expected).sum(1)
    return Counted(
        float(2 * xlogy(observed, observed / expected).sum()), float(simulated.max()), float(simulated.mean())
    )


@torch.no_grad()
def conditional_evidence(case: Case, model: ExternalConditionals, drawn: Tensor, log_fitted: Tensor) -> float:
    """Return the evidence in nats of draws against the model's conditionals; infinity if a draw is impossible.

    Args:
        case: the audited case.
        model: the model that drew the images.
        drawn: drawn images, (N, C, H, W).
        log_fitted: log-probabilities, (M,) nats, of the last M draws under a distribution fitted to the other draws.
    """
    gained = torch.zeros(N_ALTERNATIVES - 1, dtype=torch.float64)
    n_levels, log_p = model.n_levels, []
    for part in drawn.split(max(1, NUMBERS_AT_ONCE // (model.n_dims * max(n_levels, 256)))):
        x = part.long().to(model.device)
        given = model.conditionals(x, label(case, len(x), model))
        every = [given.log_prob(torch.full_like(x, level)) for level in range(n_levels)]
        log_masses = torch.stack(every, dim=-1).double().log_softmax(-1)

        def log_q(log_masses: Tensor, at: Tensor = x) -> Tensor:
            return log_masses.gather(-1, at[..., None])[..., 0]

        known = log_q(log_masses)
        log_p.append(known.flatten(1).sum(1).cpu())
        if bool(known.isneginf().any()):
            return math.inf
        tempered = [log_q((beta * log_masses).log_softmax(-1)) for beta in TEMPERATURES]
        mixed = [torch.log((1 - share) * known.exp() + share / n_levels) for share in MIXED]
        gained += torch.stack([(each - known).sum().cpu() for each in (*tempered, *mixed)])
    of_fitted = (log_fitted - torch.cat(log_p)[-len(log_fitted) :]).sum()
    return float(torch.logsumexp(torch.cat([gained, of_fitted[None]]), 0)) - math.log(N_ALTERNATIVES)


@dataclass(frozen=True)
class Exchanged:
    """Test of the changes of log p by Metropolis steps.

    Attributes:
        change: changes, (N,) nats.
        level: level of the test.
    """

    change: Tensor
    level: float

    @property
    def mean(self) -> float:
        """Mean of the changes, nats."""
        return float(self.change.mean())

    @property
    def critical(self) -> float:
        """Critical size of the mean, nats."""
        return math.sqrt(2 * math.log(2 / self.level)) * float(self.change.square().sum().sqrt()) / len(self.change)
