"""Test images that are among the training images of a model."""

from pathlib import Path

import numpy as np
import pytest

from bitsperdim.config.params import model_section
from bitsperdim.core.errors import InputError
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.evaluation.training_images import read_training_images, seen

TEST = np.random.default_rng(0).integers(4, size=(5, 3, 2, 3), dtype=np.uint8)
TEST[0, 0, 0] = [0, 3, 3]


def prepared() -> PreparedImages:
    description = Description((3, 2, 3), 4, 4, "none", {"test": 5}, "-", "-")
    ours = np.array([True, False, False, False, False])
    near = np.array([-1, 7, -1, -1, -1])
    return PreparedImages(description, {"test": TEST}, in_train={"test": ours}, near_train={"test": near})


def test_exact_copies_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are found in any layout and type; the training split counts if the model is trained here or names none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "external").mkdir()
    own = np.concatenate([TEST[[3]], 3 - TEST[[4]]])
    for arrays in (
        {"train": own, "other": TEST},
        {"only": own.transpose(0, 2, 3, 1).astype(np.int64)},
        {"only": np.asfortranarray(own)},
    ):
        np.savez(tmp_path / "external" / "t.npz", **arrays)  # type: ignore[arg-type]
        for fit, expected in ((False, [3]), (True, [0, 3])):
            section = {"family": "external", "file": "external/m.py", "train_images": "external/t.npz", "fit": fit}
            found, near = seen(model_section("mine", section), prepared())
            assert found.nonzero()[0].tolist() == expected
            assert near.nonzero()[0].tolist() == ([1] if fit else [])
    for section in ({"family": "external", "file": "external/m.py"}, {"family": "vae"}):
        found, near = seen(model_section("mine", section), prepared())
        assert (found.nonzero()[0].tolist(), near.nonzero()[0].tolist()) == ([0], [1])


def test_near_copies_in_the_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "external").mkdir()
    rng = np.random.default_rng(1)
    test, others = (rng.integers(256, size=(n, 1, 8, 8), dtype=np.uint8) for n in (5, 30))
    np.savez(tmp_path / "external" / "t.npz", np.concatenate([others, test[[2]] // 2 + 40, test[[4]]]))
    description = Description((1, 8, 8), 256, 256, "none", {"test": 5}, "-", "-")
    ours, near = np.zeros(5, dtype=bool), np.full(5, -1)
    data = PreparedImages(description, {"test": test}, in_train={"test": ours}, near_train={"test": near})
    section = {"family": "external", "file": "external/m.py", "train_images": "external/t.npz"}
    found, near = seen(model_section("mine", section), data)
    assert (found.nonzero()[0].tolist(), near.nonzero()[0].tolist()) == ([4], [2])


def test_what_is_no_array_of_such_images_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with pytest.raises(InputError, match="the train_images of a model, does not exist"):
        read_training_images(path, (3, 2, 3), 4)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"is not a readable \.npz file with an array of images"):
        read_training_images(path, (3, 2, 3), 4)
    for arrays, words in (
        ({"a": TEST, "b": TEST}, "has no array 'train', but a, b; it must have one, or hold a single array"),
        ({"a": TEST / 4}, "must be integers"),
        ({"a": TEST[:, :2]}, r"training images must be integers of the shape \(N, 2, 3\) or \(N, 2, 3, 3\), like"),
        ({"a": TEST[:, 0]}, "has no channels; the test images have 3"),
        ({"a": TEST * 2}, "has values from 0 to 6; they must be levels from 0 to 3"),
    ):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=words):
            read_training_images(path, (3, 2, 3), 4)
