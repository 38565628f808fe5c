"""Laws of every known distribution, tested by sums over all images of tiny shapes, and by draws.

Statistical tests are seeded; each states how often it would fail by chance with another seed.
"""

import itertools
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bitsperdim.core.errors import InputError
from bitsperdim.core.units import bits_per_dim
from bitsperdim.sources.known import KNOWN, KnownDistribution
from bitsperdim.sources.known.base import fixed_uniforms, levels_drawn

ROUNDING = 1e-12
FAR = 4.9  # a two-sided z of 4.9 is exceeded by chance once in a million
SHAPES = (((1, 2, 3), 3), ((1, 3, 2), 2), ((3, 1, 2), 3), ((3, 2, 1), 3))  # up to 729 images; grey and colour
CASES = [pytest.param(name, *case, id=f"{name}-{case[0]}-{case[1]}") for name in KNOWN for case in SHAPES]
DEFAULTS = [
    pytest.param(name, shape, id=f"{name}-{shape}")
    for name in KNOWN
    for shape in ((1, 8, 8), (3, 4, 6) if name == "ising" else (3, 8, 8))
]


def known(name: str, shape: tuple[int, int, int], n_levels: int | None = None, **others: Any) -> KnownDistribution:
    return KNOWN[name](shape, n_levels or KNOWN[name].default_levels, **others)


def all_images(shape: tuple[int, int, int], n_levels: int) -> np.ndarray:
    values = itertools.product(range(n_levels), repeat=math.prod(shape))
    return np.array(list(values), np.uint8).reshape(-1, *shape)


def marginals(masses: np.ndarray, images: np.ndarray, n_levels: int) -> np.ndarray:
    """Return P(x_i = l), (D, L)."""
    return np.stack([masses @ (images.reshape(len(images), -1) == level) for level in range(n_levels)], axis=-1)


def log_p_of_independent(masses: np.ndarray, images: np.ndarray, n_levels: int) -> np.ndarray:
    """Return the log-probability that independent sub-pixels with the same marginals would have."""
    flat = images.reshape(len(images), -1)
    table = np.log(marginals(masses, images, n_levels))
    return table[np.arange(flat.shape[1]), flat].sum(1)


@pytest.mark.parametrize(("name", "shape", "n_levels"), CASES)
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_masses_of_all_images_sum_to_one(name: str, shape: tuple[int, int, int], n_levels: int, factor: float) -> None:
    distribution = known(name, shape, n_levels, strength=factor * KNOWN[name].default_strength)
    log_p = distribution.log_p(all_images(shape, n_levels))
    assert log_p.dtype == np.float64
    assert abs(np.exp(log_p).sum() - 1) < ROUNDING


# three states that the images show: with more, each step to one side is about as likely as to the other
DRAWN = [*CASES, pytest.param("hidden_markov-3", (1, 3, 3), 2, id="hidden_markov of 3 states")]


@pytest.mark.parametrize(("name", "shape", "n_levels"), DRAWN)
def test_draws_have_the_probabilities_of_log_p(name: str, shape: tuple[int, int, int], n_levels: int) -> None:
    """Chi-square over all images, with rare ones (fewer than five expected) pooled; it fails once in a million."""
    n_images, images = 20_000, all_images(shape, n_levels)
    if name == "hidden_markov-3":
        distribution = known("hidden_markov", shape, n_levels, strength=100.0, n_components=3)
    else:  # weak enough that many images are frequent
        distribution = known(name, shape, n_levels, strength=KNOWN[name].default_strength / 2)
    drawn = distribution.draw(n_images, np.random.default_rng(3))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (n_images, *shape)
    places = n_levels ** np.arange(math.prod(shape))[::-1]
    counts = np.bincount(drawn.reshape(n_images, -1) @ places, minlength=len(images))
    expected = n_images * np.exp(distribution.log_p(images))
    is_rare = expected < 5
    if is_rare.any():
        counts = np.append(counts[~is_rare], counts[is_rare].sum())
        expected = np.append(expected[~is_rare], expected[is_rare].sum())
    if expected[-1] < 5:  # the pooled rare images are still rare: pool them with the frequent one before
        counts, expected = np.append(counts[:-2], counts[-2:].sum()), np.append(expected[:-2], expected[-2:].sum())
    assert len(expected) > 30
    assert stats.chisquare(counts, expected * n_images / expected.sum()).pvalue > 1e-6


@pytest.mark.parametrize(("name", "shape", "n_levels"), CASES)
def test_the_mean_over_draws_is_the_entropy(name: str, shape: tuple[int, int, int], n_levels: int) -> None:
    """It fails by chance once in a million."""
    distribution = known(name, shape, n_levels)
    log_p = distribution.log_p(all_images(shape, n_levels))
    entropy = -(np.exp(log_p) * log_p).sum()
    of_draws = -distribution.log_p(distribution.draw(10_000, np.random.default_rng(4)))
    assert abs(of_draws.mean() - entropy) < FAR * of_draws.std() / 100


