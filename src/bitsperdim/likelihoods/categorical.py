r"""Masses that are not derived from a density: the Bernoulli for two levels, and the categorical for L levels.

Invariants (``tests/likelihoods/test_categorical.py``):

1. Masses sum to one over the levels, for extreme logits too (``test_masses_sum_to_one``).
2. Compared with 60-digit arithmetic, the error of a float32 log-mass is at most 2e-7 max(1, \|log p\|)
   (``test_a_float32_mass_is_exact_to_rounding``).
3. Samples have the stated mean (``test_samples_have_the_mean``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bitsperdim.likelihoods.base import Likelihood, as_levels, at_least_float32

SUMMED_IN_FLOAT32 = 256  # largest number of levels for which log_softmax sums in float32


class Bernoulli(Likelihood):
    r"""The Bernoulli distribution over two levels.

    .. math:: \log p(x) = \log \sigma\big((2x - 1) \, a\big), \qquad p(1) = \sigma(a)

    Args:
        logits: logits a of level 1, of any shape, which is the batch shape.
    """

    n_levels = 2

    def __init__(self, logits: Tensor) -> None:
        """Store the logits of level 1."""
        self.logits = at_least_float32(logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        # not x a - softplus(a), because torch's softplus is linear above 20, with an error of up to 2e-9
        return F.logsigmoid((2 * x.to(self.logits.dtype) - 1) * self.logits)

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw 0 or 1 from each distribution."""
        return torch.bernoulli(self.mean, generator=generator).to(torch.uint8)

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X <= x)."""
        return torch.where(x >= 1, 1.0, torch.sigmoid(-self.logits))

    @property
    def mean(self) -> Tensor:
        """The probability of level 1."""
        return torch.sigmoid(self.logits)


class Categorical(Likelihood):
    r"""A categorical distribution over L levels, with a softmax of logits.

    .. math:: \log p(x) = a_x - \log \sum_{v=0}^{L-1} e^{a_v}

    Args:
        logits: logits a, (..., L); the dimensions before L are the batch shape.
    """

    def __init__(self, logits: Tensor) -> None:
        """Store the unnormalised log-masses."""
        self.logits = at_least_float32(logits)
        self.n_levels = logits.shape[-1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        # torch's log_softmax adds the levels one by one: with 65,536 levels log p has an error of 3e-6 in float32
        dtype = torch.float64 if self.n_levels > SUMMED_IN_FLOAT32 else self.logits.dtype
        log_masses = torch.log_softmax(self.logits, dim=-1, dtype=dtype)
        index, _ = torch.broadcast_tensors(x.long(), log_masses[..., 0])
        rows = log_masses.expand(*index.shape, self.n_levels).reshape(-1, self.n_levels)
        # not `gather`: its derivative makes a GPU wait if results must be deterministic
        taken = F.nll_loss(rows, index.reshape(-1), reduction="none").neg()
        return taken.reshape(index.shape).to(self.logits.dtype)

    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X <= x)."""
        return self.at(torch.softmax(self.logits, dim=-1).cumsum(-1), x)

    def at(self, values: Tensor, x: Tensor) -> Tensor:
        """Select the value of level x from values (..., L); the result has the batch shape."""
        index, _ = torch.broadcast_tensors(x.long(), values[..., 0])
        return values.expand(*index.shape, self.n_levels).gather(-1, index[..., None]).squeeze(-1)

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw one level from each distribution."""
        masses = torch.softmax(self.logits, dim=-1).flatten(0, -2)
        drawn = torch.multinomial(masses, 1, generator=generator)
        return as_levels(drawn.reshape(self.logits.shape[:-1]), self.n_levels)

    @property
    def mean(self) -> Tensor:
        """The mean level."""
        levels = torch.arange(self.n_levels, device=self.logits.device, dtype=self.logits.dtype)
        return torch.softmax(self.logits, dim=-1) @ levels
