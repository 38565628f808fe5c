r"""Probability masses p(x | parameters) of single sub-pixels, and the diagonal normal of latent spaces.

In the manner of ``torch.distributions``, with two differences: randomness is an explicit generator,
and parameters are taken to at least float32, so that a network that ran in bfloat16 is scored in
float32. No epsilon, clamp or switch: a mass is exact to rounding.

Not here yet: discretized logistic and normal heads and their mixtures.

Invariants (``tests/test_likelihoods.py``):

1. Masses sum to one over the levels, for extreme logits too (``test_masses_sum_to_one``).
2. Samples have the stated mean (``test_samples_have_the_mean``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F


def at_least_float32(parameter: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it is float32 or float64 already."""
    return parameter if parameter.dtype in (torch.float32, torch.float64) else parameter.float()


class Likelihood(ABC):
    """A batch of independent distributions over the levels 0..L-1, one for each sub-pixel."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, exact, of the batch shape; ``x`` holds integers 0..L-1 and broadcasts."""

    @abstractmethod
    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw one uint8 value 0..L-1 from each."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean in level units, of the batch shape."""


class Bernoulli(Likelihood):
    r"""Two levels.

    .. math:: \log p(x) = \log \sigma\big((2x - 1) \, a\big), \qquad p(1) = \sigma(a)

    Args:
        logits: a, any shape, which is the batch shape.
    """

    n_levels = 2

    def __init__(self, logits: Tensor) -> None:
        """Take the logits of level 1."""
        self.logits = at_least_float32(logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        # not x a - softplus(a): torch's softplus is linear above 20, which loses up to 2e-9
        return F.logsigmoid((2 * x.to(self.logits.dtype) - 1) * self.logits)

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw 0 or 1 from each."""
        return torch.bernoulli(self.mean, generator=generator).to(torch.uint8)

    @property
    def mean(self) -> Tensor:
        """The probability of level 1."""
        return torch.sigmoid(self.logits)


class Categorical(Likelihood):
    r"""Any mass over L levels: a softmax.

    .. math:: \log p(x) = a_x - \log \sum_{v=0}^{L-1} e^{a_v}

    Args:
        logits: a, (..., L); the batch shape is what comes before L.
    """

    def __init__(self, logits: Tensor) -> None:
        """Take the unnormalised log-masses."""
        self.logits = at_least_float32(logits)
        self.n_levels = logits.shape[-1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        log_masses = torch.log_softmax(self.logits, dim=-1)
        index = x.long().expand(log_masses.shape[:-1])
        return log_masses.gather(-1, index[..., None]).squeeze(-1)

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw one level from each."""
        masses = torch.softmax(self.logits, dim=-1).flatten(0, -2)
        drawn = torch.multinomial(masses, 1, generator=generator)
        return drawn.reshape(self.logits.shape[:-1]).to(torch.uint8)

    @property
    def mean(self) -> Tensor:
        """The mean level."""
        levels = torch.arange(self.n_levels, device=self.logits.device, dtype=self.logits.dtype)
        return torch.softmax(self.logits, dim=-1) @ levels


class DiagonalNormal:
    r"""A normal density with independent coordinates over the last dimension.

    .. math:: \log p(z) = -\tfrac12 \sum_j \Big( \frac{(z_j - \mu_j)^2}{s_j^2} + \log 2\pi \Big) - \sum_j \log s_j

    Args:
        mean: mu, (..., Z).
        log_scale: log s, (..., Z).
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        """Take the mean and the logarithm of the standard deviation."""
        self.mean = at_least_float32(mean)
        self.log_scale = at_least_float32(log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, summed over the last dimension."""
        standardised = (z - self.mean) * torch.exp(-self.log_scale)
        terms = -0.5 * (standardised.square() + math.log(math.tau)) - self.log_scale
        return terms.sum(-1)

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, ..., Z), differentiable in the parameters; the k-th draw does not depend on K."""
        noise = draw_each(torch.randn, n_samples, self.mean, generator)
        return self.mean + torch.exp(self.log_scale) * noise


def draw_each(
    draw: object, n_samples: int, like: Tensor, generator: torch.Generator | None
) -> Tensor:  # (K, *like.shape)
    """Draw ``n_samples`` times with the shape, dtype and device of ``like``, one after the other.

    One call for all would be a little faster, but its numbers would depend on how K is cut into
    chunks, and with them every estimate.
    """
    draws = [
        draw(like.shape, generator=generator, dtype=like.dtype, device=like.device)  # type: ignore[operator]
        for _ in range(n_samples)
    ]
    return torch.stack(draws)
