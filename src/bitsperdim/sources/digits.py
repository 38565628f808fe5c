"""The 1,797 handwritten digits that are part of scikit-learn: 8x8, grey, 17 levels, no network needed.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak, 1998); each value is the number of black pixels in a 4x4 block. There is no official split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import reading, sha256, write_npz
from bitsperdim.sources.base import RawImages, Source

SHA256 = "f1922fb3e7033c6060bc65fb641c371c2ce593874bad425572ed8539545328e6"


class Digits(Source):
    """The digits of scikit-learn."""

    n_levels = 17
    image_shape = (1, 8, 8)
    n_classes = 10

    def download(self, folder: Path, path: str) -> None:
        """Write ``digits.npz`` from the installed scikit-learn and verify the pixels."""
        from sklearn.datasets import load_digits  # imported here because the import takes half a second

        digits = load_digits()
        images = digits.images.astype(np.uint8)[:, None]  # (N, 1, H, W)
        if sha256(images) != SHA256:
            raise InputError("The digits of the installed scikit-learn are not the known 1,797 images; reinstall it.")
        write_npz(folder / "digits.npz", {"images": images, "labels": digits.target.astype(np.int64)})

    def read(self, folder: Path) -> RawImages:
        """Read ``digits.npz``."""
        path = folder / "digits.npz"
        with reading(path, "download"), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return RawImages(images={"train": file["images"]}, labels={"train": file["labels"]})
