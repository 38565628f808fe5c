r"""Comparison of several numbers at once: how large a difference must be when many differences are compared.

If each difference is tested at 95 %, one of twenty differences between equally good models is called clear. On a
leaderboard of nine such models, one model is called worse than the best in 57 % of cases, because the best model was
chosen with the same images. Here the probability that *any* difference is called clear without reason is at most 5 %.

The estimates Y_1, ..., Y_H of H differences d_h are close to normal. Their covariances are known from the images,
because the noise of each difference is a weighted sum over the same images (and over training seeds). Let Z be normal
with mean zero and these correlations, c the 95 % quantile of max_h \|Z_h\|, and p = 2 (1 - Phi(c)) the level of each
single difference. Then

.. math:: \Pr\Big(\max_h \frac{|Y_h - d_h|}{\mathrm{reach}_h(p)} > 1\Big) \approx 0.05,

where reach_h(p) is the half-width of the confidence interval of difference h that misses with probability p. It uses t
quantiles if there are few images or seeds (:mod:`.noise`). With one difference p is 5 %. Clear differences are then
removed, and c is computed again for the remaining ones, until no further difference is clear (step-down; Romano and
Wolf 2005, section 4, with a normal approximation instead of resampling). On a leaderboard the family consists of all
*pairs*, not of each model against the best one, because the data choose the best one. For independent models of equal
spread, c is the quantile of the studentized range divided by sqrt(2).

Invariants (``tests/estimators/test_multiple.py``): the quantile equals that of the studentized range, and that of a
single difference (``test_it_is_the_studentized_range``); on leaderboards of equal models there are false verdicts in at
most 5 % of cases, for 2 to 50 models and normal, skewed, heavy-tailed, correlated and clustered differences
(``test_false_verdicts_are_rare``); steps down find more differences than one step
(``test_steps_down_find_more``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from bitsperdim.estimators.noise import LEVEL, MIN_IMAGES, Seeds, images_needed, reach

N_DRAWS = 20_000  # draws of the maximum: the standard error of its 5 % tail is 0.15 %
AT_ONCE = 4_096  # differences that are computed at once
CELLS = 40_000_000  # draws times differences at most; with many differences there are fewer draws


def level_of_each(directions: np.ndarray) -> float:
    """Return the level p of each difference at which any of all differences misses with probability 5 %.

    Args:
        directions: weights of independent standard normal numbers in the differences, (H, r), one row for each
            difference, up to a factor: inner products of rows, divided by their norms, are the correlations. Rows of
            zeros have no noise.
    """
    norms = np.linalg.norm(directions, axis=1)
    rows = directions[norms > 0] / norms[norms > 0, None]
    if len(rows) < 2:
        return LEVEL
    n_draws = max(N_DRAWS // 10, min(N_DRAWS, CELLS // len(rows)))
    drawn = _drawn(n_draws, rows.shape[1])
    largest = np.zeros(n_draws, dtype=np.float32)
    for start in range(0, len(rows), AT_ONCE):
        part = drawn @ rows[start : start + AT_ONCE].T.astype(np.float32)
        largest = np.maximum(largest, np.abs(part).max(1))
    return float(min(LEVEL, 2 * ndtr(-np.quantile(largest, 1 - LEVEL).astype(float))))


def step_down(directions: np.ndarray, is_clear_at: Callable[[float], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the level of each difference in the last step, and which differences are clear, (H,) bool.

    Args:
        directions: weights of the noise, (H, r), see :func:`level_of_each`.
        is_clear_at: function from the level of each difference to a mask of the clear differences, (H,).
    """
    clear = np.zeros(len(directions), dtype=bool)
    while True:
        level = level_of_each(directions[~clear])
        found = is_clear_at(level) & ~clear
        if not found.any() or (clear | found).all():
            return level, clear | found
        clear |= found


