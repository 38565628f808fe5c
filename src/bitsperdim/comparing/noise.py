r"""What a difference of two models would change by: with other test images, other samples, other training seeds.

Side S (A or B) was trained with R_S seeds and scored on the same N images. Its table of log P is a two-way layout with
both factors at random,

.. math:: \ell^S_{sn} = \mu^S + \alpha^S_s + \beta^S_n + \gamma^S_{sn},

in which gamma holds the Monte Carlo noise too. The difference is that of the means over seeds and images, and its
variance

.. math:: \frac1N \mathrm{Var}(\beta^B_n - \beta^A_n)
    + \sum_S \Big( \frac{\sigma^2_{\alpha,S}}{R_S} + \frac{\sigma^2_{\gamma,S}}{R_S N} \Big).

- ``images``, the error of the paired differences of the seeds' means, estimates the first term and the gamma terms:
  what another test set would change, these seeds given.
- ``seeds``, for each side the deviation of its seeds' means over sqrt(R_S), estimates alpha and gamma: what other
  seeds would change, this test set given.
- ``combined`` is the error of the difference: the squares of both, less the gamma terms, which both hold, estimated
  by the mean square of gamma; no side makes it less than ``images`` alone.

Two or three seeds do not know their spread well, so the 95 % interval has a half-width h of which each part has a
quantile of its own,

.. math:: h^2 = 1.96^2 \Big(\mathrm{images}^2 - \sum_S g_S\Big) + t_f^2 \sum_S q_S, \qquad
    f = \frac{(\sum_S q_S)^2}{\sum_S q_S^2 / (R_S - 1)},

with q_S the square of ``seeds`` of side S, g_S its gamma term and f the degrees of freedom of the seeds alone
(Satterthwaite 1946); h is at least 1.96 errors of the images. ``limit`` is h in combined errors. Degrees of freedom of
the whole combined square would be too many: where two seeds happen to agree they are those of the images, and two seeds
against one then cover in 88 %. With one seed on both sides h is 1.96 errors of the images.

The seeds of A and B are taken for independent, also where they have the same numbers: another model makes other use of
the same random numbers. Where both sides are the same trained weights, the interval is therefore too wide.

Not here: a side with one seed has a noise of seeds that nobody knows; it is in none of the numbers.

Invariants (``tests/comparing/test_noise.py``):

1. The combined square has the mean that it should have (``test_the_combined_square_has_no_bias``).
2. Intervals cover in 93 to 97 % of all cases from five seeds on, in 93 to 99.5 % below, those of the images alone
   in far fewer (``test_the_interval_covers``).
3. With one seed on both sides nothing but the paired error is left (``test_one_seed_is_the_paired_error``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from bitsperdim.compare import INTERVAL, paired_difference
from bitsperdim.units import nats_to_bits_per_dim


@dataclass(frozen=True)
class Noise:
    """Errors of a difference, in the unit of what they were made of.

    Attributes:
        images: standard error over the test images.
        seeds: standard error over the training seeds, of A and of B; None: one seed, so that it is unknown.
        combined: standard error of the difference.
        limit: how many combined errors the 95 % interval reaches to each side.
    """

    images: float
    seeds: tuple[float | None, float | None]
    combined: float
    limit: float

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
        """The sides with one seed, of which the seed noise is unknown."""
        return [side for side, error in zip("AB", self.seeds, strict=True) if error is None]


def in_bits_per_dim(noise: Noise, shape: tuple[int, int, int]) -> Noise:
    """Return the noise of a difference in bits/dim from that in nats per image of this (C, H, W)."""
    a, b = (None if error is None else nats_to_bits_per_dim(error, shape) for error in noise.seeds)
    images, combined = (nats_to_bits_per_dim(error, shape) for error in (noise.images, noise.combined))
    return Noise(images, (a, b), combined, noise.limit)


def of_tables(log_p_a: np.ndarray, log_p_b: np.ndarray) -> Noise:
    """Return the noise of a difference from all log-likelihoods.

    Args:
        log_p_a: (R_A, N) nats, finite.
        log_p_b: (R_B, N) nats, of the same images in the same order.
    """
    images = paired_difference(log_p_b.mean(0), log_p_a.mean(0)).standard_error
    return _noise(images, log_p_a.shape[1], (_of_table(log_p_a), _of_table(log_p_b)))


def of_means(images: float, n_images: int, a: np.ndarray, b: np.ndarray) -> Noise:
    """Return the noise where only the mean of each seed is known: gamma counts twice, which is too much.

    Args:
        images: standard error of the difference over the test images.
        n_images: how many.
        a: (R_A,) mean of each seed of A.
        b: (R_B,) the same of B.
    """
    return _noise(images, n_images, (_of_means(a), _of_means(b)))


@dataclass(frozen=True)
class _Seeds:
    """Of a side with several seeds: the variance of their mean, how much of it is gamma, how many there are."""

    square: float
    gamma: float
    n: int


def _of_means(means: np.ndarray) -> _Seeds | None:
    n_seeds = len(means)
    return _Seeds(float(means.var(ddof=1)) / n_seeds, 0.0, n_seeds) if n_seeds > 1 else None


def _of_table(log_p: np.ndarray) -> _Seeds | None:
    n_seeds, n_images = log_p.shape
    means = log_p.mean(1)
    found = _of_means(means)
    if found is None or n_images == 1:
        return found
    gamma = log_p - means[:, None] - log_p.mean(0) + log_p.mean()
    mean_square = float(np.square(gamma).sum()) / ((n_seeds - 1) * (n_images - 1))
    return replace(found, gamma=mean_square / (n_seeds * n_images))


def _noise(images: float, n_images: int, sides: tuple[_Seeds | None, _Seeds | None]) -> Noise:
    a, b = (None if side is None else math.sqrt(side.square) for side in sides)
    several = [side for side in sides if side is not None]
    if not several:
        return Noise(images, (None, None), images, INTERVAL)
    combined = images**2 + sum(max(0.0, side.square - side.gamma) for side in several)
    limit, square = INTERVAL, sum(side.square for side in several)
    if 0 < square < math.inf and 0 < combined < math.inf:
        degrees = square**2 / sum(side.square**2 / (side.n - 1) for side in several)
        reach = INTERVAL**2 * (images**2 - sum(side.gamma for side in several)) + stdtrit(degrees, 0.975) ** 2 * square
        limit = math.sqrt(max(INTERVAL**2 * images**2, float(reach)) / combined)
    return Noise(images, (a, b), math.sqrt(combined), limit)
