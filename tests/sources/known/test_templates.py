"""The mixture, compared with a plain loop over templates and sub-pixels."""

import math

import numpy as np
import pytest

from bitsperdim.sources.known import Templates
from bitsperdim.sources.known.templates import _interpolation

CASES = [((1, 2, 3), 4, 5.0, 3), ((3, 2, 2), 3, 8.0, 5), ((1, 1, 1), 2, 1.0, 2), ((1, 4, 4), 6, 2.0, 1)]


@pytest.mark.parametrize(("shape", "n_levels", "strength", "n_components"), CASES)
def test_log_p_is_that_of_the_sum_over_templates(
    shape: tuple[int, int, int], n_levels: int, strength: float, n_components: int
) -> None:
    distribution = Templates(shape, n_levels, strength, n_components)
    images = np.random.default_rng(0).integers(n_levels, size=(8, *shape))
    variance = 1 / strength**2 + (1 / 3 / (n_levels - 1)) ** 2
    given = np.ones((n_components, 8))
    for t, i in np.ndindex(n_components, 8):
        for c, h, w in np.ndindex(*shape):
            weights = [
                math.exp(-((level / (n_levels - 1) - distribution.values[t, c, h, w]) ** 2) / (2 * variance))
                for level in range(n_levels)
            ]
            given[t, i] *= weights[images[i, c, h, w]] / sum(weights)
    assert distribution.log_p_given_component(images) == pytest.approx(np.log(given), rel=1e-12)
    assert distribution.log_p(images) == pytest.approx(np.log(np.exp(distribution.log_shares) @ given), rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 7)])
def test_tables_are_of_probabilities(shape: tuple[int, int, int]) -> None:
    distribution = Templates(shape, 16)
    assert distribution.log_shares.shape == (16,)
    assert distribution.log_masses.shape == (16, *shape, 16)
    assert np.exp(distribution.log_shares).sum() == pytest.approx(1, rel=1e-14)
    assert np.exp(distribution.log_masses).sum(-1) == pytest.approx(np.ones((16, *shape)), rel=1e-13)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 9, 7)])
def test_templates_are_smooth_differ_and_use_all_levels(shape: tuple[int, int, int]) -> None:
    """Each template goes from 0 to 1, and is linear along rows and columns except for a bend in the middle."""
    values = Templates(shape, 4).values
    assert values.min((1, 2, 3)).tolist() == [0.0] * 16
    assert values.max((1, 2, 3)).tolist() == [1.0] * 16
    for axis in (2, 3):
        bends = np.abs(np.diff(values, n=2, axis=axis)).max(axis=(0, 1, 5 - axis))
        middle = len(bends) // 2
        assert bends[middle] > 0.1
        assert np.delete(bends, middle).max() < 1e-12
    distances = np.abs(values[:, None] - values).mean((2, 3, 4))
    assert (distances + np.eye(16)).min() > 0.05


def test_the_middle_of_a_grid_is_its_middle_value() -> None:
    """With 3 x 3 pixels, the middle pixel lies on the middle of the grid, the others a third of the way to it."""
    third = 1 / 3
    assert _interpolation(3) == pytest.approx(np.array([[2 * third, third, 0], [0, 1, 0], [0, third, 2 * third]]))


def test_one_template_is_independence() -> None:
    """With a single template there is no hidden choice: log P is the sum of its log-masses."""
    distribution = Templates((1, 3, 3), 5, n_components=1)
    images = np.random.default_rng(1).integers(5, size=(10, 1, 3, 3))
    assert distribution.log_shares.tolist() == [0.0]
    assert np.array_equal(distribution.log_p(images), distribution.log_p_given_component(images)[0])
