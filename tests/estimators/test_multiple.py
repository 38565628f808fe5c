"""Leaderboards with known truth: the frequencies of false verdicts and of correct ones."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom, studentized_range

from bitsperdim.estimators import multiple
from bitsperdim.estimators.multiple import AllPairs, Side, level_of_each, step_down
from bitsperdim.estimators.noise import LEVEL, MIN_IMAGES, of_tables, seeds_of_table
from bitsperdim.estimators.paired import influences, paired_difference, standard_error

Tables = Callable[[np.random.Generator, int, int], np.ndarray]


def normal(rng: np.random.Generator, n_models: int, n_images: int) -> np.ndarray:
    return rng.standard_normal((n_models, n_images))


def correlated(rng: np.random.Generator, n_models: int, n_images: int) -> np.ndarray:
    """Return scores with common hard images, three further common factors, and models that differ in their noise."""
    shared = 30 * rng.standard_normal(n_images) + rng.standard_normal((n_models, 3)) @ rng.standard_normal(
        (3, n_images)
    )
    return shared + np.linspace(0.1, 2, n_models)[:, None] * rng.standard_normal((n_models, n_images))


def skewed(rng: np.random.Generator, n_models: int, n_images: int) -> np.ndarray:
    """Return scores with little noise, except for the first: its differences to the others have skewness 6."""
    tables = 0.1 * rng.standard_normal((n_models, n_images))
    tables[0] += np.exp(rng.standard_normal(n_images)) - np.exp(0.5)
    return tables


def heavy(rng: np.random.Generator, n_models: int, n_images: int) -> np.ndarray:
    return rng.standard_t(3, (n_models, n_images))


def board(tables: np.ndarray, same_as: np.ndarray | None = None) -> AllPairs:
    parts = [influences(table, same_as) for table in tables]
    sides = [Side(float(table.mean()), standard_error(part), part) for table, part in zip(tables, parts, strict=True)]
    return AllPairs(sides, len(parts[0]))


def has_a_false_verdict(pairs: AllPairs) -> bool:
    """Return whether, among equally good models, a model is called worse than the best."""
    return bool(pairs.judged()[1][pairs.means.argmax()].any())


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiple, "N_DRAWS", 4_000)


@pytest.mark.parametrize("n_models", [2, 3, 9, 30])
def test_it_is_the_studentized_range(n_models: int) -> None:
    """For independent models with equal noise the quantiles agree; 20,000 draws give the quantile to 1 %."""
    i, j = np.triu_indices(n_models, 1)
    directions = np.eye(n_models)[i] - np.eye(n_models)[j]
    found = -ndtri(level_of_each(directions) / 2)
    expected = studentized_range.ppf(1 - LEVEL, n_models, np.inf) / np.sqrt(2)
    assert found == pytest.approx(expected, rel=0.02)
    assert level_of_each(directions[:1]) == LEVEL
    copies = np.repeat(directions[:1], 50, axis=0)  # fifty copies of one difference
    assert level_of_each(copies) == pytest.approx(LEVEL, rel=0.06)
    assert level_of_each(np.vstack([directions, 0 * directions])) == level_of_each(directions)


@pytest.mark.parametrize("tables", [normal, correlated, skewed, heavy])
@pytest.mark.parametrize(
    ("n_models", "n_images", "n_boards"), [(2, 20, 500), (2, 200, 500), (9, 30, 200), (9, 359, 200), (50, 359, 20)]
)
@pytest.mark.usefixtures("few_draws")
def test_false_verdicts_are_rare(tables: Tables, n_models: int, n_images: int, n_boards: int) -> None:
    """At most 5 %, with a false alarm in one of 10,000 seeds; with 1.96 it would be 57 % for nine normal models."""
    rng = np.random.default_rng(n_models)
    false = sum(has_a_false_verdict(board(tables(rng, n_models, n_images))) for _ in range(n_boards))
    assert binom.sf(false - 1, n_boards, LEVEL) > 1e-4, f"{100 * false / n_boards:.1f} %"


@pytest.mark.usefixtures("few_draws")
def test_copies_of_images_are_no_evidence() -> None:
    """Two equal models with 30 images, ten copies each: 5 % false verdicts if the copies are known, otherwise 54 %."""
    rng, n_boards = np.random.default_rng(0), 400
    same_as = np.tile(np.arange(30), 10)
    counts = {"known": 0, "unknown": 0}
    for _ in range(n_boards):
        tables = np.tile(normal(rng, 2, 30), 10)
        counts["known"] += has_a_false_verdict(board(tables, same_as))
        counts["unknown"] += has_a_false_verdict(board(tables))
    assert binom.sf(counts["known"] - 1, n_boards, LEVEL) > 1e-4
    assert counts["unknown"] > 0.4 * n_boards


@pytest.mark.parametrize(("n_models", "errors", "power"), [(2, 3.5, 0.9), (9, 4.5, 0.9), (50, 5.5, 0.9)])
@pytest.mark.usefixtures("few_draws")
def test_what_is_far_apart_is_found(n_models: int, errors: float, power: float) -> None:
    """A model that is better than all others by this many errors of a difference is clearly better than one of them."""
    rng, n_boards, found = np.random.default_rng(1), 100, 0
    for _ in range(n_boards):
        tables = normal(rng, n_models, 300)
        tables[0] += errors * np.sqrt(2 / 300)
        found += bool(board(tables).judged()[1][0, 1])
    assert found >= power * n_boards - 4.5 * np.sqrt(power * (1 - power) * n_boards)


def test_steps_down_find_more() -> None:
    """Seven models that are far off count only in the first step; then the last pair needs a smaller difference."""
    rng = np.random.default_rng(2)
    noise = normal(rng, 9, 400)
    noise -= noise.mean(1, keepdims=True)
    tables = noise - 5.0 * np.arange(9)[:, None]
    one = board(tables)
    tables[1] = noise[1] - 2.5 * np.sqrt((noise[0] - noise[1]).var(ddof=1) / 400)
    close = board(tables)
    level, clear = close.judged()
    assert (level, clear[0, 1]) == (LEVEL, True)
    i, j = close.pairs
    assert not close.clear_at(level_of_each(close.roots[i] - close.roots[j]))[0]  # with one step it is not clear
    assert one.judged()[1].sum() == 72


def test_the_best_of_many_looks_better_than_it_is() -> None:
    """The gain equals the simulated mean of the largest of M normals; numbers that vary together have no gain."""
    rng = np.random.default_rng(3)
    pairs = board(normal(rng, 9, 400))
    drawn = rng.standard_normal((20_000, 9)).max(1).mean() / 20
    assert pairs.gain_of_choosing(range(9)) == pytest.approx(drawn, rel=0.1)
    together = board(normal(rng, 1, 400) + 0.001 * normal(rng, 9, 400))
    assert together.gain_of_choosing(range(9)) < 0.01 * drawn
    assert pairs.gain_of_choosing([3]) == 0


@pytest.mark.parametrize("n_images", [MIN_IMAGES - 1, MIN_IMAGES])
def test_few_images_give_no_verdict(n_images: int) -> None:
    tables = np.random.default_rng(4).standard_normal((3, n_images)) + np.array([[0.0], [5.0], [10.0]])
    assert board(tables).judged()[1].any() == (n_images == MIN_IMAGES)


def test_what_is_alike_but_for_a_constant_is_apart() -> None:
    """The images show no noise of the models: only rounding errors remain, which do not count as noise or skewness."""
    images = 30 * np.random.default_rng(5).standard_normal(100)
    level, clear = board(np.stack([images, images - 0.001, images])).judged()
    assert level == LEVEL
    assert clear.tolist() == [[False, True, False], [True, False, True], [False, True, False]]


def test_what_all_share_leaves_the_moments_as_they_are() -> None:
    """If images vary 10^8 times more than models, error and skewness still equal those of the pairs."""
    rng = np.random.default_rng(6)
    images = 1e4 * rng.standard_normal(500)
    tables = images + 1e-4 * np.exp(rng.standard_normal((3, 500)))
    pairs = board(tables)
    for h, (i, j) in enumerate(zip(*pairs.pairs, strict=True)):
        pair = paired_difference(tables[i], tables[j])
        assert pairs.moments[0][h] == pytest.approx(pair.standard_error**2, rel=1e-3)
        assert pairs.moments[1][h] == pytest.approx(pair.skewness, rel=1e-3, abs=1e-3)


def test_numbers_without_images_are_taken_for_independent() -> None:
    """Only their errors are used; errors over seeds are included, with their own quantiles."""
    apart = AllPairs([Side(0.0, 0.3), Side(2.0, 0.4)], 1_000)
    assert apart.judged()[1][0, 1]
    assert not AllPairs([Side(0.0, 0.3), Side(0.95, 0.4)], 1_000).judged()[1][0, 1]
    seeds = multiple.Seeds(square=0.2, gamma=0.0, n=2)
    assert not AllPairs([Side(0.0, 0.3), Side(2.0, 0.4, None, seeds)], 1_000).judged()[1][0, 1]


def test_each_direction_is_as_long_as_the_error_of_its_difference() -> None:
    """The error combines images and seeds; the part that both contain counts once."""
    rng = np.random.default_rng(7)
    tables = [0.3 * rng.standard_normal((n, 1)) + rng.standard_normal((n, 50)) for n in (1, 2, 5)]
    parts = [influences(table.mean(0)) for table in tables]
    sides = [
        Side(float(table.mean()), standard_error(part), part, seeds_of_table(table))
        for table, part in zip(tables, parts, strict=True)
    ]
    pairs = AllPairs(sides, 50)
    for i, j in zip(*pairs.pairs, strict=True):
        expected = of_tables(tables[i], tables[j]).combined
        assert np.linalg.norm(pairs.roots[i] - pairs.roots[j]) == pytest.approx(expected)


def test_each_step_takes_out_what_is_clear() -> None:
    asked: list[float] = []

    def is_clear_at(level: float) -> np.ndarray:
        asked.append(level)
        return np.array([True, len(asked) > 1, False])

    level, clear = step_down(np.eye(3), is_clear_at)
    assert clear.tolist() == [True, True, False]
    assert asked == sorted(asked)
    assert (level, len(asked)) == (LEVEL, 3)