@pytest.mark.parametrize(("name", "shape", "n_levels"), CASES)
def test_strength_zero_is_independence(name: str, shape: tuple[int, int, int], n_levels: int) -> None:
    images = all_images(shape, n_levels)
    log_p = known(name, shape, n_levels, strength=0.0).log_p(images)
    assert np.abs(log_p - log_p_of_independent(np.exp(log_p), images, n_levels)).max() < ROUNDING
    log_p = known(name, shape, n_levels).log_p(images)
    gain = np.exp(log_p) @ (log_p - log_p_of_independent(np.exp(log_p), images, n_levels))
    assert bits_per_dim(-gain, shape) > 0.02  # loss of a model without dependence


@pytest.mark.parametrize(("name", "shape"), DEFAULTS)
def test_chunks_change_nothing(name: str, shape: tuple[int, int, int]) -> None:
    """The first images do not depend on how many are drawn either.

    A level would differ only if a random number is within rounding of the border between two levels: once in 10^10
    images.
    """
    whole, parts = known(name, shape), known(name, shape)
    parts.chunk_numbers = 1  # one image at a time
    images = whole.draw(30, np.random.default_rng(5))
    assert np.array_equal(parts.draw(30, np.random.default_rng(5)), images)
    assert np.array_equal(whole.draw(7, np.random.default_rng(5)), images[:7])
    log_p = whole.log_p(images)
    assert np.abs(parts.log_p(images) / log_p - 1).max() < ROUNDING
    assert np.abs(whole.log_p(images[::-1])[::-1] / log_p - 1).max() < ROUNDING
    assert whole.draw(0, np.random.default_rng(5)).shape == (0, *shape)
    assert whole.log_p(images[:0]).shape == (0,)


@pytest.mark.parametrize(("name", "shape"), DEFAULTS)
def test_defaults_make_a_data_set(name: str, shape: tuple[int, int, int]) -> None:
    """Images are neither noise nor nearly constant, sub-pixels are clearly dependent, and no two of 2,000 are equal.

    The entropy of independent sub-pixels is computed from the shares of each level in 2,000 images. It is too small by
    about (L-1) / (2 * 2,000) nats, below 0.01 bits/dim; the required difference is far larger.
    """
    distribution = known(name, shape)
    images = distribution.draw(2_000, np.random.default_rng(6))
    entropy = float(bits_per_dim(distribution.log_p(images), shape).mean())
    flat = images.reshape(len(images), -1)
    shares = np.stack([(flat == level).mean(0) for level in range(distribution.n_levels)])
    independent = stats.entropy(shares, axis=0, base=2).mean()
    assert 0.3 < entropy < 2.5
    assert independent - entropy > 0.2
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_a_distribution_stays_what_it_is() -> None:
    """Log P of a fixed image is pinned, so that published results stay comparable with new ones."""
    found = {}
    for name in KNOWN:
        for shape in ((1, 8, 8), (3, 5, 6)):
            distribution = known(name, shape)
            c, h, w = np.indices(shape)
            image = (c * 5 + h * 7 + w * w * 3) // 4 % distribution.n_levels
            found[name, shape] = float(distribution.log_p(image[None])[0])
    assert found == pytest.approx(PINNED, rel=1e-12)


