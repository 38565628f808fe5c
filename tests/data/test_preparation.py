"""Splits are a partition, quantization keeps the order, binarization has its probability, a seed fixes all bytes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import StoredArray, sha256, write_npy
from bitsperdim.data import preparation
from bitsperdim.data.preparation import binarize_by_chance, binarize_by_threshold, quantize, split_indices
from bitsperdim.data.prepared import SPLITS, PreparedImages, load_prepared
from bitsperdim.sources import RawImages


def dataset(**changes: object) -> DatasetSection:
    values = {"name": "npz", "path": "x", "n_levels": None, "validation_fraction": 0.1, "test_fraction": 0.2, "seed": 0}
    return DatasetSection.model_validate({**values, **changes})


def dequantize(**changes: object) -> DequantizeSection:
    return DequantizeSection.model_validate({"bits": None, "binarization": "none", **changes})


def prepare(raw: RawImages, of: DatasetSection, treated: DequantizeSection, raw_levels: int) -> PreparedImages:
    """Write the splits into a temporary folder and read them back."""
    with tempfile.TemporaryDirectory() as folder:
        preparation.prepare(raw, of, treated, raw_levels, Path(folder))
        return load_prepared(Path(folder))


def numbered(n_images: int, shape: tuple[int, int, int] = (1, 2, 2), levels: int = 256) -> np.ndarray:
    """Return images whose first two pixels hold the number of the image."""
    images = np.random.default_rng(1).integers(levels, size=(n_images, *shape), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n_images) % 256, np.arange(n_images) // 256
    return images


def test_the_splits_are_a_partition_and_validation_comes_from_training() -> None:
    index = split_indices({"train": 1797}, 0.2, 0.1, seed=0)
    assert {split: len(rows) for split, (_, rows) in index.items()} == {"test": 359, "validation": 144, "train": 1294}
    assert all(part == "train" for part, _ in index.values())
    together = np.concatenate([rows for _, rows in index.values()])
    assert sorted(together) == list(range(1797))
    assert all((np.diff(rows) > 0).all() for _, rows in index.values())


def test_official_parts_are_used_as_they_are() -> None:
    index = split_indices({"train": 100, "test": 30}, 0.2, 0.1, seed=0)
    assert index["test"][0] == "test"
    assert index["test"][1].tolist() == list(range(30))
    assert index["validation"][0] == "train"
    assert len(index["train"][1]) == 90
    index = split_indices({"train": 100, "test": 30, "validation": 7}, 0.2, 0.1, seed=0)
    assert index["train"][1].tolist() == list(range(100))
    assert index["validation"][1].tolist() == list(range(7))


def test_the_seed_moves_the_split() -> None:
    first, again, other = (split_indices({"train": 500}, 0.2, 0.1, seed)["test"][1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    expected_overlap = 20  # two draws of 100 from 500; hypergeometric standard deviation 3.6
    assert abs(len(np.intersect1d(first, other)) - expected_overlap) < 18


def test_an_empty_split_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"dataset\.test_fraction = 0\.01 of 20 images would leave the test set empty"):
        split_indices({"train": 20}, 0.01, 0.1, seed=0)
    with pytest.raises(InputError, match=r"dataset\.validation_fraction = 0\.99 of 20 .* the training set empty"):
        split_indices({"train": 20, "test": 3}, 0.5, 0.99, seed=0)


def test_256_levels_lose_their_lowest_bits() -> None:
    x = np.arange(256, dtype=np.uint8)
    for bits in range(1, 8):
        assert np.array_equal(quantize(x, 256, bits), x >> (8 - bits))


@pytest.mark.parametrize(("n_levels", "bits"), [(17, 4), (17, 1), (5, 2), (200, 7), (3, 1)])
def test_quantization_keeps_the_order_and_reaches_every_level(n_levels: int, bits: int) -> None:
    y = quantize(np.arange(n_levels, dtype=np.uint8), n_levels, bits).astype(int)
    assert (np.diff(y) >= 0).all()
    assert set(y) == set(range(2**bits))
    counts = np.bincount(y)
    assert counts.max() - counts.min() <= 1


def test_the_threshold_is_at_one_half() -> None:
    assert binarize_by_threshold(np.arange(17, dtype=np.uint8), 17).tolist() == [0] * 8 + [1] * 9
    assert binarize_by_threshold(np.array([0, 127, 128, 255], dtype=np.uint8), 256).tolist() == [0, 0, 1, 1]


def test_dynamic_binarization_has_its_probability() -> None:
    """20,000 draws for each of 17 levels: shares are within 4.9 standard errors; both end levels are certain."""
    n = 20_000
    x = np.tile(np.arange(17, dtype=np.uint8), (n, 1))
    share = binarize_by_chance(x, 17, np.random.default_rng(0)).mean(0)
    p = np.arange(17) / 16
    assert share[0] == 0
    assert share[16] == 1
    assert (np.abs(share - p)[1:16] < 4.9 * np.sqrt(p * (1 - p) / n)[1:16]).all()


def test_dynamic_keeps_training_grey_and_draws_the_rest_once() -> None:
    raw = RawImages({"train": numbered(300), "test": numbered(50)}, {})
    first = prepare(raw, dataset(), dequantize(binarization="dynamic"), 256)
    assert first.description.n_levels == 2
    assert first.description.train_levels == 256
    assert first.images["train"].max() > 1
    assert first.images["validation"].max() == first.images["test"].max() == 1
    again = prepare(raw, dataset(), dequantize(binarization="dynamic"), 256)
    other = prepare(raw, dataset(seed=1), dequantize(binarization="dynamic"), 256)
    assert first.description.test_sha256 == again.description.test_sha256 != other.description.test_sha256


def test_training_images_that_are_drawn_later_have_the_levels_they_were_quantized_to() -> None:
    """A presentation turns levels into probabilities; read as levels of 256, the 8 levels would rarely give a 1."""
    raw = RawImages({"train": numbered(300), "test": numbered(50)}, {})
    prepared = prepare(raw, dataset(), dequantize(bits=3, binarization="dynamic"), 256)
    assert prepared.images["train"].max() + 1 == prepared.description.train_levels == 8
    assert prepared.description.n_levels == 2


def test_binarization_does_not_move_the_split_or_the_noise() -> None:
    raw = RawImages({"train": numbered(300)}, {})
    plain = prepare(raw, dataset(), dequantize(), 256)
    dynamic = prepare(raw, dataset(), dequantize(binarization="dynamic"), 256)
    assert np.array_equal(plain.images["train"], dynamic.images["train"])
    for split in ("validation", "test"):
        assert np.array_equal(plain.noise[split], dynamic.noise[split])


def test_another_validation_set_does_not_move_the_test_set() -> None:
    raw = RawImages({"train": numbered(300), "test": numbered(50)}, {})
    few, many = (
        prepare(raw, dataset(validation_fraction=share), dequantize(binarization="dynamic"), 256)
        for share in (0.1, 0.3)
    )
    assert few.description.test_sha256 == many.description.test_sha256
    assert np.array_equal(few.noise["test"], many.noise["test"])


def test_noise_is_below_one_and_only_where_it_is_evaluated() -> None:
    prepared = prepare(RawImages({"train": numbered(300)}, {}), dataset(), dequantize(), 256)
    assert prepared.noise.keys() == {"validation", "test"}
    for split, noise in prepared.noise.items():
        assert noise.dtype == np.float32
        assert noise.shape == prepared.images[split].shape
        assert noise.min() >= 0
        assert noise.max() < 1
    assert not np.array_equal(prepared.noise["validation"][:10], prepared.noise["test"][:10])


def test_labels_go_with_their_images() -> None:
    images = numbered(200)
    labels = images[:, 0, 0, 0].astype(np.int64)
    prepared = prepare(RawImages({"train": images}, {"train": labels}), dataset(), dequantize(), 256)
    for split in SPLITS:
        assert np.array_equal(prepared.labels[split], prepared.images[split][:, 0, 0, 0])


def test_the_protocol_tag_says_what_was_scored() -> None:
    raw = RawImages({"train": numbered(300, (3, 4, 2)), "test": numbered(50, (3, 4, 2))}, {})
    tags = [
        prepare(raw, dataset(), dequantize(**change), 256).description.protocol
        for change in (
            {},
            {"bits": 5},
            {"binarization": "threshold"},
            {"bits": 5, "binarization": "dynamic"},
            {"binarization": "dynamic"},
        )
    ]
    assert tags == [
        "npz/none/4x2x3/L256/test50/given-none",
        "npz/none/4x2x3/L32/test50/given-none",
        "npz/threshold/4x2x3/L2/test50/given-none",
        "npz/dynamic-of-L32/4x2x3/L2/test50/given-none",
        "npz/dynamic/4x2x3/L2/test50/given-none",
    ]


def test_values_beyond_the_stated_levels_are_refused() -> None:
    raw = RawImages({"train": np.full((20, 1, 2, 2), 17, np.uint8)}, {})
    with pytest.raises(InputError, match=r"train images hold the value 17, but dataset\.n_levels = 17 allows 0 to 16"):
        prepare(raw, dataset(), dequantize(), 17)


@pytest.mark.parametrize("binarization", ["none", "threshold", "dynamic"])
def test_neither_files_nor_chunks_change_a_byte(
    binarization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images may be in memory, or come from a file three at a time."""
    images = {"train": numbered(200, (1, 3, 3)), "test": numbered(31, (1, 3, 3))}
    labels = {"train": np.arange(200), "test": np.arange(31)}
    arguments = dataset(), dequantize(bits=3, binarization=binarization), 256
    described = preparation.prepare(RawImages(images, labels), *arguments, tmp_path / "a")
    stored = {}
    for split, array in images.items():
        write_npy(tmp_path / f"{split}.npy", array.shape, array.dtype, [array])
        stored[split] = StoredArray(tmp_path / f"{split}.npy")
    monkeypatch.setattr(preparation, "CHUNK_VALUES", 29)
    assert preparation.prepare(RawImages(stored, labels), *arguments, tmp_path / "b") == described
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 1 + 3 + 3 + 2 + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    loaded = load_prepared(tmp_path / "a")
    assert loaded.description == described
    assert described.test_sha256 == sha256(loaded.images["test"])
    assert described.train_sha256 == sha256(loaded.images["train"])
    assert described.validation_sha256 == sha256(loaded.images["validation"])
    assert load_prepared(tmp_path / "a", ("test",)).images.keys() == {"test"}
    with pytest.raises(InputError, match="run the stage 'dequantize' first"):
        load_prepared(tmp_path / "c")


