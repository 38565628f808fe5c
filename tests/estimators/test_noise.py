"""The noise of a difference, compared with simulated tables whose variance components are known."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from bitsperdim.comparing.comparison import of_seeds
from bitsperdim.estimators.noise import Noise, of_means, of_tables
from bitsperdim.estimators.paired import paired_difference

N_TRIALS = 2_000


def table(rng: np.random.Generator, images: np.ndarray, n_seeds: int, alpha: float, gamma: float) -> np.ndarray:
    """Return log-likelihoods of one side: effects of each image, of each seed, and of both together."""
    seeds = rng.normal(0, alpha, (n_seeds, 1))
    return images + seeds + rng.normal(0, gamma, (n_seeds, len(images)))


def pair(
    rng: np.random.Generator, n_images: int, n_seeds: tuple[int, int], alpha: float, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return tables of both sides; images differ by 3 nats from each other, and by 0.3 nats between the sides."""
    images = rng.normal(0, 3, n_images)
    others = images + rng.normal(0, 0.3, n_images)
    return table(rng, images, n_seeds[0], alpha, gamma), table(rng, others, n_seeds[1], alpha, gamma)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.05, 0.2), (0.1, 0.02), (0.05, 1.0)])
def test_the_combined_square_has_no_bias(alpha: float, gamma: float) -> None:
    """Its mean over 2,000 trials is within four standard errors of the true variance; false alarms in 1 of 16,000.

    Seeds that differ far less than gamma are left out, because their square is cut off at that of the images.
    """
    rng = np.random.default_rng(0)
    n_images, n_seeds = 400, (4, 6)
    squares = np.array([of_tables(*pair(rng, n_images, n_seeds, alpha, gamma)).combined ** 2 for _ in range(N_TRIALS)])
    over_seeds = sum(1 / n for n in n_seeds)
    true = 0.3**2 / n_images + over_seeds * (alpha**2 + gamma**2 / n_images)
    error = squares.std(ddof=1) / math.sqrt(N_TRIALS)
    assert abs(squares.mean() - true) < 4 * error
    assert error < 0.02 * true


@pytest.mark.parametrize("alpha", [0.05, 0.15, 0.5])
@pytest.mark.parametrize(
    ("n_seeds", "highest"),
    [((2, 1), 0.995), ((3, 1), 0.99), ((2, 2), 0.995), ((2, 5), 0.985), ((3, 5), 0.98), ((5, 1), 0.975)],
)
def test_the_interval_covers(n_seeds: tuple[int, int], highest: float, alpha: float) -> None:
    """The true difference, zero, is in the interval in at least 91.5 % of 2,000 trials.

    The true coverage is 93.2 % or more, so a false alarm is three standard errors away, 1 in 1,000. A side with one
    seed has no noise over seeds here, as the interval assumes. The interval of the images alone covers in less than
    90 % of trials if seeds differ by more than a little.
    """
    rng = np.random.default_rng(1)
    covered, of_images = 0, 0
    for _ in range(N_TRIALS):
        images = rng.normal(0, 3, 50)
        others = images + rng.normal(0, 0.3, 50)
        a, b = (
            table(rng, effect, n, alpha if n > 1 else 0.0, 0.2)
            for effect, n in zip((images, others), n_seeds, strict=True)
        )
        difference = float(b.mean() - a.mean())
        noise = of_tables(a, b)
        covered += abs(difference) < noise.reach()
        of_images += abs(difference) < 1.96 * noise.images
    assert 0.915 < covered / N_TRIALS <= highest
    assert alpha < 0.1 or of_images / N_TRIALS < 0.9


