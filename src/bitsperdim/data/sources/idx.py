"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28x28, 256 levels, ten classes.

MNIST: LeCun, Cortes and Burges. Fashion-MNIST: Xiao, Rasul and Vollgraf 2017. Both are four gzipped
files in the IDX format, at the addresses and with the checksums that torchvision knows.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from bitsperdim.data.fetch import RemoteFile, fetch
from bitsperdim.data.sources.base import RawImages, Source, gunzipped
from bitsperdim.errors import InputError

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
N_MOST_BYTES = 16 + 60_000 * 28 * 28  # of a file, unzipped
DTYPE_UINT8 = 8  # the third byte of an IDX file


class Idx(Source):
    """Four IDX files.

    Args:
        folder: of the data set on a mirror.
        torchvision_class: the name of torchvision's class, which knows addresses and checksums.
    """

    n_levels = 256
    image_shape = (1, 28, 28)
    n_classes = 10

    def __init__(self, folder: str, torchvision_class: str) -> None:
        """Remember which data set it is."""
        self.folder, self.torchvision_class = folder, torchvision_class

    def download(self, folder: Path, path: str) -> None:
        """Fetch and verify the four files."""
        from torchvision import datasets  # imported here: two seconds

        known = {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST}[self.torchvision_class]
        checksums = dict(known.resources)
        for name, size in zip(FILES.values(), SIZES[self.folder], strict=True):
            addresses = tuple(f"{mirror}{name}" for mirror in known.mirrors)
            fetch(self.folder, RemoteFile(name, size, f"md5:{checksums[name]}", addresses), folder)

    def read(self, folder: Path) -> RawImages:
        """Read images and labels."""
        arrays = {part: read_idx(folder / name) for part, name in FILES.items()}
        return RawImages(
            images={split: arrays[split, "images"][:, None] for split in ("train", "test")},
            labels={split: arrays[split, "labels"].astype(np.int64) for split in ("train", "test")},
        )


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes: two zeros, a type, the number of axes, their lengths, the values.

    Raises:
        InputError: it is not such a file.
    """
    content = gunzipped(path, N_MOST_BYTES)
    n_axes = content[3] if len(content) > 3 else 0
    header = 4 + 4 * n_axes
    shape = tuple(int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(n_axes))
    is_idx = content[:3] == bytes([0, 0, DTYPE_UINT8]) and n_axes in (1, 3)
    if not is_idx or len(content) != header + math.prod(shape):
        raise InputError(f"{path} is not an IDX file of bytes; remove it and run 'download' again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
