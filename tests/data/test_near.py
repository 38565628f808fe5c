"""Near copies: artificial copies are found, different images are not near, and a plain comparison gives the same."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.core import labels
from bitsperdim.core.files import StoredArray, in_chunks
from bitsperdim.data import near, preparation
from bitsperdim.data.pictures import write_near_copies
from bitsperdim.data.prepared import PreparedImages, load_prepared
from bitsperdim.sources import RawImages

N_TRAIN, N_TEST = 200, 300
DATASET = DatasetSection.model_validate(
    {"name": "npz", "path": "x", "n_levels": None, "validation_fraction": 0.1, "test_fraction": 0.2, "seed": 0}
)


def smooth(n_images: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return independent images of 256 levels: three random waves in each channel, around a mean of 0.5."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = rng.uniform(-2.5, 2.5, size=(2, n_images, channels, 3, 1, 1))
    phase = rng.uniform(size=(n_images, channels, 3, 1, 1))
    found = np.sin(2 * np.pi * (waves[0] * y + waves[1] * x + phase)).sum(2)
    return np.rint(127.5 + 30 * found).astype(np.uint8)


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noisy(images: np.ndarray) -> np.ndarray:
    return rounded(images + np.random.default_rng(9).normal(0, 6, images.shape))


def shifted(down: int, right: int) -> Callable[[np.ndarray], np.ndarray]:
    """Shift images; pixels that come in at an edge are black."""

    def move(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[2:]
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        return padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]

    return move


def compressed(images: np.ndarray) -> np.ndarray:
    """Scale images down to three quarters and up again."""
    height, width = images.shape[2:]
    small = (3 * width // 4, 3 * height // 4)
    found = [
        np.asarray(Image.fromarray(channel).resize(small, Image.Resampling.BOX).resize((width, height)))
        for image in images
        for channel in image
    ]
    return np.stack(found).reshape(images.shape)


def cropped(images: np.ndarray) -> np.ndarray:
    """Crop one pixel at each edge, and scale up to the old size."""
    height, width = images.shape[2:]
    found = [
        np.asarray(Image.fromarray(channel[1:-1, 1:-1]).resize((width, height)))
        for image in images
        for channel in image
    ]
    return np.stack(found).reshape(images.shape)


def found_in(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    return near.near_copies([test], train, np.arange(len(train)), np.zeros(len(test), dtype=bool)).of


@pytest.fixture(scope="module", params=[(1, 28, 28), (3, 32, 32), (1, 20, 28)], ids=str)
def train(request: pytest.FixtureRequest) -> np.ndarray:
    return smooth(N_TRAIN, request.param, seed=1)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": noisy,
    "contrast": lambda images: rounded(0.8 * images + 10.0),
    "gamma": lambda images: rounded(255 * (images / 255) ** 0.85),
    "down": shifted(1, 0),
    "left": shifted(0, -1),
    "diagonal": shifted(-1, 1),
    "compressed": compressed,
    "cropped": cropped,
}


def test_copies_that_were_made_are_found(train: np.ndarray) -> None:
    numbers = np.arange(0, N_TRAIN, 6)
    test = np.concatenate([change(train[numbers]) for change in CHANGES.values()])
    for name, found in zip(CHANGES, np.split(found_in(train, test), len(CHANGES)), strict=True):
        assert (found == numbers).mean() >= 0.9, name
        assert set(found[found != numbers]) <= {-1}, name


def test_different_images_are_not_near(train: np.ndarray) -> None:
    """At most one of 1,000 is expected to be near: more than 3 of 300 occur by chance once in 3,000 times."""
    assert (found_in(train, smooth(N_TEST, train.shape[1:], seed=2)) >= 0).sum() <= 3


@pytest.mark.parametrize("side", [2, 3, 8])
def test_few_dimensions_make_no_false_alarms(side: int) -> None:
    """For uniform images of four pixels, the nearest is often much nearer than others by chance."""
    rng = np.random.default_rng(3)
    images = rng.integers(256, size=(3000, 1, side, side), dtype=np.uint8)
    assert (found_in(images[:2000], images[2000:]) >= 0).sum() <= 6  # more occur by chance once in 10,000 times


def cell_averages(image: np.ndarray, first: float, last: float, axis: int) -> np.ndarray:
    """Average along an axis over at most 16 equal parts, with start and end of the range moved by so many pixels."""
    side = image.shape[axis]
    n_cells = min(side, 16)
    moved = np.moveaxis(image.astype(float), axis, 0).reshape(side, -1)
    whole = np.concatenate([np.zeros((1, moved.shape[1])), np.cumsum(moved, 0)])
    found = []
    for cell in range(n_cells):
        low, high = (first + (cell + end) / n_cells * (side + last - first) for end in (0, 1))
        low, high = min(max(low, 0), side - 1), max(min(high, side), 1)
        sums = [np.interp([low, high], np.arange(side + 1), column) for column in whole.T]
        found.append([(b - a) / (high - low) for a, b in sums])
    rest = [n for i, n in enumerate(image.shape) if i != axis]
    return np.moveaxis(np.array(found).reshape(n_cells, *rest), 0, axis)


def inner_cells(image: np.ndarray, down: tuple[float, float], right: tuple[float, float]) -> np.ndarray:
    return cell_averages(cell_averages(image, *down, 1), *right, 2)[:, 1:-1, 1:-1].ravel()


def plain_distances(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances of all pairs of images (N, C, H, W), computed as the module describes."""

    def moves(side: int) -> list[tuple[float, float]]:
        pixel, crop = max(1, round(side / 32)), side / 32
        return [(0, 0), (pixel, pixel), (-pixel, -pixel), (crop, -crop), (-crop, crop)]

    theirs = [inner_cells(image, (0, 0), (0, 0)) for image in others]
    ways = list(itertools.product(*(moves(side) for side in images.shape[2:])))
    found = []
    for image in images:
        mine = [inner_cells(image, *way) for way in ways]
        best = [max(np.corrcoef(each, other)[0, 1] for each in mine) for other in theirs]
        found.append(np.sqrt(np.clip(1 - np.array(best), 0, None)))
    return np.array(found)


