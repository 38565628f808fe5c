"""Images to be scored: data sets by name equal those of the pipeline, and arrays are checked before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bitsperdim
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import sha256
from bitsperdim.data import preparation
from bitsperdim.data.prepared import load_prepared
from bitsperdim.evaluation.images import CACHE, Data, data_of, load_data
from bitsperdim.preflight.agreement import raw_levels, read_validated
from bitsperdim.sources import SOURCES
from support.stage_runs import StageFolder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def own_file(path: Path, n_images: int = 20, seed: int = 0, **arrays: np.ndarray) -> Path:
    images = np.random.default_rng(seed).integers(256, size=(n_images, 3, 4), dtype=np.uint8)
    np.savez(path, train=images, **arrays)
    return path


def test_a_data_set_is_what_the_pipeline_prepares(tmp_path: Path, stage_folder: StageFolder, cache: Path) -> None:
    data = load_data("digits")
    params = read_validated(stage_folder.folder / "params.yaml")
    assert params.dataset.name == "digits"
    source = SOURCES["digits"]
    source.download(tmp_path / "raw", params.dataset.path)
    raw = source.read(tmp_path / "raw")
    described = preparation.prepare(raw, params.dataset, params.dequantize, raw_levels(params), tmp_path / "prepared")
    by_stages = load_prepared(tmp_path / "prepared")
    assert data.prepared.description == described
    assert data.protocol == "digits/none/8x8x1/L17/test359/given-none"
    for name in ("images", "labels", "noise", "same_as", "in_train"):
        ours, theirs = getattr(data.prepared, name), getattr(by_stages, name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[split], theirs[split]) for split in ours)
    assert (len(data.images), data.n_levels, data.image_shape) == (359, 17, (1, 8, 8))
    assert data.train is not None
    assert data.validation is not None
    assert data.labels is not None
    assert repr(data) == (
        "<359 images to be scored of 8 x 8 x 1, 17 levels; protocol digits/none/8x8x1/L17/test359/given-none>"
    )
    assert sorted(path.name for path in cache.iterdir()) == ["downloaded", "prepared"]


@pytest.mark.parametrize(
    ("options", "tag", "n_levels"),
    [
        ({"bits": 2}, "none", 4),
        ({"binarization": "threshold"}, "threshold", 2),
        ({"binarization": "dynamic"}, "dynamic", 2),
    ],
)
def test_treatments_are_in_the_protocol(options: dict[str, Any], tag: str, n_levels: int) -> None:
    data, again = load_data("digits", **options), load_data("digits", **options)
    assert data.protocol == f"digits/{tag}/8x8x1/L{n_levels}/test359/given-none"
    assert data.n_levels == n_levels
    assert data.images.max() == n_levels - 1
    assert np.array_equal(data.images, again.images)
    other = load_data("digits", **options, seed=1)
    assert not np.array_equal(data.images, other.images)


def test_a_file_of_your_own_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = own_file(tmp_path / "mine.npz", test=np.full((3, 3, 4), 7, dtype=np.uint8))
    data = load_data(str(path))
    assert data.protocol == "npz/none/3x4x1/L256/test3/given-none"
    assert data.images.shape == (3, 1, 3, 4)
    own_file(path, test=np.full((5, 3, 4), 9, dtype=np.uint8))
    assert load_data(path).images.tolist() == np.full((5, 1, 3, 4), 9).tolist()
    assert load_data(path, n_levels=10 + 246).n_levels == 256


def test_a_folder_of_pictures_is_read_again_when_it_changes(tmp_path: Path) -> None:
    for name, n_images in ((".", 6), ("test", 2)):
        (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
        for number in range(n_images):
            Image.fromarray(np.full((3, 4), number, dtype=np.uint8)).save(
                tmp_path / "pictures" / name / f"{number}.png"
            )
    assert load_data(tmp_path / "pictures").images[:, 0, 0, 0].tolist() == [0, 1]
    Image.fromarray(np.full((3, 4), 200, dtype=np.uint8)).save(tmp_path / "pictures" / "test" / "1.png")
    assert load_data(str(tmp_path / "pictures")).images[:, 0, 0, 0].tolist() == [0, 200]


def test_nothing_half_written_is_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation.repeated, "counted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_data("digits")
    assert not list(cache.rglob("description.json"))
    assert not [path for path in cache.rglob(".*") if path.is_file()]
    data = load_data("digits")
    (described,) = cache.rglob("description.json")
    (described.parent / "test" / "images.npy").write_bytes(b"damaged")
    assert np.array_equal(load_data("digits").images, data.images)


def test_what_is_there_is_not_prepared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data("digits")
    monkeypatch.setattr(preparation, "prepare", None)
    assert np.array_equal(load_data("digits").images, first.images)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar", {}, "'cifar' is not a data set; choose digits, mnist, "),
        ("npz", {}, "For your own images, give the path of the .npz file or folder instead of 'npz'."),
        (3, {}, "3 is not a data set; give the name of a data set, or a path."),
        ("nowhere.npz", {}, "path = 'nowhere.npz' is not a file; "),
        ("digits", {"bits": 9}, "bits = 9 "),
        ("digits", {"bits": 5}, "bits = 5 is not allowed; it gives 32 levels, which is not fewer than the 17 levels"),
        ("digits", {"binarization": "median"}, "binarization = 'median' "),
        ("digits", {"binarization": "static"}, "binarization = 'static' is not allowed with name = 'digits'"),
        ("digits", {"n_levels": 256}, "n_levels = 256 is not allowed; digits has 17 levels"),
        ("digits", {"validation_fraction": 2.0}, "validation_fraction = 2.0 "),
        ("digits", {"test_fraction": 1e-6}, "test_fraction = 1e-06 of 1797 images would leave the test set empty."),
        ("digits", {"seed": -1}, "seed = -1 "),
    ],
)
def test_what_is_no_data_set_is_refused(name: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_data(name, **options)
    assert words in str(caught.value)
    assert "params.yaml" not in str(caught.value)
    assert "dataset." not in str(caught.value)


IMAGES = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2) % 5


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        IMAGES[:, 0],
        IMAGES.tolist(),
        IMAGES.astype(np.int64),
        IMAGES.astype(np.uint16),
        torch.from_numpy(IMAGES),
        torch.from_numpy(IMAGES).long().requires_grad_(requires_grad=False)[:, 0],
    ],
)
@pytest.mark.parametrize("n_levels", [5, np.int64(5)])
def test_every_sort_of_array_is_the_same_data(images: Any, n_levels: Any) -> None:
    data = data_of(images, n_levels)
    assert data.images.dtype == np.uint8
    assert np.array_equal(data.images, IMAGES)
    assert data.protocol == f"images-{sha256(IMAGES)[:12]}/none/2x2x1/L5/test6/given-none"
    assert data.prepared.same_as["test"].tolist() == [0, 1, 2, 3, 4, 0]
    assert data.labels is data.train is data.validation is None


def test_more_than_256_levels() -> None:
    data = data_of(np.array([0, 299]).reshape(2, 1, 1, 1), 300)
    assert data.images.dtype == np.int32
    assert data.images.flatten().tolist() == [0, 299]


def test_copies_of_training_images_are_found() -> None:
    data = data_of(IMAGES, 5, train=IMAGES[1:3])
    assert data.prepared.in_train["test"].tolist() == [False, True, True, False, False, False]
    with pytest.raises(
        InputError, match=r"train has images of shape \(1, 2, 3\), but those to be scored have \(1, 2, 2\)"
    ):
        data_of(IMAGES, 5, train=np.zeros((2, 1, 2, 3), dtype=int))


def test_data_stays_what_it_is_but_for_labels() -> None:
    data = data_of(IMAGES, 5, labels=[0, 1, 2, 0, 1, 2])
    assert data_of(data, None) is data_of(data, 5) is data
    other = data_of(data, None, labels=[3] * 6)
    assert other.labels is not None
    assert other.labels.tolist() == [3] * 6
    assert other.prepared.description.protocol_given_labels() != data.prepared.description.protocol_given_labels()
    with pytest.raises(InputError, match="n_levels = 6 is not allowed; these images have 5"):
        data_of(data, 6)
    with pytest.raises(InputError, match="train is not allowed with a data set, which already has its training images"):
        data_of(data, None, train=IMAGES)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (
            IMAGES,
            {"n_levels": None},
            "n_levels is missing: give the number of levels of the images, 256 for values 0 to 255.",
        ),
        (IMAGES, {"n_levels": 1}, "n_levels = 1 is not allowed; it must be an integer from 2 to 65,536."),
        (IMAGES, {"n_levels": True}, "n_levels = True is not allowed"),
        (IMAGES, {"n_levels": "256"}, "n_levels = '256' is not allowed"),
        (IMAGES, {"n_levels": 256.0}, "n_levels = 256.0 is not allowed"),
        (
            IMAGES / 4,
            {},
            "images must be integers 0..4, not float64; the likelihood is defined on the levels themselves",
        ),
        (torch.zeros(6, 1, 2, 2), {}, "images must be integers 0..4, not float32; the likelihood is defined on"),
        (
            torch.zeros(6, 1, 2, 2, dtype=torch.bfloat16),
            {},
            "images cannot be converted to a NumPy array: torch.bfloat16",
        ),
        (
            torch.zeros(6, 1, 2, 2, dtype=torch.int64, device="meta"),
            {},
            "images cannot be converted to a NumPy array: torch.i",
        ),
        (IMAGES > 1, {}, "images must be integers 0..4, not bool."),
        (IMAGES.astype(object), {}, "images must be integers 0..4, not object."),
        ([[1, 2], [3]], {}, "images cannot be converted to a NumPy array: list ("),
        (None, {}, "images must be integers 0..4, not object."),
        (IMAGES + 1, {}, "images must hold levels from 0 to 4, but the values go from 1 to 5."),
        (IMAGES.astype(int) - 1, {}, "images must hold levels from 0 to 4, but the values go from -1 to 3."),
        (IMAGES[:0], {}, "images must have the shape (N, C, H, W) or (N, H, W), not (0, 1, 2, 2)."),
        (IMAGES[0, 0], {}, "images must have the shape (N, C, H, W) or (N, H, W), not (2, 2)."),
        (
            np.zeros((2, 8, 8, 3), dtype=int),
            {},
            "seem to have their channels last; convert them to (N, C, H, W) with transpose",
        ),
        (IMAGES, {"labels": [0, 1]}, "labels must be integers of shape (6,), not int64 of shape (2,)."),
        (IMAGES, {"labels": [0.5] * 6}, "labels must be integers of shape (6,), not float64 of shape (6,)."),
        (IMAGES, {"labels": [0, 1, 2, -1, 0, 0]}, "labels must be 0 or more, but the smallest is -1."),
        (IMAGES, {"train": IMAGES / 4}, "train must be integers 0..4, not float64"),
    ],
)
def test_what_are_no_images_is_refused(images: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        data_of(images, **{"n_levels": 5, **options})
    assert words in str(caught.value)


def test_a_subset_is_seeded_and_says_so() -> None:
    data = data_of(np.arange(100).reshape(100, 1, 1, 1), 100, labels=np.arange(100) // 50)
    part, same, other = data.subset(10), data.subset(10), data.subset(10, seed=1)
    assert np.array_equal(part.images, same.images)
    assert not np.array_equal(part.images, other.images)
    assert len(np.unique(part.images)) == 10
    assert part.protocol == data.protocol.replace("/test100/", "/test10of100-seed0/")
    assert other.protocol == data.protocol.replace("/test100/", "/test10of100-seed1/")
    described = part.prepared.description
    assert described.n_images["test"] == 10
    assert described.test_sha256 == sha256(part.images)
    rows = part.images.flatten()
    assert part.labels is not None
    assert part.labels.tolist() == (rows // 50).tolist()
    assert described.test_labels_sha256 == sha256(part.labels)
    assert np.array_equal(part.prepared.noise["test"], data.prepared.noise["test"][rows])
    assert data.subset(100) is data
    of_part = part.subset(5, seed=2)
    assert len(of_part.images) == 5
    assert "/test5of10of100-seed0-seed2/" in of_part.protocol
    assert set(of_part.images.flatten()) < set(rows)


@pytest.mark.parametrize("n_images", [0, 7, -1, 2.0, "3", True])
def test_a_subset_that_is_none_is_refused(n_images: Any) -> None:
    with pytest.raises(InputError, match="is not allowed; it must be an integer from 1 to 6, the number of images"):
        data_of(IMAGES, 5).subset(n_images)
    with pytest.raises(InputError, match="seed = -1 is not allowed"):
        data_of(IMAGES, 5).subset(3, seed=-1)


def test_the_public_name_is_this_one() -> None:
    assert bitsperdim.load_data is load_data
    assert bitsperdim.Data is Data
