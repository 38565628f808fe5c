r"""The noise of a difference between two models: its changes with other test images, samples and training seeds.

Side S (A or B) was trained with R_S seeds and scored on the same N images. Its table of log P is a two-way layout in
which both factors are random,

.. math:: \ell^S_{sn} = \mu^S + \alpha^S_s + \beta^S_n + \gamma^S_{sn},

and gamma also contains the Monte Carlo noise. The difference is the difference of the means over seeds and images. Its
variance is

.. math:: \frac1N \mathrm{Var}(\beta^B_n - \beta^A_n)
    + \sum_S \Big( \frac{\sigma^2_{\alpha,S}}{R_S} + \frac{\sigma^2_{\gamma,S}}{R_S N} \Big).

- ``images`` is the error of the paired differences of the means over seeds. It estimates the first term and the gamma
  terms: the change with another test set, for these seeds.
- ``seeds`` is, for each side, the standard deviation of the means of its seeds over sqrt(R_S). It estimates alpha and
  gamma: the change with other seeds, for this test set.
- ``combined`` is the error of the difference. Its square is the sum of both squares minus the gamma terms, which both
  contain and which the mean square of gamma estimates. No side makes it smaller than ``images`` alone.

The confidence interval that misses with probability p (:meth:`Noise.reach`) has the half-width h. Each of its parts has
its own quantile, because two or three seeds, or a dozen images, do not determine their spread well:

.. math:: h^2 = t_{C - 1}^2 \Big(\mathrm{images}^2 - \sum_S g_S\Big) + t_f^2 \sum_S q_S, \qquad
    f = \frac{(\sum_S q_S)^2}{\sum_S q_S^2 / (R_S - 1)},

with C the number of distinct images, t the two-sided quantiles at p, q_S the square of ``seeds`` of side S, g_S its
gamma term and f the degrees of freedom of the seeds alone (Satterthwaite 1946). h is at least t_{C-1} times ``images``.
Degrees of freedom for the whole combined square would be too many: if two seeds happen to agree, they equal those of
the images, and intervals for two seeds against one then cover the truth in only 88 % of cases. With one seed on both
sides, h is t_{C-1} times ``images``. Copies of an image count once
(:func:`bitsperdim.estimators.paired.paired_difference`).

The seeds of A and B are treated as independent, even if their numbers are equal, because different models use the same
random numbers differently. If both sides have the same trained weights, the interval is therefore too wide.

**No verdict.** A mean of few and skewed numbers is not normal. A difference is not called clear with fewer than
:data:`MIN_IMAGES` distinct images, or with fewer than 25 g^2 (c / 1.96)^2, where g is the skewness of the paired
differences and c the two-sided normal quantile at p. This is Cochran's rule (1977, section 2.15) at p = 5 %, where
intervals for such means miss in at most 6 % of cases. Rare images that are not in the test set cannot be taken into
account.

Not included: for a side with one seed the noise over seeds is unknown, and none of the numbers contains it.

Invariants (``tests/estimators/test_noise.py``):

1. The combined square has the correct mean (``test_the_combined_square_has_no_bias``).
2. Intervals cover the truth in 93 to 97 % of all cases from five seeds on, and in 93 to 99.5 % below. Intervals of the
   images alone cover it in far fewer cases (``test_the_interval_covers``).
3. With one seed on both sides only the paired error remains (``test_one_seed_is_the_paired_error``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from bitsperdim.core.units import nats_to_bits_per_dim
from bitsperdim.estimators.paired import paired_difference

Array = Any  # a number, or an array of them
LEVEL = 0.05  # probability that an interval misses the truth
MIN_IMAGES = 20
COCHRAN = 25.0


@dataclass(frozen=True)
class Noise:
    """Errors of a difference, in the unit of the numbers from which they were computed.

    Attributes:
        images: standard error over the test images.
        seeds: standard errors over the training seeds of A and of B; None: unknown, because the side has one seed.
        combined: standard error of the difference.
        n_distinct: number of distinct test images.
        gamma: sum of the gamma terms of both sides, which is a part of the square of ``images``.
        degrees: degrees of freedom of ``seeds`` of both sides together.
        skewness: skewness of the paired differences; None: unknown.
    """

    images: float
    seeds: tuple[float | None, float | None]
    combined: float
    n_distinct: int
    gamma: float = 0.0
    degrees: float = math.inf
    skewness: float | None = None

    def reach(self, level: float = LEVEL) -> float:
        """Return the half-width of the confidence interval that misses the truth with this probability."""
        return float(reach(level, self.images**2, self.n_distinct, self.gamma, self.of_seeds**2, self.degrees))

    def why_unclear(self, level: float = LEVEL) -> str | None:
        """Return the reason why no difference is called clear at a level, however large; None: there is no reason."""
        return why_unclear(level, self.n_distinct, self.skewness)

    @property
    def has_seeds(self) -> bool:
        """Whether a side has more than one seed."""
        return self.seeds != (None, None)

    @property
    def of_seeds(self) -> float:
        """Standard error over the training seeds of both sides, as far as it is known."""
        return math.hypot(*(error for error in self.seeds if error is not None))

    @property
    def unknown(self) -> list[str]:
        """The sides with one seed, whose noise over seeds is unknown."""
        return [side for side, error in zip("AB", self.seeds, strict=True) if error is None]


def in_bits_per_dim(noise: Noise, shape: tuple[int, int, int]) -> Noise:
    """Convert the noise of a difference from nats per image of shape (C, H, W) to bits/dim."""
    unit = nats_to_bits_per_dim(1.0, shape)
    a, b = (None if error is None else unit * error for error in noise.seeds)
    images, combined, gamma = unit * noise.images, unit * noise.combined, unit**2 * noise.gamma
    return replace(noise, images=images, seeds=(a, b), combined=combined, gamma=gamma)


def of_tables(log_p_a: np.ndarray, log_p_b: np.ndarray, same_as: np.ndarray | None = None) -> Noise:
    """Return the noise of a difference from all log-likelihoods of both sides.

    Args:
        log_p_a: log-likelihoods of A, (R_A, N), nats, finite.
        log_p_b: log-likelihoods of B, (R_B, N), nats, finite, for the same images in the same order.
        same_as: for each image, the index of an equal one, (N,); None: all are distinct.
    """
    pair = paired_difference(log_p_b.mean(0), log_p_a.mean(0), same_as)
    noise = _noise(pair.standard_error, pair.n_distinct, (seeds_of_table(log_p_a), seeds_of_table(log_p_b)))
    return replace(noise, skewness=pair.skewness)


def of_means(images: float, n_distinct: int, a: np.ndarray, b: np.ndarray) -> Noise:
    """Return the noise if only the mean of each seed is known; it is too large, because gamma is counted twice.

    Args:
        images: standard error of the difference over the test images.
        n_distinct: number of distinct test images.
        a: mean of each seed of A, (R_A,).
        b: mean of each seed of B, (R_B,).
    """
    return _noise(images, n_distinct, (seeds_of_means(a), seeds_of_means(b)))


@dataclass(frozen=True)
class Seeds:
    """Noise over the seeds of a side with several seeds.

    Attributes:
        square: variance of the mean over the seeds.
        gamma: part of this variance that is due to gamma.
        n: number of seeds.
    """

    square: float
    gamma: float
    n: int


def seeds_of_means(means: np.ndarray) -> Seeds | None:
    """Return the noise over seeds from the mean of each seed, (R,); None if there is one seed."""
    n_seeds = len(means)
    return Seeds(float(means.var(ddof=1)) / n_seeds, 0.0, n_seeds) if n_seeds > 1 else None


def seeds_of_table(log_p: np.ndarray) -> Seeds | None:
    """Return the noise over seeds from all log-likelihoods, (R, N); None if there is one seed."""
    n_seeds, n_images = log_p.shape
    means = log_p.mean(1)
    found = seeds_of_means(means)
    if found is None or n_images == 1:
        return found
    gamma = log_p - means[:, None] - log_p.mean(0) + log_p.mean()
    mean_square = float(np.square(gamma).sum()) / ((n_seeds - 1) * (n_images - 1))
    return replace(found, gamma=mean_square / (n_seeds * n_images))


def _noise(images: float, n_distinct: int, sides: tuple[Seeds | None, Seeds | None]) -> Noise:
    a, b = (None if side is None else math.sqrt(side.square) for side in sides)
    several = [side for side in sides if side is not None]
    combined = images**2 + sum(max(0.0, side.square - side.gamma) for side in several)
    square, weight = sum(side.square for side in several), sum(side.square**2 / (side.n - 1) for side in several)
    degrees = square**2 / weight if 0 < weight < math.inf else math.inf
    return Noise(images, (a, b), math.sqrt(combined), n_distinct, sum(side.gamma for side in several), degrees)


def reach(level: float, images: Array, n_distinct: int, gamma: Array, seeds: Array, degrees: Array) -> Array:
    """Return the half-width of the confidence interval of a difference, or of many differences.

    Args:
        level: probability that the interval misses the truth.
        images: square of the standard error over the test images.
        n_distinct: number of distinct test images.
        gamma: sum of the gamma terms of both sides, which is a part of ``images``.
        seeds: square of the standard error over the training seeds, of both sides.
        degrees: degrees of freedom of ``seeds``.
    """
    if n_distinct < 2:
        return np.full_like(np.asarray(images, dtype=float), np.inf)
    of_images, of_seeds = stdtrit(n_distinct - 1, 1 - level / 2) ** 2, _quantile(degrees, level) ** 2
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        together = of_images * (images - gamma) + of_seeds * seeds
    is_known = np.isfinite(images) & np.isfinite(seeds)
    return np.sqrt(np.maximum(of_images * images, np.where(is_known, together, np.inf)))


def _quantile(degrees: Array, level: float) -> Array:
    """Return the two-sided quantile of t, or of the normal distribution for infinitely many degrees of freedom."""
    few = np.minimum(degrees, 1e9)  # with so many degrees of freedom t equals the normal to nine digits
    return stdtrit(few, 1 - level / 2)


def why_unclear(level: float, n_distinct: int, skewness: float | None) -> str | None:
    """Return the reason why no difference is called clear at a level, however large; None: there is no reason.

    Args:
        level: level of each difference (:mod:`.multiple`).
        n_distinct: number of distinct test images.
        skewness: skewness of the differences; None: unknown, and taken as 0.
    """
    if n_distinct < MIN_IMAGES:
        return f"there are {n_distinct} distinct test images, and a verdict needs {MIN_IMAGES}"
    if (needed := images_needed(level, skewness or 0.0)) > n_distinct:
        return (
            f"the differences of the images are skewed ({skewness:.2g}): a verdict needs {math.ceil(needed):,} "
            f"distinct test images, and there are {n_distinct:,}"
        )
    return None


def images_needed(level: float, skewness: Array) -> Array:
    """Return how many distinct images a verdict needs at a level, by Cochran's rule."""
    return COCHRAN * np.square(skewness) * (ndtri(level / 2) / ndtri(LEVEL / 2)) ** 2