def test_fixed_numbers_are_those_of_the_raw_stream() -> None:
    """They come from the first raw numbers of PCG64 with seed 0, which NumPy guarantees; exact in float64."""
    raw = np.random.PCG64(np.random.SeedSequence(0)).random_raw(2)
    assert fixed_uniforms(0, 2).tolist() == [(int(number) >> 11) / 2**53 for number in raw]
    assert fixed_uniforms(0, 2, 3).shape == (2, 3)
    numbers = fixed_uniforms(1, 10_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-6


def test_a_level_has_the_random_numbers_of_its_mass() -> None:
    masses = np.array([0.0, 2.0, 0.0, 6.0, 0.0])
    drawn = [int(levels_drawn(masses, np.array(number))) for number in (0.0, 0.2499, 0.25, 1 - 2**-53)]
    assert drawn == [1, 1, 3, 3]


GREY = (1, 8, 8)
REFUSED = [
    (
        "templates",
        {"image_shape": (2, 8, 8)},
        r"dataset\.drawn\.n_channels = 2 .*it must be 1 \(grey\) or 3 \(colour\)",
    ),
    ("templates", {"image_shape": (True, 8, 8)}, r"dataset\.drawn\.n_channels = True .*it must be 1"),
    ("hidden_markov", {"image_shape": (1, 0, 8)}, r"dataset\.drawn\.height = 0 .*a whole number from 1 to 64"),
    ("hidden_markov", {"image_shape": (1, 8, 65)}, r"dataset\.drawn\.width = 65 .*a whole number from 1 to 64"),
    ("small_pixelcnn", {"image_shape": (1, 8, 8.0)}, r"dataset\.drawn\.width = 8\.0 .*a whole number"),
    ("small_pixelcnn", {"n_levels": 1}, r"dataset\.n_levels = 1 .*a whole number from 2 to 256"),
    ("templates", {"n_levels": 257}, r"dataset\.n_levels = 257 .*a whole number from 2 to 256"),
    ("ising", {"strength": -0.1}, r"dataset\.drawn\.strength = -0\.1 .*a number from 0 to 100"),
    ("ising", {"strength": math.nan}, r"dataset\.drawn\.strength = nan .*a number from 0 to 100"),
    ("ising", {"strength": math.inf}, r"dataset\.drawn\.strength = inf .*a number from 0 to 100"),
    ("ising", {"strength": "a lot"}, r"dataset\.drawn\.strength = 'a lot' .*a number from 0 to 100"),
    ("ising", {"n_components": 3}, r"dataset\.drawn\.n_components = 3 .*it must be null"),
    ("small_pixelcnn", {"n_components": 3}, r"dataset\.drawn\.n_components = 3 .*it must be null"),
    ("templates", {"n_components": 0}, r"dataset\.drawn\.n_components = 0 .*a whole number from 1 to 64"),
    ("hidden_markov", {"n_components": 65}, r"dataset\.drawn\.n_components = 65 .*a whole number from 1 to 64"),
    (
        "templates",
        {"image_shape": (3, 64, 64), "n_levels": 256, "n_components": 22},
        r"dataset\.drawn\.n_components = 22 .*is 69,206,016 masses and 67,108,864 are allowed",
    ),
    ("ising", {"n_levels": 6}, r"dataset\.drawn\.width = 8 .*6\^8 states and 1,048,576 are allowed"),
    ("ising", {"image_shape": (3, 7, 9)}, r"dataset\.drawn\.height = 7 .*2\^21 states and 1,048,576 are allowed"),
]


@pytest.mark.parametrize(("name", "given", "sentence"), REFUSED)
def test_what_is_not_allowed_is_refused_in_one_sentence(name: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"^params\.yaml: {sentence}") as caught:
        KNOWN[name](**{"image_shape": GREY, "n_levels": 2} | given)
    assert f"dataset.name = {name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("name", KNOWN)
def test_images_of_another_distribution_are_refused(name: str) -> None:
    distribution = known(name, (1, 2, 3), 3)
    with pytest.raises(ValueError, match=r"must have shape \(N, \*\(1, 2, 3\)\), not \(5, 1, 3, 2\)"):
        distribution.log_p(np.zeros((5, 1, 3, 2), np.uint8))
    with pytest.raises(ValueError, match="values from 0 to 2, not 0 to 3"):
        distribution.log_p(np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3) % 4)
    with pytest.raises(ValueError, match="values from 0 to 2, not -1 to 0"):
        distribution.log_p(-np.eye(2, 3, dtype=np.int64)[None, None])
    with pytest.raises(ValueError, match="whole numbers, not float64"):
        distribution.log_p(np.zeros((1, 1, 2, 3)))


def test_a_tag_tells_what_decides_the_distribution() -> None:
    shape = (1, 2, 2)
    assert known("ising", shape).tag == "s0.75"
    assert known("templates", shape).tag == "s12-k16"
    assert known("hidden_markov", shape, strength=2.50, n_components=3).tag == "s2.5-k3"
    strengths = (0, 1e-7, 0.1, 0.1 + 1e-16, 0.30000000000000004, 0.3, 1, 100, np.float32(0.1))
    tags = [known("ising", shape, strength=strength).tag for strength in strengths]
    assert len(set(tags)) == len({float(strength) for strength in strengths})
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", tag) for tag in tags)
    assert known("ising", shape, strength=-0.0).tag == known("ising", shape, strength=0).tag == "s0"


def test_largest_strength_and_levels_are_no_trouble() -> None:
    """At the limits of the parameters, log P is finite, and draws are among the likely images."""
    for name in KNOWN:
        distribution = known(name, (1, 2, 2), 256, strength=100.0)
        assert np.isfinite(distribution.log_p(np.array([[[[0, 255], [255, 0]]]]))).all()
        log_p = distribution.log_p(distribution.draw(200, np.random.default_rng(7)))
        assert (log_p < ROUNDING).all()
        assert log_p.min() > -40


def test_torch_is_not_needed() -> None:
    code = "import sys; import bitsperdim.sources.known; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


PINNED = {
    ("ising", (1, 8, 8)): -39.59223539444588,
    ("ising", (3, 5, 6)): -66.86152338113996,
    ("hidden_markov", (1, 8, 8)): -291.25461402826363,
    ("hidden_markov", (3, 5, 6)): -409.1412063675546,
    ("templates", (1, 8, 8)): -607.3888292212155,
    ("templates", (3, 5, 6)): -641.2398154674886,
    ("small_pixelcnn", (1, 8, 8)): -268.18249160037624,
    ("small_pixelcnn", (3, 5, 6)): -391.93052498546007,
}
