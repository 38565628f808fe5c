"""The embedded digits and the user's own arrays: accepted, or refused in one sentence."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.sources import SOURCES
from bitsperdim.sources.npz import verify_npz


def test_the_digits_are_the_known_ones(tmp_path: Path) -> None:
    SOURCES["digits"].download(tmp_path, "unused")
    raw = SOURCES["digits"].read(tmp_path)
    images = raw.images["train"]
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == np.uint8
    assert (images.min(), images.max() + 1) == (0, SOURCES["digits"].n_levels)
    assert np.bincount(raw.labels["train"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"npz"}))  # npz needs a file
def test_what_dvc_cannot_watch_is_refused_whatever_the_data_set(name: str, tmp_path: Path) -> None:
    """DVC hashes ``dataset.path`` for all sources; it fails at a name in Latin-1, and waits for ever at a pipe."""
    own = tmp_path / "my pictures"
    (own / "inner").mkdir(parents=True)
    old, new = os.fsdecode(os.fsencode(own) + b"/inner/M\xfcnchen, it's.csv"), own / "inner" / "München, it's.csv"
    Path(old).write_text("a,b")
    with pytest.raises(
        InputError, match=r"M\\udcfcnchen, it's\.csv, a name that is not UTF-8 text.*; rename it"
    ) as caught:
        SOURCES[name].check(str(own))
    subprocess.run(["sh", "-c", str(caught.value).partition("for example by: ")[2]], check=True)
    assert [path.name for path in (own / "inner").iterdir()] == [new.name]
    os.mkfifo(own / "inner" / "pipe")
    with pytest.raises(InputError, match=r"inner/pipe, which is neither a file nor a folder; remove it"):
        SOURCES[name].check(str(own))


def test_other_digits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsperdim.sources.digits.SHA256", "0" * 64)
    with pytest.raises(InputError, match="not the known 1,797 images"):
        SOURCES["digits"].download(tmp_path, "unused")
    assert not list(tmp_path.iterdir())


def grey(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(n).integers(256, size=(n, *shape), dtype=np.uint8)


def test_own_images_come_back_channels_first(tmp_path: Path) -> None:
    train, test = grey(12, 4, 5, 3), grey(6, 4, 5, 3)
    np.savez(tmp_path / "own.npz", train=train, test=test, train_labels=np.arange(12), test_labels=np.arange(6))
    SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))
    raw = SOURCES["npz"].read(tmp_path / "raw")
    assert raw.images.keys() == {"train", "test"}
    assert raw.images["train"].shape == (12, 3, 4, 5)
    assert np.array_equal(raw.images["train"][:], train.transpose(0, 3, 1, 2))
    assert np.array_equal(raw.images["test"][np.array([4, 1])], test[[4, 1]].transpose(0, 3, 1, 2))
    assert raw.labels["test"].tolist() == list(range(6))


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    train = grey(5, 2, 3)
    np.savez(tmp_path / "own.npz", train=train)
    SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))
    assert np.array_equal(SOURCES["npz"].read(tmp_path / "raw").images["train"][:][:, 0], train)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_read_in_parts_in_either_order(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have 18 values, 40 values are read at a time; Fortran order and other label types give the same result."""
    monkeypatch.setattr("bitsperdim.sources.npz.CHUNK_VALUES", 40)
    train, test = grey(13, 3, 2, 3), np.asfortranarray(grey(6, 3, 2, 3))
    labels = {"train_labels": np.arange(13, dtype=np.int16), "test_labels": np.arange(6, dtype=np.uint8)}
    save(tmp_path / "own.npz", train=train, test=test, **labels)
    SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))
    raw = SOURCES["npz"].read(tmp_path / "raw")
    for split, array in (("train", train), ("test", test)):
        assert np.array_equal(raw.images[split][:], array.transpose(0, 3, 1, 2))
        assert raw.labels[split].tolist() == list(range(len(array)))
        assert raw.labels[split].dtype == np.int64


def test_nothing_of_an_earlier_file_stays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=grey(5, 2, 3), test=grey(4, 2, 3), train_labels=[0] * 5, test_labels=[0] * 4)
    np.savez(tmp_path / "b.npz", train=grey(6, 2, 3))
    for name in ("a", "b"):
        SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / f"{name}.npz"))
    raw = SOURCES["npz"].read(tmp_path / "raw")
    assert raw.images.keys() == {"train"}
    assert not raw.labels


BAD_ARRAYS = {
    "float images": ({"train": np.zeros((2, 3, 3))}, "'train' has type float64; images must be uint8"),
    "no train": ({"test": grey(2, 3, 3)}, "'train' is missing; the file has test"),
    "unknown array": ({"train": grey(2, 3, 3), "extra": grey(2, 3, 3)}, "'extra' is not allowed; allowed are train"),
    "vectors": ({"train": grey(2, 9)}, "has shape \\(2, 9\\); images are"),
    "channels first": ({"train": grey(2, 3, 32, 32)}, "1 to 4 channels last"),
    "no images": ({"train": grey(0, 3, 3)}, "at least one image"),
    "two shapes": ({"train": grey(2, 3, 3), "test": grey(2, 3, 4)}, "all images must have the same shape"),
    "short labels": ({"train": grey(2, 3, 3), "train_labels": np.arange(3)}, "labels are integers of shape \\(2,\\)"),
    "float labels": ({"train": grey(2, 3, 3), "train_labels": np.zeros(2)}, "labels are integers"),
    "some labels": (
        {"train": grey(2, 3, 3), "test": grey(2, 3, 3), "train_labels": np.arange(2)},
        "add test_labels or leave all labels out",
    ),
    "labels without images": (
        {"train": grey(2, 3, 3), "train_labels": np.arange(2), "test_labels": np.arange(2)},
        "there are labels 'test_labels', but no images 'test'",
    ),
    "objects": ({"train": np.array([{"a": 1}, None], dtype=object)}, "not a readable .npz file"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_get_a_sentence_and_leave_nothing(name: str, tmp_path: Path) -> None:
    arrays, sentence = BAD_ARRAYS[name]
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_npz_gets_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match="not a readable"):
        SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))


def test_a_truncated_npz_and_a_plain_npy_get_a_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", train=grey(50, 8, 8))
    whole = (tmp_path / "own.npz").read_bytes()
    (tmp_path / "own.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable"):
        SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "own.npz"))
    with (tmp_path / "plain.npz").open("wb") as file:
        np.save(file, grey(3, 2, 2))
    with pytest.raises(InputError, match="holds a single array"):
        SOURCES["npz"].download(tmp_path / "raw", str(tmp_path / "plain.npz"))


def test_no_flipped_byte_gives_a_traceback(tmp_path: Path) -> None:
    """Each byte of a small file is changed in turn; the file is read, or refused in one line."""
    np.savez(tmp_path / "own.npz", train=grey(2, 2, 2))
    whole = (tmp_path / "own.npz").read_bytes()
    refused = []
    for place in range(len(whole)):
        (tmp_path / "own.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            verify_npz(tmp_path / "own.npz")
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) / 2
    assert not any("\n" in sentence for sentence in refused)


def test_a_missing_file_is_found_before_any_work() -> None:
    with pytest.raises(InputError, match=r"dataset\.path = 'nowhere\.npz' is not a file"):
        SOURCES["npz"].check("nowhere.npz")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        SOURCES["npz"].check("x" * 5000)