def test_nothing_of_other_data_stays(tmp_path: Path) -> None:
    preparation.prepare(
        RawImages({"train": numbered(200)}, {"train": np.arange(200)}), dataset(), dequantize(), 256, tmp_path
    )
    preparation.prepare(RawImages({"train": numbered(100)}, {}), dataset(), dequantize(), 256, tmp_path)
    assert not load_prepared(tmp_path).labels


MEMORY = """
import sys
from pathlib import Path
from bitsperdim.data import preparation
from bitsperdim.sources.base import RawImages
from bitsperdim.data.yardsticks import empirical_entropy
from bitsperdim.core.files import StoredArray
from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.runtime.stage import peak_memory
section = DatasetSection(name="npz", path="x", n_levels=None, validation_fraction=0.1, test_fraction=0.2, seed=0)
raw, folder = (Path(argument) for argument in sys.argv[1:])
before = peak_memory()
images = RawImages({"train": StoredArray(raw)}, {})
preparation.prepare(images, section, DequantizeSection(bits=5, binarization="dynamic"), 256, folder)
empirical_entropy(StoredArray(folder / "test" / "images.npy"))
print((peak_memory() - before) / 2**20)
"""


@pytest.mark.parametrize(
    ("chunk_values", "least", "most"), [(2**22, 10, 150), (2**40, 300, 3000)], ids=["in chunks", "at once"]
)
def test_the_memory_does_not_grow_with_the_number_of_images(
    chunk_values: int, least: float, most: float, tmp_path: Path, repository: Path
) -> None:
    """A set of 300 MiB adds less than 150 MiB, since a chunk has 2^22 values of up to 8 bytes; at once it takes 600."""
    some = np.random.default_rng(0).integers(256, size=(50, 3, 256, 256), dtype=np.uint8)
    write_npy(tmp_path / "raw.npy", (1_600, *some.shape[1:]), some.dtype, (some for _ in range(32)))
    change = (
        f"from bitsperdim.core import files; assert files.CHUNK_VALUES == 2**22; files.CHUNK_VALUES = {chunk_values}"
    )
    command = [sys.executable, "-c", f"{change}\n{MEMORY}", str(tmp_path / "raw.npy"), str(tmp_path / "prepared")]
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert least < float(done.stdout) < most, done.stdout


@pytest.mark.parametrize("split", SPLITS)
def test_other_images_than_the_described_ones_are_refused(split: str, tmp_path: Path) -> None:
    preparation.prepare(RawImages({"train": numbered(200)}, {}), dataset(), dequantize(), 256, tmp_path)
    images = load_prepared(tmp_path).images[split]
    images[0, 0, 0, 0] ^= 1
    write_npy(tmp_path / split / "images.npy", images.shape, images.dtype, [images])
    with pytest.raises(InputError, match=rf"images\.npy does not hold the {split} images that .* describes"):
        load_prepared(tmp_path)
