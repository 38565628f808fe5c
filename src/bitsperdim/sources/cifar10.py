"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 in colour, 256 levels, ten classes.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". The published archive is read through
torchvision. A mirror may hold the images as lossless PNG columns instead. Its test column has 9,980 images, because 20
images were not available without loss. The protocol tag then says ``test9980``; state this number in any comparison
with published results.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_npy, reading, write_bytes
from bitsperdim.sources.base import RawImages, Source
from bitsperdim.sources.fetch import MissingError, RemoteFile, fetch, own_folder

MIRROR_FOLDER = "cifar-10"
BATCHES = "cifar-10-batches-py"  # the folder that torchvision reads
SIDE = 32
ARCHIVE = RemoteFile(
    "cifar-10-python.tar.gz",
    170_498_071,
    "md5:c58f30108f718f92721af3b95e74349a",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
TRAIN_COLUMNS = tuple(
    RemoteFile(f"data_batch_{number}.png", size, f"sha256:{sha256}")
    for number, size, sha256 in (
        (1, 21_557_187, "2cdf20e2f3e673c8dd572e901666b67113a2a4fdb533c5f7d4939a652d11ed6c"),
        (2, 21_582_961, "b093f836ffd9f138141ec4b40e2c3e63b057ea9d96a6f58698476faf019e0bc7"),
        (3, 21_593_190, "50e7724125dcf8b612762f98fea5ab11c76eb2d195255167da11aa89de50681c"),
        (4, 21_568_522, "b7534bd062b4d63ee6a445167d789c2119210203669c54141e5d0b8841f6da46"),
        (5, 21_534_095, "95b75f6740ac87ab4be6b5088b0970f64b90fe7a330e06ee1640f9aa4a02346d"),
    )
)
TEST_COLUMN = RemoteFile(
    "test_batch_9980.png", 21_526_773, "sha256:45471ce3ef051973f263f7d47b4245811b4ea76fc152fb1d877b57087ec0870f"
)
TRAIN_LABELS = RemoteFile(
    "train_labels.npy", 50_128, "sha256:fad921ba16b0efeebb54393d1351545d1fe1a357f6f81324c821e3e11b956c70"
)
TEST_LABELS = RemoteFile(
    "test_labels_9980.npy", 10_108, "sha256:430f66a1830ddb0b045af1d972f876961c9475662dbc13c5b320f1c5bcb33c55"
)


class Cifar10(Source):
    """The published archive, or PNG columns of a mirror."""

    n_levels = 256
    image_shape = (3, 32, 32)
    n_classes = 10

    def download(self, folder: Path, path: str) -> None:
        """Fetch, verify and unpack the archive; if the user or a mirror has only the columns, fetch the columns."""
        own = own_folder(folder)
        has_columns = any(os.path.lexists(own / file.name) for file in columns())  # dangling links count too
        if has_columns and os.path.lexists(own / ARCHIVE.name):
            raise InputError(f"{own} holds {ARCHIVE.name} and PNG columns; leave only one of the two there.")
        if has_columns:
            self._fetch_columns(folder)
            return
        try:
            archive = fetch(MIRROR_FOLDER, ARCHIVE, folder)
        except MissingError as missing:
            try:
                self._fetch_columns(folder)
            except MissingError as error:
                raise InputError(f"{missing} {error}") from error
            return
        with reading(archive, "download"), tarfile.open(archive) as content:
            for member in content:
                batch = content.extractfile(member)
                if batch is not None:  # only the last part of the name is used, so that no file leaves the folder
                    write_bytes(folder / BATCHES / Path(member.name).name, batch.read())

    def _fetch_columns(self, folder: Path) -> None:
        for file in columns():
            fetch(MIRROR_FOLDER, file, folder)

    def read(self, folder: Path) -> RawImages:
        """Read images and labels."""
        if (folder / TEST_COLUMN.name).exists():
            return self._read_columns(folder)
        from torchvision.datasets import CIFAR10  # imported here because the import takes two seconds

        images, labels = {}, {}
        for split in ("train", "test"):
            with reading(folder / ARCHIVE.name, "download"):  # torchvision checks the md5 before it unpickles
                dataset = CIFAR10(str(folder), train=split == "train")
            images[split] = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
            labels[split] = np.asarray(dataset.targets, dtype=np.int64)
        return RawImages(images, labels)

    def _read_columns(self, folder: Path) -> RawImages:
        train = [read_column(folder / file.name) for file in TRAIN_COLUMNS]
        labels = {}
        for split, file in (("train", TRAIN_LABELS), ("test", TEST_LABELS)):
            with reading(folder / file.name, "download"):
                labels[split] = read_npy(folder / file.name).astype(np.int64)
        images = {"train": np.concatenate(train), "test": read_column(folder / TEST_COLUMN.name)}
        return RawImages(images, labels)


def columns() -> tuple[RemoteFile, ...]:
    """Return the files of a mirror that holds the images as PNG columns."""
    return (*TRAIN_COLUMNS, TEST_COLUMN, TRAIN_LABELS, TEST_LABELS)


def read_column(path: Path) -> np.ndarray:
    """Read a PNG with 32x32 images one below the other, (N, 3, 32, 32) uint8."""
    with reading(path, "download"):
        with Image.open(path) as picture:
            column = np.asarray(picture.convert("RGB"))
        return np.ascontiguousarray(column.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2))