def test_one_seed_is_the_paired_error() -> None:
    a, b = pair(np.random.default_rng(2), 30, (1, 1), 0.1, 0.1)
    noise = of_tables(a, b)
    paired = paired_difference(b[0], a[0]).standard_error
    assert (noise.images, noise.combined) == (paired, paired)
    assert noise.reach() == pytest.approx(student.ppf(0.975, 29) * paired)
    assert noise.reach(0.01) == pytest.approx(student.ppf(0.995, 29) * paired)
    assert (noise.seeds, noise.has_seeds, noise.unknown) == ((None, None), False, ["A", "B"])


def test_it_is_the_formula_by_hand() -> None:
    """Two seeds of A and one seed of B with three images; gamma of A is -1, 1, 0 and 1, -1, 0 over 2."""
    a = np.array([[0.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    b = np.array([[1.0, 1.0, 4.0]])
    noise = of_tables(a, b)
    images = np.array([1 - 2.5, 1 - 3.5, 4 - 3.0]).std(ddof=1) / math.sqrt(3)
    seeds = 16 / 2 / 2  # from the means 1 and 5
    gamma = (4 * 0.25) / (1 * 2) / (2 * 3)
    assert noise.images == pytest.approx(images)
    assert noise.seeds[0] == pytest.approx(math.sqrt(seeds))
    assert noise.seeds[1] is None
    assert noise.combined == pytest.approx(math.sqrt(images**2 + seeds - gamma))
    for level in (0.05, 0.001):
        few, two = (student.ppf(1 - level / 2, degrees) for degrees in (2, 1))
        assert noise.reach(level) == pytest.approx(math.sqrt(few**2 * (images**2 - gamma) + two**2 * seeds))
    assert noise.of_seeds == noise.seeds[0]
    assert noise.unknown == ["B"]


def test_seeds_that_agree_never_make_the_error_smaller() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.normal(0, 1, (3, 20)) for _ in range(2))
    a, b = (side - side.mean(1, keepdims=True) for side in (a, b))  # all seeds have the same mean
    noise = of_tables(a, b)
    assert noise.combined == pytest.approx(noise.images)
    assert noise.reach() == pytest.approx(student.ppf(0.975, 19) * noise.images)
    assert noise.of_seeds == pytest.approx(0, abs=1e-12)


def test_swapping_the_sides_changes_nothing() -> None:
    a, b = pair(np.random.default_rng(4), 30, (2, 4), 0.1, 0.1)
    there, back = of_tables(a, b), of_tables(b, a)
    assert (there.combined, there.reach()) == (pytest.approx(back.combined), pytest.approx(back.reach()))
    assert there.seeds == back.seeds[::-1]


def test_means_alone_are_cautious() -> None:
    """Without the tables gamma is counted twice; if gamma is zero, both results agree."""
    rng = np.random.default_rng(5)
    a, b = pair(rng, 30, (2, 4), 0.1, 0.5)
    of_all = of_tables(a, b)
    assert of_means(of_all.images, 30, a.mean(1), b.mean(1)).combined > of_all.combined
    a, b = pair(rng, 30, (2, 4), 0.1, 0.0)
    of_all = of_tables(a, b)
    assert of_means(of_all.images, 30, a.mean(1), b.mean(1)).combined == pytest.approx(of_all.combined)


def test_one_image_has_an_infinite_error() -> None:
    noise = of_tables(np.array([[1.0], [2.0]]), np.array([[1.0]]))
    assert (noise.images, noise.combined, noise.reach()) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize(("bpd", "is_said"), [(1.9, False), (2.2, True), (-2.2, True), (9.0, False)])
def test_it_is_said_where_the_seeds_alone_take_a_verdict_away(bpd: float, is_said: bool) -> None:
    """The note depends on the level: at a stricter level, the errors over images alone do not give a verdict either."""
    noise = Noise(1.0, (1.0, 1.0), math.sqrt(3), 10_000, 0.0, 10.0)
    said = "not beyond the noise of the training seeds"
    assert any(said in note for note in of_seeds(bpd, noise, 0.05)) == is_said
    assert not any(said in note for note in of_seeds(bpd, noise, 0.005))
