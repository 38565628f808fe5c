r"""Heads, which turn the outputs of a network into a likelihood, selected by name.

A head defines how many outputs it needs, their meaning, and their initial biases, so that any network can have any
likelihood. Outputs come in groups of channels, (..., G, H, W, n): G = C if every sub-pixel has its own outputs, and
G = 1 if the channels of a pixel share their outputs. Networks give locations and scales in units of half the range of
the levels, (L-1)/2, measured from the middle:

.. math:: \mathrm{loc} = (1 + o) \frac{L-1}{2}, \qquad \log \mathrm{scale} = o' + \log\frac{L-1}{2}

Initial biases are chosen from the marginals of the training images. A softmax or a Bernoulli starts at the shares of
the levels, as if each level had been seen once more. For M discretized densities the marginal is cut into M parts of
equal mass, in the order of the levels. The m-th component starts at the mean of the m-th part, with the spread of the
whole marginal, and all weights are equal. Components therefore differ from the start wherever the images vary, and with
M = 1 the start is the mean and the spread of the marginal. If a marginal is constant, all components have equal biases,
and only the random weights of the network make them different. The spreads of the parts would be too narrow, both for
the noise from those weights and for pixels whose channels are not in the same part. With them, ten coupled components
would start at 12.2 instead of 8.0 bits/dim on CIFAR-10 in a small VAE. Coefficients between channels start at zero.

This module does not define how a network initializes its other weights, or how images are counted.

Invariants (``tests/likelihoods/test_heads.py``): at the initial biases, the likelihood has the shares of the marginal,
or its mean and spread (``test_the_start_is_the_marginal``, ``test_a_density_starts_at_mean_and_spread``); every output
changes the likelihood (``test_every_output_moves_the_likelihood``); the names are those that ``params.yaml`` allows
(``test_the_names_are_those_of_the_parameters``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bitsperdim.likelihoods.base import Likelihood, at_least_float32
from bitsperdim.likelihoods.categorical import Bernoulli, Categorical
from bitsperdim.likelihoods.coupled import CoupledLogisticMixture
from bitsperdim.likelihoods.discretized import Discretized, DiscretizedLogistic, DiscretizedNormal, Mixture

LOGISTIC_STANDARD_DEVIATION = math.pi / math.sqrt(3)  # of the logistic with scale one
VARIANCE_IN_A_CELL = 1 / 12  # of a uniform distribution over one cell, in level units


class Head(ABC):
    """Conversion of the outputs of a network to a likelihood of images.

    Args:
        n_channels: number of channels C.
        n_levels: number of levels L.
        n_mixtures: number of components M.

    Attributes:
        n_groups: number G of groups of channels in a pixel: C or 1.
        n_outputs: number n of outputs for each group of a pixel.

    Raises:
        ValueError: the images or the number of components do not fit the head.
    """

    n_outputs: int

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Store the numbers of channels, levels and components."""
        if n_mixtures < 1:
            raise ValueError(f"n_mixtures must be at least 1, not {n_mixtures}")
        self.n_channels, self.n_levels, self.n_mixtures = n_channels, n_levels, n_mixtures
        self.n_groups = n_channels

    @abstractmethod
    def __call__(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood, batch shape (..., C, H, W), for outputs (..., G, H, W, n)."""

    @abstractmethod
    def biases(self, counts: Tensor) -> Tensor:
        """Return the initial biases of the outputs, (G, H, W, n) float64.

        Args:
            counts: counts of each level in the training images, (C, H, W, L); if the biases are shared by a whole
                channel, the counts are summed to (C, 1, 1, L).
        """

    @property
    def half_range(self) -> float:
        """Half of the range of the levels, which is the unit of the locations and scales of a network."""
        return (self.n_levels - 1) / 2

    @property
    def n_logits(self) -> int:
        """The number of outputs for the weights of a mixture; it is 0 for one component."""
        return self.n_mixtures if self.n_mixtures > 1 else 0

    def refuse_mixtures(self, name: str) -> None:
        """Raise ValueError if there is more than one component."""
        if self.n_mixtures != 1:
            raise ValueError(f"a {name} likelihood has n_mixtures 1, not {self.n_mixtures}")

    def in_levels(self, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log-scale in level units."""
        return (1 + loc) * self.half_range, log_scale + math.log(self.half_range)

    def as_outputs(self, counts: Tensor, standard_deviation: float) -> tuple[Tensor, Tensor]:
        """Return the initial locations and log-scales of the components as outputs of a network, (C, H, W, M) each.

        Args:
            counts: counts of each level in the training images, (C, H, W, L).
            standard_deviation: standard deviation of the density with scale one.
        """
        levels = torch.arange(self.n_levels, device=counts.device, dtype=torch.float64)
        total = counts.sum(-1)
        mean = counts.double() @ levels / total
        variance = counts.double() @ levels.square() / total - mean.square() + VARIANCE_IN_A_CELL
        log_scale = (variance.sqrt() / standard_deviation).log() - math.log(self.half_range)
        loc = means_of_parts(counts, self.n_mixtures) / self.half_range - 1
        return loc, log_scale[..., None].expand(loc.shape)


class BernoulliHead(Head):
    """Head for images with two levels: one output, the logit of level 1."""

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Refuse more than two levels, and mixtures, because a mixture of Bernoullis is a Bernoulli."""
        super().__init__(n_channels, n_levels, n_mixtures)
        if n_levels != 2:
            raise ValueError(f"a Bernoulli likelihood has 2 levels, not {n_levels}")
        self.refuse_mixtures("Bernoulli")
        self.n_outputs = 1

    def __call__(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood."""
        return Bernoulli(outputs.squeeze(-1))

    def biases(self, counts: Tensor) -> Tensor:
        """Return the logits of the share of level 1."""
        log_masses = log_shares(counts)
        return log_masses[..., 1:] - log_masses[..., :1]


class CategoricalHead(Head):
    """Head for any mass over the levels: L outputs, the logits of a softmax."""

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Refuse mixtures, because a mixture of categorical distributions is categorical."""
        super().__init__(n_channels, n_levels, n_mixtures)
        self.refuse_mixtures("categorical")
        self.n_outputs = n_levels

    def __call__(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood."""
        return Categorical(outputs)

    def biases(self, counts: Tensor) -> Tensor:
        """Return the logarithms of the shares of the levels."""
        return log_shares(counts)


class DiscretizedHead(Head):
    """Head for a mixture of M discretized densities.

    The outputs of a sub-pixel are M weights if M > 1, then M locations, then M log-scales.
    """

    density: ClassVar[type[Discretized]]
    standard_deviation: ClassVar[float]

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Count the outputs."""
        super().__init__(n_channels, n_levels, n_mixtures)
        self.n_outputs = self.n_logits + 2 * n_mixtures

    def __call__(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood."""
        sizes = [self.n_logits, self.n_mixtures, self.n_mixtures]
        logits, loc, log_scale = at_least_float32(outputs).split(sizes, -1)
        if self.n_mixtures == 1:
            loc, log_scale = loc.squeeze(-1), log_scale.squeeze(-1)
        density = self.density(*self.in_levels(loc, log_scale), self.n_levels)
        return density if self.n_mixtures == 1 else Mixture(logits, density)

    def biases(self, counts: Tensor) -> Tensor:
        """Return equal weights, the means of equal parts of the marginal, and the spread of the whole marginal."""
        loc, log_scale = self.as_outputs(counts, self.standard_deviation)
        return torch.cat([torch.zeros_like(loc)[..., : self.n_logits], loc, log_scale], -1)


class LogisticHead(DiscretizedHead):
    """Head for discretized logistics."""

    density = DiscretizedLogistic
    standard_deviation = LOGISTIC_STANDARD_DEVIATION


class NormalHead(DiscretizedHead):
    """Head for discretized normals."""

    density = DiscretizedNormal
    standard_deviation = 1.0


class CoupledLogisticHead(Head):
    """Head for mixtures of M logistics with one indicator per pixel, in which earlier channels shift later ones.

    The outputs of a pixel are M weights if M > 1, then C·M locations and C·M log-scales, channel by channel, then M
    coefficients for each of the C(C-1)/2 pairs of channels. A hyperbolic tangent maps the coefficients to (-1, 1).
    """

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Count the outputs."""
        super().__init__(n_channels, n_levels, n_mixtures)
        self.n_groups = 1
        self.n_pairs = n_channels * (n_channels - 1) // 2
        self.n_outputs = self.n_logits + (2 * n_channels + self.n_pairs) * n_mixtures

    def __call__(self, outputs: Tensor) -> CoupledLogisticMixture:
        """Return the likelihood."""
        sizes = [self.n_logits, *(n * self.n_mixtures for n in (self.n_channels, self.n_channels, self.n_pairs))]
        logits, *rest = at_least_float32(outputs).squeeze(-4).split(sizes, -1)
        # (..., H, W, n M) becomes (..., n, H, W, M)
        loc, log_scale, coefficients = (part.unflatten(-1, (-1, self.n_mixtures)).movedim(-2, -4) for part in rest)
        if self.n_mixtures == 1:
            logits = outputs.new_zeros(1)[None, None]  # (H, W, M)
        loc, log_scale = self.in_levels(loc, log_scale)
        return CoupledLogisticMixture(logits, loc, log_scale, torch.tanh(coefficients), self.n_levels)

    def biases(self, counts: Tensor) -> Tensor:
        """Return equal weights, means of equal parts of each channel's marginal, its spread, and zero coefficients.

        The m-th component uses the m-th part of every channel, because the channels of a pixel tend to be bright
        together.
        """
        parts = [part.movedim(0, -2).flatten(-2) for part in self.as_outputs(counts, LOGISTIC_STANDARD_DEVIATION)]
        zeros = parts[0].new_zeros(*parts[0].shape[:-1], self.n_logits + self.n_pairs * self.n_mixtures)
        weights, coefficients = zeros.split([self.n_logits, self.n_pairs * self.n_mixtures], -1)
        return torch.cat([weights, *parts, coefficients], -1)[None]


HEADS: dict[str, type[Head]] = {
    "bernoulli": BernoulliHead,
    "categorical": CategoricalHead,
    "logistic": LogisticHead,
    "normal": NormalHead,
    "coupled_logistic": CoupledLogisticHead,
}


def build_head(likelihood: str, n_channels: int, n_levels: int, n_mixtures: int) -> Head:
    """Build a head by name.

    Args:
        likelihood: name of the head, a key of :data:`HEADS`.
        n_channels: number of channels C.
        n_levels: number of levels L.
        n_mixtures: number of components M, at least 1; ``bernoulli`` and ``categorical`` allow 1 only.

    Raises:
        ValueError: there is no such head, or it does not fit the images or the number of components.
    """
    if likelihood not in HEADS:
        raise ValueError(f"likelihood must be one of {', '.join(HEADS)}, not {likelihood!r}")
    return HEADS[likelihood](n_channels, n_levels, n_mixtures)


def log_shares(counts: Tensor) -> Tensor:
    """Return the logarithm of each level's share, as if each level had been seen once more: (..., L) float64."""
    return ((counts.double() + 1) / (counts.sum(-1, keepdim=True) + counts.shape[-1])).log()


def means_of_parts(counts: Tensor, n_parts: int) -> Tensor:
    """Cut marginals, in the order of the levels, into parts of equal mass, and return the means of the parts.

    If a cut falls inside a level, its count is divided in integers, so that all parts have exactly the same mass.

    Args:
        counts: count of each level, (..., L) int64.
        n_parts: number of parts M.

    Returns:
        Means in level units, (..., M) float64.
    """
    total = counts.sum(-1)[..., None, None]  # N
    ends = counts.cumsum(-1)[..., None, :] * n_parts  # (..., 1, L), in 1/M of an image
    starts = ends - counts[..., None, :] * n_parts
    cuts = total * torch.arange(n_parts, device=counts.device)[:, None]  # (..., M, 1)
    parts = (torch.minimum(ends, cuts + total) - torch.maximum(starts, cuts)).clamp(min=0)  # (..., M, L)
    levels = torch.arange(counts.shape[-1], device=counts.device, dtype=torch.float64)
    return parts.double() @ levels / total.squeeze(-1)
