"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28x28, 256 levels, ten classes.

MNIST: LeCun, Cortes and Burges. Fashion-MNIST: Xiao, Rasul and Vollgraf 2017. Each data set consists of four gzipped
files in the IDX format; addresses and checksums are those of torchvision.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.sources.base import RawImages, Source, gunzipped, unpacked_name
from bitsperdim.sources.fetch import RemoteFile, fetch

FILES = {
    ("train", "images"): "train-images-idx3-ubyte.gz",
    ("train", "labels"): "train-labels-idx1-ubyte.gz",
    ("test", "images"): "t10k-images-idx3-ubyte.gz",
    ("test", "labels"): "t10k-labels-idx1-ubyte.gz",
}
SIZES = {
    "mnist": (9_912_422, 28_881, 1_648_877, 4_542),
    "fashion-mnist": (26_421_880, 29_515, 4_422_102, 5_148),
}
UNPACKED_SIZES = (16 + 60_000 * 28 * 28, 8 + 60_000, 16 + 10_000 * 28 * 28, 8 + 10_000)
UNPACKED_SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
N_MOST_BYTES = max(UNPACKED_SIZES)
DTYPE_UINT8 = 8  # the third byte of an IDX file


class Idx(Source):
    """A data set of four IDX files.

    Args:
        folder: name of the folder of the data set on a mirror.
        torchvision_class: name of the class in torchvision that holds addresses and checksums.
    """

    n_levels = 256
    image_shape = (1, 28, 28)
    n_classes = 10

    def __init__(self, folder: str, torchvision_class: str) -> None:
        """Store the names of the data set."""
        self.folder, self.torchvision_class = folder, torchvision_class

    def download(self, folder: Path, path: str) -> None:
        """Fetch and verify the four files, gzipped or unpacked."""
        for file, unpacked in self.files():
            fetch(self.folder, file, folder, unpacked)

    def files(self) -> list[tuple[RemoteFile, RemoteFile]]:
        """Return the four published files, each with its unpacked content."""
        from torchvision import datasets  # imported here because the import takes two seconds

        known = {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST}[self.torchvision_class]
        md5s = dict(known.resources)
        found = []
        for name, size, unpacked_size, sha256 in zip(
            FILES.values(), SIZES[self.folder], UNPACKED_SIZES, UNPACKED_SHA256[self.folder], strict=True
        ):
            addresses = tuple(f"{mirror}{name}" for mirror in known.mirrors)
            file = RemoteFile(name, size, f"md5:{md5s[name]}", addresses)
            found.append((file, RemoteFile(unpacked_name(name), unpacked_size, f"sha256:{sha256}")))
        return found

    def read(self, folder: Path) -> RawImages:
        """Read images and labels."""
        arrays = {part: read_idx(folder / name) for part, name in FILES.items()}
        return RawImages(
            images={split: arrays[split, "images"][:, None] for split in ("train", "test")},
            labels={split: arrays[split, "labels"].astype(np.int64) for split in ("train", "test")},
        )


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes, or the unpacked file if only that exists.

    The format: two zeros, the type, the number of axes, their lengths, the values.

    Raises:
        InputError: the file is not such an IDX file.
    """
    content = gunzipped(path, N_MOST_BYTES)
    n_axes = content[3] if len(content) > 3 else 0
    header = 4 + 4 * n_axes
    shape = tuple(int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(n_axes))
    is_idx = content[:3] == bytes([0, 0, DTYPE_UINT8]) and n_axes in (1, 3)
    if not is_idx or len(content) != header + math.prod(shape):
        raise InputError(f"{path} is not an IDX file of bytes; remove it and run 'download' again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
