r"""Many differences at once: how far apart two numbers must be, when the largest of many differences is looked at.

At 95 % each, one of twenty differences between equally good models is called clear; on a board of nine such models one
is called worse than the best in 57 % of cases, because the best was chosen by the same images. Here the chance that
*any* of the differences is called clear without reason is at most 5 %.

The estimates Y_1, ..., Y_H of H differences d_h are close to normal, with covariances that are known from the images:
their noise is the same sum over images (and over training seeds) with other weights. With Z normal with mean zero and
those correlations, c the 95 % quantile of max_h \|Z_h\|, and the level p = 2 (1 - Phi(c)) of each difference alone,

.. math:: \Pr\Big(\max_h \frac{|Y_h - d_h|}{\mathrm{reach}_h(p)} > 1\Big) \approx 0.05,

where reach_h(p) is the half-width of the interval of difference h that misses with probability p, by t quantiles where
the images or seeds are few (:mod:`.noise`). With one difference p is 5 %. What is clear is taken out, and c is found
anew for the rest, until nothing more is clear (step-down; Romano and Wolf 2005, section 4, by a normal approximation
instead of resampling). On a board all *pairs* are the family, not each model against the best: which one the best is is
chosen by the data. For independent models of equal spread c is the quantile of the studentized range over sqrt(2).

Invariants (``tests/estimators/test_multiple.py``): the quantile is that of the studentized range, and of one difference
(``test_it_is_the_studentized_range``); false verdicts on boards of equal models in at most 5 %, for 2 to 50 models,
normal, skewed, heavy-tailed, correlated and clustered differences (``test_false_verdicts_are_rare``); steps down find
more than one step does (``test_steps_down_find_more``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from bitsperdim.estimators.noise import LEVEL, MIN_IMAGES, Seeds, images_needed, reach

N_DRAWS = 20_000  # of the maximum: the standard error of its 5 % is 0.15 %
AT_ONCE = 4_096  # differences
CELLS = 40_000_000  # of the table of all draws; with more differences there are fewer draws


def level_of_each(directions: np.ndarray) -> float:
    """Return the level p of each difference at which all together miss in 5 %.

    Args:
        directions: (H, r), each row the weights of independent standard normal numbers in one difference, up to its
            size: inner products of rows over their norms are the correlations. Rows of zeros have no noise.
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
    """Return which differences are clear, (H,) bool, and the level that those had to reach that are not.

    Args:
        directions: (H, r), see :func:`level_of_each`.
        is_clear_at: which differences, (H,), are clear at a level of each.
    """
    clear = np.zeros(len(directions), dtype=bool)
    while True:
        level = level_of_each(directions[~clear])
        found = is_clear_at(level) & ~clear
        if not found.any() or (clear | found).all():
            return level, clear | found
        clear |= found


def roots(covariance: np.ndarray) -> np.ndarray:
    """Return (n, n) weights of independent standard normal numbers, which have this covariance, (n, n)."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0))


def _drawn(n_draws: int, n: int) -> np.ndarray:
    """Return standard normal numbers, (n_draws, n), always the same."""
    return np.random.default_rng(0).standard_normal((n_draws, n), dtype=np.float32)


@dataclass(frozen=True)
class Side:
    """One of several numbers of the same test images, all in one unit.

    Attributes:
        mean: the number.
        error: its standard error over the test images.
        parts: (C,) what each distinct image adds to it (:func:`bitsperdim.estimators.paired.influences`); None: not
            known, and the number is taken for independent of the others.
        seeds: what is known of its training seeds; None: there is one.
    """

    mean: float
    error: float
    parts: np.ndarray | None = None
    seeds: Seeds | None = None


class AllPairs:
    """All pairs of several numbers: which are clearly apart, when all are looked at."""

    def __init__(self, sides: Sequence[Side], n_distinct: int) -> None:
        """Take at least one number, of ``n_distinct`` test images."""
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
        """Weights of independent standard normal numbers in each number's noise, (M, r)."""
        covariance = np.diag([side.error**2 for side in self.sides])
        covariance[np.ix_(self.known, self.known)] = self._scale * (self.parts @ self.parts.T)
        return np.hstack([roots(covariance), np.diag(np.sqrt((self.square - self.gamma).clip(min=0)))])

    @property
    def _scale(self) -> float:
        """C / (C - 1), of the variance of a mean of C distinct images."""
        n = max(2, self.parts.shape[1])
        return n / (n - 1)

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Squares of the standard errors of the differences of all pairs over the images, and their skewness, (H,).

        What all numbers share is taken off first: where two are much alike it would leave nothing but rounding.
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
        floor = (1e-14 * np.abs(self.means).max()) ** 2  # of the rounding of numbers that differ by a constant
        square = np.where(square > floor, square, 0.0)[i, j]
        spread = square / self._scale
        size = np.sqrt(max(1, self.parts.shape[1])) * third[i, j]
        return square, np.divide(size, spread**1.5, out=np.zeros_like(spread), where=spread > 0)

    def clear_at(self, level: float) -> np.ndarray:
        """Return which pairs are clearly apart at a level of each, (H,)."""
        i, j = self.pairs
        images, skewness = self.moments
        square, gamma, weight = (values[i] + values[j] for values in (self.square, self.gamma, self.weight))
        degrees = np.divide(square**2, weight, out=np.full_like(square, np.inf), where=weight > 0)
        half = reach(level, images, self.n_distinct, gamma, square, degrees)
        difference = np.abs(self.means[i] - self.means[j])
        enough = (self.n_distinct >= MIN_IMAGES) & (images_needed(level, skewness) <= self.n_distinct)
        return (difference >= half) & (difference > 0) & enough

    def judged(self) -> tuple[float, np.ndarray]:
        """Return the level that pairs had to reach in the last step, and which are clearly apart, (M, M) bool."""
        i, j = self.pairs
        level, clear = step_down(self.roots[i] - self.roots[j], self.clear_at)
        table = np.zeros((len(self.sides), len(self.sides)), dtype=bool)
        table[i, j] = table[j, i] = clear
        return level, table

    def gain_of_choosing(self, among: Sequence[int]) -> float:
        """Return by how much the best of some would be expected to look better than it is, if they were equally good.

        In the unit of the numbers: the mean of the largest of their normal noises, less that of the first, which has
        mean zero and takes off what all share.
        """
        some = (self.roots[list(among)] - self.roots[among[0]]).astype(np.float32)
        return float((_drawn(N_DRAWS // 2, some.shape[1]) @ some.T).max(1).mean())
