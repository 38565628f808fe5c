"""Equal images within the test images and between the splits: compared with every pair, and as stored."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.core import labels
from bitsperdim.data import preparation, repeated
from bitsperdim.data.prepared import PreparedImages, load_prepared
from bitsperdim.sources import RawImages

DATASET = DatasetSection.model_validate(
    {"name": "npz", "path": "x", "n_levels": None, "validation_fraction": 0.25, "test_fraction": 0.2, "seed": 0}
)


def stored(folder: Path, train: np.ndarray, test: np.ndarray, **treated: object) -> PreparedImages:
    section = DequantizeSection.model_validate({"bits": None, "binarization": "none", **treated})
    preparation.prepare(RawImages({"train": train, "test": test}, {}), DATASET, section, 256, folder)
    return load_prepared(folder)


def test_it_is_the_comparison_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    few = {split: rng.integers(2, size=(n, 1, 2, 2), dtype=np.uint8) for split, n in (("train", 9), ("test", 12))}
    few["validation"] = few["test"][3:5]
    hashes = {split: repeated.digests(images) for split, images in few.items()}
    equal = [[bool((a == b).all()) for b in few["test"]] for a in few["test"]]
    first = [row.index(True) for row in equal]
    assert repeated.first_equal(hashes["test"]).tolist() == first
    assert len(set(first)) < 12

    def n_among(split: str, other: str) -> int:
        return sum(any((a == b).all() for b in few[other]) for a in few[split])

    assert repeated.counted(hashes) == {
        "test_distinct": len(set(first)),
        "test_in_train": n_among("test", "train"),
        "test_in_validation": n_among("test", "validation"),
        "validation_in_train": n_among("validation", "train"),
    }
    assert 0 < n_among("test", "train") < 12


def test_every_value_and_its_place_counts() -> None:
    base = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    others = [base.copy() for _ in range(12)]
    for place, other in enumerate(others):
        other.reshape(-1)[place] += 1
    others += [base[:, ::-1], base[..., ::-1]]  # not contiguous
    hashes = repeated.digests(np.concatenate([base, *others]))
    assert len(set(hashes)) == 15


def test_what_is_stored_says_which_images_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    train = rng.integers(256, size=(40, 1, 4, 4), dtype=np.uint8)
    seen, new = train[:3], rng.integers(256, size=(2, 1, 4, 4), dtype=np.uint8)
    test = np.concatenate([seen, new, seen, new[:1]])
    found = stored(tmp_path, train, test)
    assert found.same_as["test"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    of_training = [bool((found.images["train"] == image).all((1, 2, 3)).any()) for image in test]
    of_validation = [bool((found.images["validation"] == image).all((1, 2, 3)).any()) for image in test]
    assert found.in_train["test"].tolist() == of_training
    assert found.description.n_same == {
        "test_distinct": 5,
        "test_in_train": sum(of_training),
        "test_in_validation": sum(of_validation),
        "validation_in_train": 0,
        "test_near_train": 0,
    }
    assert sum(of_training) + sum(of_validation) == 6
    alone = stored(tmp_path, train, rng.integers(256, size=(9, 1, 4, 4), dtype=np.uint8))
    assert alone.same_as["test"].tolist() == list(range(9))
    assert labels.same_in_words(alone.description.n_same, alone.description.n_images) == []


@pytest.mark.parametrize("binarization", ["none", "threshold", "dynamic"])
def test_images_are_the_same_as_models_see_them_but_for_chance(tmp_path: Path, binarization: str) -> None:
    """Images that differ only in a dropped bit are equal, and so are two draws from one grey image."""
    train = np.random.default_rng(2).integers(256, size=(40, 1, 4, 4), dtype=np.uint8)
    grey = np.full((1, 1, 4, 4), 100, np.uint8)
    near, darker = grey + 1, grey - 30  # with 16 levels, 100 and 101 are equal; 70 differs, below the threshold too
    test = np.concatenate([grey, near, darker, grey, train])
    found = stored(tmp_path, train, test, bits=4, binarization=binarization)
    assert found.same_as["test"][:4].tolist() == ([0, 0, 0, 0] if binarization == "threshold" else [0, 0, 2, 0])
    if binarization == "dynamic":
        assert (found.images["test"][0] != found.images["test"][3]).any()
    assert found.description.n_same["test_in_train"] == found.description.n_images["train"]


def test_each_thing_that_is_the_same_is_said_once() -> None:
    n_images = {"train": 100, "validation": 20, "test": 1_000}
    nothing = dict(zip(labels.COUNTED, (1_000, 0, 0, 0), strict=True))
    words = {
        "test_distinct": "990 of the 1,000 test images are distinct",
        "test_in_train": "7 of the 1,000 test images are training images too",
        "test_in_validation": "7 of the 1,000 test images are validation images too",
        "validation_in_train": "7 of the 20 validation images are training images too",
    }
    for name, sentence in words.items():
        said = labels.same_in_words({**nothing, name: 990 if name == "test_distinct" else 7}, n_images)
        assert len(said) == 1
        assert said[0].startswith(sentence)
    assert len(labels.same_in_words(dict(zip(labels.COUNTED, (1, 2, 3, 4), strict=True)), n_images)) == 4


def test_treatments_that_give_the_same_images_have_one_tag(tmp_path: Path) -> None:
    """Other treatments have other tags: checked for every pair, with several numbers of levels, also odd ones."""
    for levels in (2, 3, 16, 17, 256):
        ramp = np.arange(levels, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, 0).repeat(2, 3)
        made = []
        for bits, binarization in itertools.product((None, 1, 2, 4, 7), ("none", "threshold")):
            if bits is not None and 2**bits > levels:
                continue
            section = DequantizeSection.model_validate({"bits": bits, "binarization": binarization})
            raw = RawImages({"train": ramp, "test": ramp}, {})
            tag = preparation.prepare(raw, DATASET, section, levels, tmp_path).protocol
            made.append((tag, load_prepared(tmp_path).images["test"].tobytes()))
        for (tag, images), (other_tag, other_images) in itertools.combinations(made, 2):
            assert (tag == other_tag) == (images == other_images), (levels, tag, other_tag)
        assert len({tag for tag, _ in made}) > 1 or levels == 2


def test_the_labels_are_part_of_the_tag_of_a_model_that_is_given_them(tmp_path: Path) -> None:
    images = np.random.default_rng(3).integers(256, size=(40, 1, 4, 4), dtype=np.uint8)
    section = DequantizeSection.model_validate({"bits": None, "binarization": "none"})
    tags = []
    for given in (np.arange(40) % 4, np.arange(40) % 4, np.arange(40) // 10, np.arange(40) % 5):
        raw = RawImages({"train": images, "test": images}, {"train": given, "test": given})
        described = preparation.prepare(raw, DATASET, section, 256, tmp_path)
        assert described.protocol == "npz/none/4x4x1/L256/test40/given-none"
        tags.append(described.protocol_given_labels())
    assert tags[0] == tags[1]
    assert len(set(tags)) == 3
    stem = "npz/none/4x4x1/L256/test40/given-label"
    assert [tag.removeprefix(stem).split("-")[0] for tag in tags] == ["4", "4", "4", "5"]
    assert all(len(tag.rsplit("-", 1)[1]) == 8 for tag in tags)


def test_the_labels_of_other_splits_are_no_part_of_the_tag(tmp_path: Path) -> None:
    """The tag names only what was evaluated: the same test images with the same labels, for any training."""
    images = np.random.default_rng(3).integers(256, size=(40, 1, 4, 4), dtype=np.uint8)
    section = DequantizeSection.model_validate({"bits": None, "binarization": "none"})
    tags = []
    for of_training in (np.arange(40) % 4, np.arange(40) % 7, np.arange(40) // 4):
        labels = {"train": of_training, "test": np.arange(40) % 3}
        described = preparation.prepare(
            RawImages({"train": images, "test": images}, labels), DATASET, section, 256, tmp_path
        )
        assert described.n_test_classes == 3
        tags.append(described.protocol_given_labels())
    assert len(set(tags)) == 1
