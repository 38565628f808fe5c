"""Statically binarized MNIST: 50,000 / 10,000 / 10,000 images of 28x28, binarized once by their publishers.

Larochelle and Murray 2011, after Salakhutdinov and Murray 2008. The files are texts of zeros and ones with one image
per line, as published or gzipped. The protocol tag says ``static``: results on these images are not comparable with
results on images that are binarized again at each presentation, which models overfit less.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.sources.base import RawImages, Source, gunzipped
from bitsperdim.sources.fetch import RemoteFile, fetch

SIDE = 28
N_IMAGES = {"train": 50_000, "validation": 10_000, "test": 10_000}
ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"


def _text(name: str, n_images: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, n_images * SIDE * SIDE * 2, f"sha256:{sha256}", (ADDRESS + name,))


GZIPPED = {
    "train": RemoteFile(
        "binarized_mnist_train.amat.gz",
        2_196_952,
        "sha256:af247bd6075cf9adc4715459dcd5f13eaa99a2c92d8d81379a05da94770b6c0e",
    ),
    "validation": RemoteFile(
        "binarized_mnist_valid.amat.gz",
        439_620,
        "sha256:533b71bc0198f4d73c54ae5fe6c96fc08dc3cf1b3fae24c5521dbc0452507e38",
    ),
    "test": RemoteFile(
        "binarized_mnist_test.amat.gz",
        416_802,
        "sha256:32a3c54d03504632bf9f131b4a148c7567aa6fc87da017049b044bdc14c2a0f2",
    ),
}
PLAIN = {
    "train": _text(
        "binarized_mnist_train.amat", 50_000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
    ),
    "validation": _text(
        "binarized_mnist_valid.amat", 10_000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
    ),
    "test": _text(
        "binarized_mnist_test.amat", 10_000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"
    ),
}


class BinarizedMnist(Source):
    """The static files, with their own validation and test sets."""

    n_levels = 2
    is_static = True
    image_shape = (1, 28, 28)
    n_classes = 0

    def download(self, folder: Path, path: str) -> None:
        """Fetch and verify the three files, gzipped or as published."""
        for split in N_IMAGES:
            fetch("binarized-mnist", GZIPPED[split], folder, PLAIN[split])

    def read(self, folder: Path) -> RawImages:
        """Read the zeros and ones."""
        return RawImages(images={split: self._read(folder, split) for split in N_IMAGES}, labels={})

    def _read(self, folder: Path, split: str) -> np.ndarray:
        n_images = N_IMAGES[split]
        content = gunzipped(folder / GZIPPED[split].name, 2 * n_images * SIDE * SIDE)
        characters = np.frombuffer(content, np.uint8)[::2]  # every second character is a blank or a line end
        if len(characters) != n_images * SIDE * SIDE or not np.isin(characters, (ord("0"), ord("1"))).all():
            raise InputError(f"{folder} does not hold {n_images:,} lines of {SIDE * SIDE} zeros and ones for {split}.")
        return (characters - ord("0")).reshape(n_images, 1, SIDE, SIDE)