def test_it_is_the_comparison_of_every_pair() -> None:
    """If all training images are candidates, the nearest and the eighth are those from all pairs."""
    train = smooth(14, (2, 9, 18), seed=4)
    test = np.concatenate([smooth(4, (2, 9, 18), seed=5), noisy(train[6:8])])
    distances = plain_distances(test, train)
    ratios, numbers = near.Search(train, np.arange(14)).ratios(test)
    assert numbers.tolist() == distances.argmin(1).tolist()
    assert numbers[4:].tolist() == [6, 7]
    ordered = np.sort(distances, 1)
    np.testing.assert_allclose(ratios, ordered[:, 0] / ordered[:, 7], rtol=1e-3)
    without = np.array([6, 7])
    ratios, numbers = near.Search(train, np.arange(14)).ratios(test[4:], without=without)
    others = distances[4:].copy()
    others[[0, 1], without] = math.inf
    ordered = np.sort(others, 1)
    assert numbers.tolist() == others.argmin(1).tolist()
    np.testing.assert_allclose(ratios, ordered[:, 0] / ordered[:, 7], rtol=1e-3)
    few = near.Search(train, np.array([2, 6, 7]))  # fewer than eight: missing ones count as uncorrelated
    ratios, numbers = few.ratios(test[4:])
    assert numbers.tolist() == [6, 7]
    np.testing.assert_allclose(ratios, distances[[4, 5], [6, 7]], rtol=1e-3)


def test_candidates_are_those_with_the_fewest_different_bits() -> None:
    rng = np.random.default_rng(6)
    hashes, others = (rng.integers(2**63, size=shape, dtype=np.uint64) for shape in ((5, 3), 200))
    for n, without in ((16, None), (16, np.arange(5)), (200, None), (500, np.arange(5))):
        found = near._fewest_different(hashes, others, n, without)
        for image in range(5):
            counts = np.array([min(int(h ^ o).bit_count() for h in hashes[image]) for o in others])
            if without is not None:
                counts[image] = 99
                assert image not in found[image]
            chosen = sorted(counts[found[image]])
            assert len(set(found[image])) == min(n, 200 - (without is not None))
            assert chosen == sorted(counts)[: len(chosen)]


@pytest.mark.parametrize("dimension", [2, 4, 8])
def test_the_limit_keeps_what_it_promises(dimension: int) -> None:
    """For evenly spread points, the ratio r of the nearest to the eighth distance has a known distribution.

    P(r < q) = 1 - (1 - q^m)^7. With the limit from 100,000 draws, at most 1 of 1,000 is near, and not much fewer.
    """
    uniform = np.random.default_rng(dimension).random(100_000)
    ratios = (1 - (1 - uniform) ** (1 / 7)) ** (1 / dimension)
    limit = near.limit_of(ratios)
    false = 1 - (1 - limit**dimension) ** 7
    assert 1e-4 < false <= near.FALSE_SHARE
    assert limit < near.LARGEST_RATIO


