"""The images that the models see, as ``dequantize`` stored them: read back and checked.

Invariants (``tests/data/test_preparation.py``): what was written comes back; a split that is not the described one is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json, read_npy, reading, sha256

SPLITS = ("train", "validation", "test")
ARRAYS = ("images", "labels", "noise", "same_as", "in_train", "near_train", "log_p_true")
LABEL_DIGITS = 8  # of their hash, in a tag


@dataclass(frozen=True)
class Description:
    """What the prepared images are.

    Attributes:
        image_shape: (C, H, W).
        n_levels: L as the models see it.
        train_levels: L of the stored training images; differs from ``n_levels`` only for ``dynamic``.
        binarization: ``none``, ``threshold``, ``dynamic`` or ``static``.
        n_images: the number of images of each split.
        test_sha256: of the test array as it is scored.
        protocol: the tag under which numbers may be compared, for models given no label.
        train_sha256, validation_sha256: of the stored arrays.
        test_labels_sha256: of the labels of the test images; empty where there are none.
        n_test_classes: how many distinct labels they have.
        n_same: what is the same within and between splits (:func:`.repeated.counted`), or nearly (:mod:`.near`).
    """

    image_shape: tuple[int, int, int]
    n_levels: int
    train_levels: int
    binarization: str
    n_images: dict[str, int]
    test_sha256: str
    protocol: str
    train_sha256: str = ""
    validation_sha256: str = ""
    test_labels_sha256: str = ""
    n_test_classes: int = 0
    n_same: dict[str, int] = field(default_factory=dict)

    def protocol_given_labels(self) -> str:
        """Return the tag for models given the label: how many classes the test images have, and a hash of which."""
        given = f"label{self.n_test_classes}-{self.test_labels_sha256[:LABEL_DIGITS]}"
        return f"{self.protocol.removesuffix('none')}{given}"


@dataclass(frozen=True)
class PreparedImages:
    """The images that the models see.

    Attributes:
        images: by split, (N, C, H, W) uint8.
        labels: by split, (N,) int64, or empty.
        noise: ``validation`` and ``test``, (N, C, H, W) float32 in [0, 1).
        same_as: ``test``, (N,) int64 the number of the first image that is equal.
        in_train: ``test``, (N,) bool, whether it is a training image too.
        near_train: ``test``, (N,) int64 the number of the training image that it nearly is; -1: of none.
        log_p_true: ``test``, (N,) float64 nats, the true log-probability; empty where it is not known.
    """

    description: Description
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    noise: dict[str, np.ndarray] = field(default_factory=dict)
    same_as: dict[str, np.ndarray] = field(default_factory=dict)
    in_train: dict[str, np.ndarray] = field(default_factory=dict)
    near_train: dict[str, np.ndarray] = field(default_factory=dict)
    log_p_true: dict[str, np.ndarray] = field(default_factory=dict)


def load_prepared(folder: Path, splits: tuple[str, ...] = SPLITS) -> PreparedImages:
    """Read what :func:`bitsperdim.data.preparation.prepare` wrote, ``splits`` only.

    Raises:
        InputError: there is nothing to read, it is damaged, or a split is not the described one.
    """
    path = folder / "description.json"
    with reading(path, "dequantize"):
        content: dict[str, Any] = read_json(path)
        content["image_shape"] = tuple(content["image_shape"])
        prepared = PreparedImages(Description(**content), images={})
    parts: dict[str, dict[str, np.ndarray]] = {name: getattr(prepared, name) for name in ARRAYS}
    needed_of = {"images": SPLITS, "noise": SPLITS[1:]}
    needed_of |= dict.fromkeys(("same_as", "in_train", "near_train"), SPLITS[2:])
    for split in splits:
        for name, arrays in parts.items():
            path = folder / split / f"{name}.npy"
            needed = split in needed_of.get(name, ())
            if needed or path.exists():
                with reading(path, "dequantize"):
                    arrays[split] = read_npy(path)
        if sha256(prepared.images[split]) != getattr(prepared.description, f"{split}_sha256"):
            path = folder / split / "images.npy"
            raise InputError(f"{path} is not the {split} set that {folder} describes; run 'dequantize' again.")
    return prepared