def roots(covariance: np.ndarray) -> np.ndarray:
    """Return weights (n, n) with which independent standard normal numbers get this covariance, (n, n)."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0))


def _drawn(n_draws: int, n: int) -> np.ndarray:
    """Return standard normal numbers, (n_draws, n), which are the same in every call."""
    return np.random.default_rng(0).standard_normal((n_draws, n), dtype=np.float32)


@dataclass(frozen=True)
class Side:
    """One of several numbers for the same test images, all in the same unit.

    Attributes:
        mean: the number.
        error: standard error of the number over the test images.
        parts: influence of each distinct image on the number, (C,) (:func:`bitsperdim.estimators.paired.influences`);
            None: it is not known, and the number is treated as independent of the others.
        seeds: variance over training seeds; None: there is only one seed.
    """

    mean: float
    error: float
    parts: np.ndarray | None = None
    seeds: Seeds | None = None


class AllPairs:
    """All pairs of several numbers, compared together to find which pairs differ clearly."""

    def __init__(self, sides: Sequence[Side], n_distinct: int) -> None:
        """Store at least one number and the number of distinct test images."""
        self.sides, self.n_distinct = sides, n_distinct
        self.means = np.array([side.mean for side in sides])
        self.pairs = np.triu_indices(len(sides), 1)
        seeds = [side.seeds or Seeds(0.0, 0.0, 2) for side in sides]
        self.square, self.gamma = np.array([item.square for item in seeds]), np.array([item.gamma for item in seeds])
        self.weight = np.array([item.square**2 / (item.n - 1) for item in seeds])
        self.known = np.array([side.parts is not None for side in sides])
        parts = [side.parts for side in sides if side.parts is not None]
        self.parts = np.stack(parts) if parts else np.zeros((0, n_distinct))

    @cached_property
    def roots(self) -> np.ndarray:
        """Weights of independent standard normal numbers in the noise of each number, (M, r)."""
        covariance = np.diag([side.error**2 for side in self.sides])
        covariance[np.ix_(self.known, self.known)] = self._scale * (self.parts @ self.parts.T)
        return np.hstack([roots(covariance), np.diag(np.sqrt((self.square - self.gamma).clip(min=0)))])

    @property
    def _scale(self) -> float:
        """The factor C / (C - 1) in the variance of a mean of C distinct images."""
        n = max(2, self.parts.shape[1])
        return n / (n - 1)

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Squared standard errors over the images, and skewness, of the differences of all pairs, (H,) each.

        The part that all numbers share is subtracted first. Otherwise the difference of two similar numbers would
        consist of rounding errors only.
        """
        i, j = self.pairs
        squares = np.array([side.error**2 for side in self.sides])
        square, third = squares[:, None] + squares[None], np.zeros((len(squares), len(squares)))
        own = self.parts - self.parts.mean(0) if len(self.parts) else self.parts
        product, cubes, mixed = own @ own.T, (own**3).sum(1), own**2 @ own.T
        both = np.ix_(self.known, self.known)
        variances = np.diag(product)
        square[both] = self._scale * (variances[:, None] + variances[None] - 2 * product).clip(min=0)
        third[both] = cubes[:, None] - cubes[None] - 3 * (mixed - mixed.T)
        floor = (1e-14 * np.abs(self.means).max()) ** 2  # rounding error if the numbers differ by a constant
        square = np.where(square > floor, square, 0.0)[i, j]
        spread = square / self._scale
        size = np.sqrt(max(1, self.parts.shape[1])) * third[i, j]
        return square, np.divide(size, spread**1.5, out=np.zeros_like(spread), where=spread > 0)

    def clear_at(self, level: float) -> np.ndarray:
        """Return which pairs differ clearly if each is tested at this level, (H,)."""
        i, j = self.pairs
        images, skewness = self.moments
        square, gamma, weight = (values[i] + values[j] for values in (self.square, self.gamma, self.weight))
        degrees = np.divide(square**2, weight, out=np.full_like(square, np.inf), where=weight > 0)
        half = reach(level, images, self.n_distinct, gamma, square, degrees)
        difference = np.abs(self.means[i] - self.means[j])
        enough = (self.n_distinct >= MIN_IMAGES) & (images_needed(level, skewness) <= self.n_distinct)
        return (difference >= half) & (difference > 0) & enough

    def judged(self) -> tuple[float, np.ndarray]:
        """Return the level of each pair in the last step, and which pairs differ clearly, (M, M) bool."""
        i, j = self.pairs
        level, clear = step_down(self.roots[i] - self.roots[j], self.clear_at)
        table = np.zeros((len(self.sides), len(self.sides)), dtype=bool)
        table[i, j] = table[j, i] = clear
        return level, table

    def gain_of_choosing(self, among: Sequence[int]) -> float:
        """Return how much better than its true value the best of some numbers would look if all were equally good.

        The result is in the unit of the numbers. It is the expected maximum of their normal noises. The noise of the
        first number, which has mean zero, is subtracted from all of them to remove their common part.
        """
        some = (self.roots[list(among)] - self.roots[among[0]]).astype(np.float32)
        return float((_drawn(N_DRAWS // 2, some.shape[1]) @ some.T).max(1).mean())
