"""Log Z, compared with other computations: all images, the transposed strip, closed forms, whole rows at once."""

import itertools
import math

import numpy as np
import pytest

from bitsperdim.sources.known import Ising

FAR = 4.9  # a two-sided z of 4.9 is exceeded by chance once in a million


def neighbours(shape: tuple[int, int, int]) -> list[tuple[int, int, float]]:
    """Return every pair of neighbouring sub-pixels, in memory order, with the weight of its difference."""
    pairs = []
    for (i, a), (j, b) in itertools.combinations(enumerate(itertools.product(*map(range, shape))), 2):
        apart = abs(a[1] - b[1]) + abs(a[2] - b[2])
        if apart == 0:
            pairs.append((i, j, 0.25))
        elif apart == 1 and a[0] == b[0]:
            pairs.append((i, j, 1.0))
    return pairs


def energy(shape: tuple[int, int, int], image: tuple[int, ...]) -> float:
    return sum(weight * abs(image[i] - image[j]) for i, j, weight in neighbours(shape))


@pytest.mark.parametrize(
    ("shape", "n_levels"),
    [((1, 3, 3), 2), ((1, 2, 4), 3), ((1, 4, 2), 3), ((3, 2, 2), 2), ((3, 1, 2), 3), ((3, 3, 1), 2), ((1, 1, 1), 5)],
)
def test_log_z_is_that_of_the_sum_over_all_images(shape: tuple[int, int, int], n_levels: int) -> None:
    strength = 0.7
    distribution = Ising(shape, n_levels, strength)
    pairs = neighbours(shape)
    images = np.array(list(itertools.product(range(n_levels), repeat=math.prod(shape))))
    energies = sum((weight * np.abs(images[:, i] - images[:, j]) for i, j, weight in pairs), np.zeros(len(images)))
    log_z = math.log(np.exp(-strength * energies).sum())
    assert distribution.log_z == pytest.approx(log_z, rel=1e-12)
    some = np.random.default_rng(0).integers(len(images), size=50)
    log_p = distribution.log_p(images[some].reshape(-1, *shape))
    assert log_p == pytest.approx([-strength * energy(shape, tuple(images[k])) - log_z for k in some], rel=1e-12)


@pytest.mark.parametrize(("shape", "n_levels"), [((1, 5, 9), 2), ((1, 3, 6), 4), ((3, 2, 5), 2)])
def test_the_strip_on_its_side_is_the_same(shape: tuple[int, int, int], n_levels: int) -> None:
    """The draws agree too: the same random numbers give the transposed image."""
    upright, aside = Ising(shape, n_levels), Ising((shape[0], shape[2], shape[1]), n_levels)
    images = np.random.default_rng(1).integers(n_levels, size=(20, *shape))
    assert upright.log_p(images) == pytest.approx(aside.log_p(images.transpose(0, 1, 3, 2)), rel=1e-12)
    drawn = upright.draw(50, np.random.default_rng(2))
    assert np.array_equal(aside.draw(50, np.random.default_rng(2)), drawn.transpose(0, 1, 3, 2))


@pytest.mark.parametrize("width", [1, 2, 7, 64])
@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0, 100.0])
def test_a_chain_of_two_levels_has_a_closed_form(width: int, strength: float) -> None:
    """Each next sub-pixel is equal or not, independently of the ones before: Z = 2 (1 + e^-s)^(W-1)."""
    log_z = math.log(2 * (1 + math.exp(-strength)) ** (width - 1))
    assert Ising((1, 1, width), 2, strength).log_z == pytest.approx(log_z, rel=1e-12)


def test_a_chain_of_five_levels_is_a_sum_of_eigenvalues() -> None:
    levels = np.arange(5)
    values, vectors = np.linalg.eigh(np.exp(-0.6 * np.abs(levels[:, None] - levels)))
    log_z = math.log((vectors.sum(0) ** 2 * values**29).sum())
    assert Ising((1, 30, 1), 5, 0.6).log_z == pytest.approx(log_z, rel=1e-12)


def test_a_colour_pixel_couples_all_pairs_of_channels() -> None:
    """Two of the eight colours are grey; in the other six, two of three pairs differ."""
    assert Ising((3, 1, 1), 2, 2.0).log_z == pytest.approx(math.log(2 + 6 * math.exp(-1.0)), rel=1e-12)


@pytest.mark.parametrize(("shape", "n_levels"), [((1, 12, 6), 2), ((1, 4, 20), 3), ((3, 9, 2), 2)])
def test_whole_rows_at_once_give_the_same(shape: tuple[int, int, int], n_levels: int) -> None:
    """This is the transfer matrix of Kramers and Wannier: from one row of the strip, with all columns, to the next."""
    strength, channels, shorter, longer = 0.8, shape[0], min(shape[1:]), max(shape[1:])
    rows = np.array(list(itertools.product(range(n_levels), repeat=channels * shorter)))
    within = [energy((channels, 1, shorter), tuple(row)) for row in rows.tolist()]
    between = np.abs(rows[:, None] - rows).sum(-1)
    half = np.exp(-0.5 * strength * np.array(within))
    transfer = half[:, None] * np.exp(-strength * between) * half
    log_z = math.log(half @ np.linalg.matrix_power(transfer, longer - 1) @ half)
    assert Ising(shape, n_levels, strength).log_z == pytest.approx(log_z, rel=1e-12)


@pytest.mark.parametrize(("shape", "n_levels"), [((1, 8, 8), 2), ((1, 6, 8), 4), ((3, 4, 5), 2)])
def test_the_mean_energy_of_draws_is_the_slope_of_log_z(shape: tuple[int, int, int], n_levels: int) -> None:
    """E[energy] = -d log Z / ds, for images that cannot be enumerated; this fails by chance once in a million.

    The error of the central difference is below 1e-5 of a standard deviation here.
    """
    step = 1e-4
    slope = (Ising(shape, n_levels, 0.7 + step).log_z - Ising(shape, n_levels, 0.7 - step).log_z) / (2 * step)
    distribution = Ising(shape, n_levels, 0.7)
    energies = distribution.energy(distribution.draw(4_000, np.random.default_rng(3)))
    assert abs(energies.mean() + slope) < FAR * energies.std() / math.sqrt(4_000)


@pytest.mark.parametrize(("shape", "n_levels"), [((1, 2, 3), 100), ((1, 6, 6), 2), ((3, 2, 4), 3)])
def test_at_great_strength_only_images_of_one_level_are_left(shape: tuple[int, int, int], n_levels: int) -> None:
    distribution = Ising(shape, n_levels, 100.0)
    assert distribution.log_z == pytest.approx(math.log(n_levels), rel=1e-9)
    drawn = distribution.draw(50, np.random.default_rng(4)).reshape(50, -1)
    assert (drawn == drawn[:, :1]).all()
