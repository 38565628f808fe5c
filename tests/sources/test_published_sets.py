"""The readers of published files, with small files of the same formats; no test needs a network."""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitsperdim.core.errors import InputError
from bitsperdim.sources import SOURCES, binarized_mnist, cifar10, idx
from bitsperdim.sources.fetch import RemoteFile


def published(folder: Path, name: str, content: bytes) -> RemoteFile:
    """Put a file on the mirror and describe it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return RemoteFile(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITSPERDIM_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def idx_file(array: np.ndarray) -> bytes:
    shape = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes(), mtime=0)


def test_idx_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        ("train", "images"): rng.integers(256, size=(7, 5, 4), dtype=np.uint8),
        ("train", "labels"): rng.integers(10, size=7, dtype=np.uint8),
        ("test", "images"): rng.integers(256, size=(3, 5, 4), dtype=np.uint8),
        ("test", "labels"): rng.integers(10, size=3, dtype=np.uint8),
    }
    for part, array in arrays.items():
        (tmp_path / idx.FILES[part]).write_bytes(idx_file(array))
    for name in ("mnist", "fashion_mnist"):
        raw = SOURCES[name].read(tmp_path)
        for split in ("train", "test"):
            assert np.array_equal(raw.images[split][:, 0], arrays[split, "images"])
            assert np.array_equal(raw.labels[split], arrays[split, "labels"])
            assert raw.labels[split].dtype == np.int64


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"not gzip", lambda c: gzip.compress(b"\0\0\x08\x03")])
def test_a_damaged_idx_file_is_one_sentence(damage, tmp_path: Path) -> None:  # noqa: ANN001 - a function of bytes
    path = tmp_path / "x.gz"
    path.write_bytes(damage(idx_file(np.zeros((2, 3, 3), np.uint8))))
    with pytest.raises(InputError, match="remove it and run 'download' again"):
        idx.read_idx(path)


def test_an_unpacked_idx_file_is_read_too(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x").write_bytes(gzip.decompress(idx_file(array)))
    assert np.array_equal(idx.read_idx(tmp_path / "x.gz"), array)
    (tmp_path / "x.gz").write_bytes(idx_file(array + 1))  # if both files exist, the gzipped one is read
    assert np.array_equal(idx.read_idx(tmp_path / "x.gz"), array + 1)


def test_each_idx_file_has_its_content_beside_it() -> None:
    for name in ("mnist", "fashion_mnist"):
        files = SOURCES[name].files()
        assert [file.name for file, _ in files] == [f"{unpacked.name}.gz" for _, unpacked in files]
        assert [unpacked.size for _, unpacked in files] == [47_040_016, 60_008, 7_840_016, 10_008]
        assert len({checksum for pair in files for checksum in (pair[0].checksum, pair[1].checksum)}) == 8
        assert all(len(unpacked.checksum) == len("sha256:") + 64 for _, unpacked in files)


def test_torchvision_knows_the_files(mirror: Path, tmp_path: Path) -> None:
    """Names and checksums of all eight files are found; the mirror is empty, so the first is missing."""
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz does not exist"):
            SOURCES[name].download(tmp_path / "raw", "unused")


@pytest.mark.parametrize("gzipped", [True, False])
def test_static_mnist_is_read_gzipped_or_plain(
    gzipped: bool, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"train": 5, "validation": 3, "test": 2}
    monkeypatch.setattr(binarized_mnist, "N_IMAGES", sizes)
    expected, files = {}, {}
    for split, n_images in sizes.items():
        expected[split] = np.random.default_rng(n_images).integers(2, size=(n_images, 784), dtype=np.uint8)
        text = "".join(" ".join(map(str, row)) + " \n"[1:] for row in expected[split]).encode()
        stem = binarized_mnist.PLAIN[split].name
        name, content = (f"{stem}.gz", gzip.compress(text, mtime=0)) if gzipped else (stem, text)
        files[split] = published(mirror / "binarized-mnist", name, content)
    monkeypatch.setattr(binarized_mnist, "GZIPPED" if gzipped else "PLAIN", files)
    source = SOURCES["binarized_mnist"]
    source.download(tmp_path / "raw", "unused")
    raw = source.read(tmp_path / "raw")
    assert raw.images.keys() == sizes.keys()
    for split, images in expected.items():
        assert np.array_equal(raw.images[split].reshape(-1, 784), images)
    path = next((tmp_path / "raw").glob("*test*"))
    path.write_bytes(gzip.compress(b"0 2\n") if gzipped else b"0 2\n")
    with pytest.raises(InputError, match="does not hold 2 lines of 784 zeros and ones for test"):
        source.read(tmp_path / "raw")


def test_the_columns_of_a_mirror_are_cifar_in_order(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def column(images: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(images.reshape(-1, 32, 3)).save(buffer, "PNG")
        return buffer.getvalue()

    def npy(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    train = rng.integers(256, size=(6, 32, 32, 3), dtype=np.uint8)
    test = rng.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    folder = mirror / "cifar-10"
    columns = tuple(published(folder, f"data_batch_{i}.png", column(train[3 * i : 3 * i + 3])) for i in range(2))
    monkeypatch.setattr(cifar10, "TRAIN_COLUMNS", columns)
    monkeypatch.setattr(cifar10, "TEST_COLUMN", published(folder, "test_batch_9980.png", column(test)))
    monkeypatch.setattr(cifar10, "TRAIN_LABELS", published(folder, "a.npy", npy(np.arange(6, dtype=np.uint8))))
    monkeypatch.setattr(cifar10, "TEST_LABELS", published(folder, "b.npy", npy(np.array([9, 8], dtype=np.uint8))))
    source = SOURCES["cifar10"]
    source.download(tmp_path / "raw", "unused")
    raw = source.read(tmp_path / "raw")
    assert np.array_equal(raw.images["train"], train.transpose(0, 3, 1, 2))
    assert np.array_equal(raw.images["test"], test.transpose(0, 3, 1, 2))
    assert raw.labels["train"].tolist() == list(range(6))
    assert raw.labels["test"].tolist() == [9, 8]
    own = tmp_path / "repository" / "data" / "raw" / "cifar10"
    shutil.copytree(folder, own)
    monkeypatch.setenv("BITSPERDIM_REPOSITORY", str(tmp_path / "repository"))
    monkeypatch.setenv("BITSPERDIM_MIRROR", "nowhere")  # the archive would be fetched from there
    source.download(tmp_path / "cifar10", "unused")
    assert np.array_equal(source.read(tmp_path / "cifar10").images["train"], raw.images["train"])
    monkeypatch.delenv("BITSPERDIM_REPOSITORY")
    monkeypatch.setenv("BITSPERDIM_MIRROR", str(mirror))
    (folder / "b.npy").unlink()
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz does not exist.* .*b\.npy does not exist"):
        source.download(tmp_path / "again", "unused")


def test_the_archive_is_read_through_torchvision(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive of the same layout; torchvision's md5s are set to those of its files."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    files, arrays = {}, {}
    for name in ("data_batch_1", "test_batch"):
        arrays[name] = rng.integers(256, size=(4, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": arrays[name], "labels": [3, 1, 4, 1]})
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    archive_file = published(mirror / "cifar-10", cifar10.ARCHIVE.name, buffer.getvalue())
    monkeypatch.setattr(cifar10, "ARCHIVE", archive_file)
    source = SOURCES["cifar10"]
    source.download(tmp_path / "raw", "unused")
    raw = source.read(tmp_path / "raw")
    assert np.array_equal(raw.images["train"].reshape(4, 3072), arrays["data_batch_1"])
    assert np.array_equal(raw.images["test"].reshape(4, 3072), arrays["test_batch"])
    assert raw.labels["test"].tolist() == [3, 1, 4, 1]
    unpacked = tmp_path / "raw" / "cifar-10-batches-py" / "test_batch"
    unpacked.write_bytes(unpacked.read_bytes()[:-1] + b"!")  # never unpickled, because the md5 differs
    with pytest.raises(InputError, match="run the stage 'download' again"):
        source.read(tmp_path / "raw")
