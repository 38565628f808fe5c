r"""Heads: from the outputs of a network to a likelihood, by name.

A head knows how many numbers it needs, what they mean, and at which biases they start, so that any network can have
any likelihood. Outputs come in groups of channels, (..., G, H, W, n): G = C where every sub-pixel has outputs of its
own, and G = 1 where the channels of a pixel share theirs. Networks give locations and scales in units of half the
range of the levels, (L-1)/2, counted from the middle:

.. math:: \mathrm{loc} = (1 + o) \frac{L-1}{2}, \qquad \log \mathrm{scale} = o' + \log\frac{L-1}{2}

Biases start at the marginals of the training images. Of a softmax or a Bernoulli these are the shares of the levels,
as if each had been seen once more. For M discretized densities the marginal is cut into M parts of equal mass, in the
order of the levels; the m-th component starts at the mean of the m-th part, with the spread of the whole, and all
weights are equal: so components differ from the start wherever the images do, and M = 1 is the mean and the spread of
the marginal. Where a marginal is constant the components start alike, and only the random weights above the biases
tell them apart. Spreads of the parts would be too narrow for what those weights add, and for channels whose levels are
not in the same part: ten coupled components then start at 12.2 instead of 8.0 bits/dim on CIFAR-10 in a small VAE.
Coefficients between channels start at zero.

What a network does with its own weights is not decided here, nor how images are counted.

Invariants (``tests/likelihoods/test_heads.py``): the outputs at their initial biases have the marginal's shares, or
mean and spread (``test_the_start_is_the_marginal``, ``test_a_density_starts_at_mean_and_spread``); every output matters
(``test_every_output_moves_the_likelihood``); the names are those that ``params.yaml`` may give
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

LOGISTIC_STANDARD_DEVIATION = math.pi / math.sqrt(3)  # of scale one
VARIANCE_IN_A_CELL = 1 / 12


class Head(ABC):
    """How the outputs of a network become a likelihood of images.

    Args:
        n_channels: C.
        n_levels: L.
        n_mixtures: M, the number of components.

    Attributes:
        n_groups: G, into which the channels of a pixel fall: C or 1.
        n_outputs: n, of each group of a pixel.

    Raises:
        ValueError: the images or the number of components do not fit.
    """

    n_outputs: int

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Remember what the images are."""
        if n_mixtures < 1:
            raise ValueError(f"n_mixtures must be at least 1, not {n_mixtures}")
        self.n_channels, self.n_levels, self.n_mixtures = n_channels, n_levels, n_mixtures
        self.n_groups = n_channels

    @abstractmethod
    def __call__(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood, batch shape (..., C, H, W), for outputs (..., G, H, W, n)."""

    @abstractmethod
    def biases(self, counts: Tensor) -> Tensor:
        """Return where the outputs start, (G, H, W, n) float64.

        Args:
            counts: how often the training images have each level, (C, H, W, L); for biases that a whole channel
                shares, summed to (C, 1, 1, L).
        """

    @property
    def half_range(self) -> float:
        """Half of the range of the levels: the unit in which a network gives locations and scales."""
        return (self.n_levels - 1) / 2

    @property
    def n_logits(self) -> int:
        """The number of outputs for the weights of a mixture: one component needs none."""
        return self.n_mixtures if self.n_mixtures > 1 else 0

    def refuse_mixtures(self, name: str) -> None:
        """Raise ValueError where more than one component is asked for."""
        if self.n_mixtures != 1:
            raise ValueError(f"a {name} likelihood has n_mixtures 1, not {self.n_mixtures}")

    def in_levels(self, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log-scale in level units."""
        return (1 + loc) * self.half_range, log_scale + math.log(self.half_range)

    def as_outputs(self, counts: Tensor, standard_deviation: float) -> tuple[Tensor, Tensor]:
        """Return the outputs (C, H, W, M) for locations and log-scales at which the components start.

        Args:
            counts: (C, H, W, L).
            standard_deviation: of the density with scale one.
        """
        levels = torch.arange(self.n_levels, device=counts.device, dtype=torch.float64)
        total = counts.sum(-1)
        mean = counts.double() @ levels / total
        variance = counts.double() @ levels.square() / total - mean.square() + VARIANCE_IN_A_CELL
        log_scale = (variance.sqrt() / standard_deviation).log() - math.log(self.half_range)
        loc = means_of_parts(counts, self.n_mixtures) / self.half_range - 1
        return loc, log_scale[..., None].expand(loc.shape)


class BernoulliHead(Head):
    """Two levels: one output, the logit of level 1."""

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Refuse more than two levels, and mixtures, which would be Bernoulli again."""
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
    """Any mass over the levels: L outputs, a softmax."""

    def __init__(self, n_channels: int, n_levels: int, n_mixtures: int) -> None:
        """Refuse mixtures, which would be categorical again."""
        super().__init__(n_channels, n_levels, n_mixtures)
        self.refuse_mixtures("categorical")
        self.n_outputs = n_levels

    def __call__(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood."""
        return Categorical(outputs)

    def biases(self, counts: Tensor) -> Tensor:
        """Return the logarithms of the shares."""
        return log_shares(counts)


class DiscretizedHead(Head):
    """A discretized density, or a mixture of M: for each sub-pixel M weights where M > 1, M locations, M log-scales."""

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
        """Return equal weights, means of equal parts of the marginal, and its spread."""
        loc, log_scale = self.as_outputs(counts, self.standard_deviation)
        return torch.cat([torch.zeros_like(loc)[..., : self.n_logits], loc, log_scale], -1)


class LogisticHead(DiscretizedHead):
    """Discretized logistics."""

    density = DiscretizedLogistic
    standard_deviation = LOGISTIC_STANDARD_DEVIATION


class NormalHead(DiscretizedHead):
    """Discretized normals."""

    density = DiscretizedNormal
    standard_deviation = 1.0


class CoupledLogisticHead(Head):
    """Mixtures of M logistics that share their indicator inside a pixel, where earlier channels move later ones.

    The outputs of a pixel: M weights where M > 1, then C·M locations and C·M log-scales, channel by channel, then M
    coefficients for each of the C(C-1)/2 pairs of channels, which a hyperbolic tangent takes to (-1, 1).
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
        # (..., H, W, n M) to (..., n, H, W, M)
        loc, log_scale, coefficients = (part.unflatten(-1, (-1, self.n_mixtures)).movedim(-2, -4) for part in rest)
        if self.n_mixtures == 1:
            logits = outputs.new_zeros(1)[None, None]  # (H, W, M)
        loc, log_scale = self.in_levels(loc, log_scale)
        return CoupledLogisticMixture(logits, loc, log_scale, torch.tanh(coefficients), self.n_levels)

    def biases(self, counts: Tensor) -> Tensor:
        """Return equal weights, means of equal parts of each channel's marginal, its spread, and no coupling.

        The m-th component has the m-th part in every channel, since the channels of a pixel tend to be bright together.
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
        likelihood: a key of :data:`HEADS`.
        n_channels: C.
        n_levels: L.
        n_mixtures: M, at least 1; ``bernoulli`` and ``categorical`` take 1 only.

    Raises:
        ValueError: there is no such head, or it does not fit.
    """
    if likelihood not in HEADS:
        raise ValueError(f"likelihood must be one of {', '.join(HEADS)}, not {likelihood!r}")
    return HEADS[likelihood](n_channels, n_levels, n_mixtures)


def log_shares(counts: Tensor) -> Tensor:
    """Return the logarithm of each level's share, as if each level had been seen once more: (..., L) float64."""
    return ((counts.double() + 1) / (counts.sum(-1, keepdim=True) + counts.shape[-1])).log()


def means_of_parts(counts: Tensor, n_parts: int) -> Tensor:
    """Cut marginals, in the order of the levels, into parts of equal mass, and return their means.

    A level on a cut is divided, in integers, so that every part has the same mass exactly.

    Args:
        counts: how often each level was seen, (..., L) int64.
        n_parts: M.

    Returns:
        In level units, (..., M) float64.
    """
    total = counts.sum(-1)[..., None, None]  # N
    ends = counts.cumsum(-1)[..., None, :] * n_parts  # (..., 1, L), in 1/M of an image
    starts = ends - counts[..., None, :] * n_parts
    cuts = total * torch.arange(n_parts, device=counts.device)[:, None]  # (..., M, 1)
    parts = (torch.minimum(ends, cuts + total) - torch.maximum(starts, cuts)).clamp(min=0)  # (..., M, L)
    levels = torch.arange(counts.shape[-1], device=counts.device, dtype=torch.float64)
    return parts.double() @ levels / total.squeeze(-1)