def test_the_limit_of_special_sets() -> None:
    assert near.limit_of(np.linspace(0.8, 0.9, 100)) == near.LARGEST_RATIO
    assert near.limit_of(np.zeros(0)) == near.LARGEST_RATIO
    assert near.limit_of(np.full(10, 0.2)) == 0.2
    assert near.limit_of(np.repeat([0.0, 0.9], 50)) == 0
    some = np.concatenate([np.zeros(3), np.linspace(0.5, 1, 97)])  # copies among the training images
    assert near.limit_of(some) == pytest.approx(near.limit_of(np.linspace(0.5, 1, 97)), rel=0.2)


def test_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = smooth(60, (1, 12, 12), seed=7)
    test = np.concatenate([noisy(train[:20]), smooth(23, (1, 12, 12), seed=8)])
    expected = found_in(train, test)
    assert (expected >= 0).sum() >= 18
    np.save(tmp_path / "train.npy", train)
    for values, size in ((144, 1), (1000, 7), (10**9, 10**9)):
        monkeypatch.setattr(near, "CHUNK_VALUES", values)
        stored = StoredArray(tmp_path / "train.npy")
        pieces: Iterator[np.ndarray] = in_chunks(test, 144 * size)
        found = near.near_copies(pieces, stored, np.arange(60), np.zeros(43, dtype=bool))
        assert found.of.tolist() == expected.tolist()


def test_an_exact_copy_is_not_a_near_one_and_images_of_one_colour_are_none() -> None:
    train = smooth(60, (1, 10, 10), seed=10)
    train[1] = 100
    test = np.stack([train[0], noisy(train[:1])[0], np.full((1, 10, 10), 101, np.uint8)])
    exact = np.array([True, False, False])
    assert near.near_copies([test], train, np.arange(60), exact).of.tolist() == [-1, 0, -1]
    alone = near.near_copies([test], train[:1], np.arange(1), exact)
    assert (alone.of.tolist(), alone.limit) == ([-1, 0, -1], near.LARGEST_RATIO)


def prepared(folder: Path, train: np.ndarray, test: np.ndarray, binarization: str) -> PreparedImages:
    section = DequantizeSection.model_validate({"bits": None, "binarization": binarization})
    raw = RawImages({"train": train, "test": test, "validation": train[:3]}, {})
    preparation.prepare(raw, DATASET, section, 256, folder)
    return load_prepared(folder)


@pytest.mark.parametrize("binarization", ["none", "dynamic"])
def test_what_is_stored_says_which_training_image_is_near(tmp_path: Path, binarization: str) -> None:
    """Twelve copies of a training image hide no near copy; with random binarization, grey images are compared."""
    train = smooth(120, (1, 12, 12), seed=11)
    train = np.concatenate([train, train[[5] * 12]])
    test = np.concatenate([train[3:5], noisy(train[5:9]), smooth(20, (1, 12, 12), seed=12)])
    found = prepared(tmp_path, train, test, binarization)
    assert found.near_train["test"].tolist() == [-1, -1, 5, 6, 7, 8, *[-1] * 20]
    assert found.description.n_same["test_near_train"] == 4
    assert found.description.n_same["test_in_train"] == 2
    (sentence,) = (
        text for text in labels.same_in_words(found.description.n_same, found.description.n_images) if "nearly" in text
    )
    assert sentence.startswith("4 of the 26 test images are nearly training images")


def test_pairs_are_drawn_beside_each_other(tmp_path: Path) -> None:
    train, test = smooth(5, (1, 8, 8), seed=13), smooth(4, (1, 8, 8), seed=14) // 64
    path = tmp_path / "pairs.png"
    write_near_copies(path, train, test, np.array([-1, 2, -1, 4]), (256, 4))
    drawn = np.asarray(Image.open(path))
    scale = drawn.shape[1] // (4 * 9 - 1)
    drawn = drawn[::scale, ::scale]
    expected = (test[1, 0] * 85, train[2, 0], test[3, 0] * 85, train[4, 0])
    for place, image in enumerate(expected):
        assert (drawn[:8, 9 * place : 9 * place + 8] == image).all()
    write_near_copies(path, train, test, np.full(4, -1), (256, 4))
    assert not path.exists()
