"""The forward recursion and the posterior, compared with the sum over all paths."""

import itertools
import math

import numpy as np
import pytest

from bitsperdim.sources.known import HiddenMarkov

CASES = [((1, 4, 3), 3, 3), ((3, 3, 2), 2, 4), ((1, 1, 5), 4, 2), ((1, 3, 3), 5, 1)]


def some_images(distribution: HiddenMarkov, n_images: int) -> np.ndarray:
    return np.random.default_rng(0).integers(distribution.n_levels, size=(n_images, *distribution.image_shape))


def paths(distribution: HiddenMarkov) -> np.ndarray:
    """Return all paths of states, (S^H, H)."""
    return np.array(list(itertools.product(range(distribution.n_components), repeat=distribution.image_shape[1])))


@pytest.mark.parametrize(("shape", "n_levels", "n_components"), CASES)
def test_log_p_is_that_of_the_sum_over_all_paths(shape: tuple[int, int, int], n_levels: int, n_components: int) -> None:
    """The sum is computed by plain loops over the public tables of the distribution."""
    distribution = HiddenMarkov(shape, n_levels, 3.0, n_components)
    images = some_images(distribution, 6)
    masses = []
    for image in images:
        total = 0.0
        for path in paths(distribution):
            mass = distribution.initial[path[0]]
            for before, after in itertools.pairwise(path):
                mass *= distribution.transitions[before, after]
            for c, r, w in np.ndindex(*shape):
                mass *= distribution.emissions[path[r], c, w, image[c, r, w]]
            total += mass
        masses.append(math.log(total))
    assert distribution.log_p(images) == pytest.approx(masses, rel=1e-12)


@pytest.mark.parametrize(("shape", "n_levels", "n_components"), CASES)
def test_states_and_images_given_states_make_the_joint(
    shape: tuple[int, int, int], n_levels: int, n_components: int
) -> None:
    """Summed over all paths, P(z) gives one, P(x, z) gives P(x), and P(z given x) gives the posterior of each row."""
    distribution = HiddenMarkov(shape, n_levels, 3.0, n_components)
    images, z = some_images(distribution, 6), paths(distribution)
    prior = distribution.log_p_of_states(z)
    assert np.exp(prior).sum() == pytest.approx(1, rel=1e-12)
    states = np.broadcast_to(z[:, None], (len(z), 6, shape[1]))  # (K, N, H)
    joint = np.exp(distribution.log_p_of_states(states) + distribution.log_p_given_states(images, states))
    assert np.log(joint.sum(0)) == pytest.approx(distribution.log_p(images), rel=1e-12)
    posterior = np.zeros((6, shape[1], n_components))
    for row, state in np.ndindex(shape[1], n_components):
        posterior[:, row, state] = joint[z[:, row] == state].sum(0) / joint.sum(0)
    assert distribution.posterior(images) == pytest.approx(posterior, rel=1e-11)


def test_samples_of_states_are_an_axis_before() -> None:
    """States for one image, for all images, and with two axes of samples give the same; in chunks too."""
    distribution = HiddenMarkov((1, 4, 3), 3, 3.0, 3)
    images = some_images(distribution, 5)
    states = np.random.default_rng(1).integers(3, size=(2, 7, 5, 4))
    log_p = distribution.log_p_given_states(images, states)
    assert log_p.shape == (2, 7, 5)
    assert distribution.log_p_of_states(states).shape == (2, 7, 5)
    for k, i in itertools.product(range(7), range(5)):
        single = distribution.log_p_given_states(images[i : i + 1], states[1, k, i : i + 1])
        assert single == pytest.approx(log_p[1, k, i : i + 1], rel=1e-12)
    distribution.chunk_numbers = 1
    assert distribution.log_p_given_states(images, states) == pytest.approx(log_p, rel=1e-12)
    assert distribution.posterior(images) == pytest.approx(HiddenMarkov((1, 4, 3), 3, 3.0, 3).posterior(images))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6)])
def test_tables_are_of_probabilities(shape: tuple[int, int, int]) -> None:
    channels, _, width = shape
    distribution = HiddenMarkov(shape, 5, n_components=7)
    assert distribution.initial.shape == (7,)
    assert distribution.transitions.shape == (7, 7)
    assert distribution.emissions.shape == (7, channels, width, 5)
    for table in (distribution.initial, distribution.transitions, distribution.emissions):
        assert table.dtype == np.float64
        assert (table > 0).all()
        assert table.sum(-1) == pytest.approx(np.ones(table.shape[:-1]), rel=1e-14)


def test_a_stroke_is_where_its_state_says() -> None:
    """With as many columns as states, the column with the largest mean brightness is that of the state."""
    distribution = HiddenMarkov((3, 2, 8), 4, n_components=8)
    brightness = distribution.emissions @ np.arange(4)  # (S, C, W)
    assert (brightness.argmax(-1) == np.arange(8)[:, None]).all()
    assert (np.diff(brightness.sum(-1), axis=1) < 0).all()  # widest in the first channel


def test_states_of_another_distribution_are_refused() -> None:
    distribution = HiddenMarkov((1, 4, 3), 3, n_components=3)
    images = some_images(distribution, 5)
    with pytest.raises(ValueError, match=r"whole numbers of shape \(\.\.\., 4\), not \(5, 3\)"):
        distribution.log_p_of_states(np.zeros((5, 3), np.int64))
    with pytest.raises(ValueError, match="from 0 to 2"):
        distribution.log_p_of_states(np.full((5, 4), 3))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 5, 4\), not \(7, 4\)"):
        distribution.log_p_given_states(images, np.zeros((7, 4), np.int64))
