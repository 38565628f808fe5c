"""Reader of the images that the models see: it loads and checks the files that the stage ``dequantize`` stored.

Invariants (``tests/data/test_preparation.py``): reading returns what was written; a split that does not match the
description raises an error.
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
LABEL_DIGITS = 8  # hexadecimal digits of the hash of the labels in a protocol tag


@dataclass(frozen=True)
class Description:
    """Description of the prepared images, stored in ``description.json``.

    Attributes:
        image_shape: (C, H, W).
        n_levels: number of levels L that the models see.
        train_levels: L of the stored training images; it differs from ``n_levels`` only for ``dynamic``.
        binarization: ``none``, ``threshold``, ``dynamic`` or ``static``.
        n_images: number of images in each split.
        test_sha256: SHA-256 of the test images as they are evaluated.
        protocol: protocol tag for models that are not given labels; numbers with the same tag may be compared.
        train_sha256, validation_sha256: SHA-256 of the stored arrays.
        test_labels_sha256: SHA-256 of the labels of the test images; empty if there are no labels.
        n_test_classes: number of distinct labels of the test images.
        n_same: numbers of equal images within and between splits (:func:`.repeated.counted`), and of near copies
            (:mod:`.near`).
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
        """Return the tag for models that are given labels; it names the number of classes and a hash of the labels."""
        given = f"label{self.n_test_classes}-{self.test_labels_sha256[:LABEL_DIGITS]}"
        return f"{self.protocol.removesuffix('none')}{given}"


@dataclass(frozen=True)
class PreparedImages:
    """The images that the models see.

    Attributes:
        images: images of each split, (N, C, H, W) uint8.
        labels: class labels of each split, (N,) int64; empty if there are no labels.
        noise: dequantization noise for ``validation`` and ``test``, (N, C, H, W) float32 in [0, 1).
        same_as: for ``test``, the index of the first image that is equal, (N,) int64.
        in_train: for ``test``, whether an image is also a training image, (N,) bool.
        near_train: for ``test``, the index of the training image that it nearly copies, -1 if none, (N,) int64.
        log_p_true: for ``test``, the true log-probability in nats, (N,) float64; empty if it is not known.
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
    """Read the given splits of the images that :func:`bitsperdim.data.preparation.prepare` wrote.

    Raises:
        InputError: a file is missing or damaged, or a split does not match the description.
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
            raise InputError(
                f"{path} does not hold the {split} images that {folder}/description.json describes; run 'dequantize' "
                f"again."
            )
    return prepared
