"""The points follow the rule that the module states."""

import numpy as np
import pytest

from bitsperdim.studies.universal_resnet.predicates import PREDICATES, ball_and_shell, hard, labelled_points

N = 200_000


def test_the_shares_are_the_areas_of_the_rings() -> None:
    """The limit is five standard errors; each of three shares has a false alarm once in a million."""
    _, inside = labelled_points(N, np.random.default_rng(0))
    disc = np.pi / 4  # the disc of radius 1, as a share of the square
    rings = disc * (0.3**2 + 0.8**2 - 0.6**2)
    expected = {
        "easy": disc * 0.4**2,
        "medium": 1 - disc * (0.7**2 - 0.4**2),
        "hard": rings + 0.1 * (1 - rings),
    }
    assert set(expected) == set(PREDICATES)
    for name, share in expected.items():
        assert abs(inside[name].mean() - share) < 5 * np.sqrt(share * (1 - share) / N)


@pytest.mark.parametrize(
    ("radius", "sides"),
    [(0.0, "111"), (0.3, "110"), (0.399, "110"), (0.4, "000"), (0.6, "001"), (0.7, "011"), (0.8, "010"), (1.4, "010")],
)
def test_the_edges_of_the_rings(radius: float, sides: str) -> None:
    for predicate, side in zip(PREDICATES.values(), sides, strict=True):
        assert predicate(np.array([radius]), np.array([0.5]))[0] == (side == "1")
    assert hard(np.array([radius]), np.array([0.05]))[0]  # by chance


def test_points_follow_the_seed() -> None:
    first, second, other = (labelled_points(30, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.abs(first).max() <= 1


def test_the_ball_and_the_shell_are_uniform_by_area() -> None:
    x, inside = ball_and_shell(40_000, np.random.default_rng(0))
    radius = np.hypot(*x.T)
    assert inside.sum() == 20_000
    assert radius[inside].max() < 1
    assert radius[~inside].min() >= 2
    assert radius[~inside].max() < 3
    assert np.mean(radius[inside] < np.sqrt(0.5)) == pytest.approx(0.5, abs=0.02)
    assert np.mean(radius[~inside] < np.sqrt(6.5)) == pytest.approx(0.5, abs=0.02)
    assert np.abs(x.mean(0)).max() < 0.05
