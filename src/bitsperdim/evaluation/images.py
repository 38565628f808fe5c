"""The images that a model from elsewhere is scored on: a data set by name, or arrays of integers.

Invariants (``tests/evaluation/test_images.py``): a data set by name is what the pipeline prepares, with the same
protocol tag (``test_a_data_set_is_what_the_pipeline_prepares``); floating-point numbers are refused; a subset is
seeded, and its protocol says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitsperdim.config.params import STUDIES
from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import sha256
from bitsperdim.data import repeated
from bitsperdim.data.preparation import prepare
from bitsperdim.data.prepared import Description, PreparedImages, load_prepared
from bitsperdim.preflight.agreement import raw_levels, validated
from bitsperdim.sources import SOURCES

MAX_LEVELS = 65_536
HASH_DIGITS = 12
CACHE = "BITSPERDIM_CACHE"
ARRAYS = "images"  # begins the name of data that were given as an array
UNUSED = "unused"  # path of a data set that has none
# sections that have to be there, of which nothing is used here
REST: dict[str, Any] = {
    "models": ["histogram"],
    "histogram": {"family": "histogram"},
    "seeds": [0],
    **{name: {} for name in ("train", "evaluate", *STUDIES)},
}


@dataclass(frozen=True)
class Data:
    """Images of integers 0..L-1 and what they are.

    Attributes:
        prepared: as the pipeline has them; ``test`` are those that are scored.
    """

    prepared: PreparedImages

    @property
    def images(self) -> np.ndarray:
        """The images that are scored, (N, C, H, W)."""
        return self.prepared.images["test"]

    @property
    def labels(self) -> np.ndarray | None:
        """Of the images that are scored, (N,) int64; None where there are none."""
        return self.prepared.labels.get("test")

    @property
    def train(self) -> np.ndarray | None:
        """The training images, (N, C, H, W); None where only images to be scored were given."""
        return self.prepared.images.get("train")

    @property
    def validation(self) -> np.ndarray | None:
        """The validation images, likewise."""
        return self.prepared.images.get("validation")

    @property
    def n_levels(self) -> int:
        """L."""
        return self.prepared.description.n_levels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.prepared.description.image_shape

    @property
    def protocol(self) -> str:
        """The tag under which numbers may be compared."""
        return self.prepared.description.protocol

    def __repr__(self) -> str:
        """Say in one line what the images are."""
        channels, height, width = self.image_shape
        return (
            f"<{len(self.images):,} images to be scored of {height} x {width} x {channels}, {self.n_levels} levels; "
            f"protocol {self.protocol}>"
        )

    def subset(self, n_images: int, seed: int = 0) -> Data:
        """Return a random part of the images that are scored; the protocol says which part, so that it is not compared.

        Args:
            n_images: how many, from 1 to N.
            seed: of the choice.

        Raises:
            InputError: there are not so many.
        """
        n_all = len(self.images)
        if not 1 <= n_images <= n_all:
            raise InputError(f"subset = {n_images} is not allowed; it must be from 1 to {n_all}, the number of images.")
        if n_images == n_all:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(n_all)[:n_images])
        old = self.prepared
        images, description = old.images["test"][rows], old.description
        protocol = description.protocol.replace(f"/test{n_all}/", f"/test{n_images}of{n_all}-seed{seed}/")
        counts = {**description.n_images, "test": n_images}
        described = replace(description, n_images=counts, test_sha256=sha256(images), protocol=protocol)
        parts = {
            name: {**arrays, "test": arrays["test"][rows]} if "test" in arrays else dict(arrays)
            for name in ("labels", "noise", "in_train")
            for arrays in (getattr(old, name),)
        }
        same_as = {"test": repeated.first_equal(repeated.digests(images))}
        return Data(PreparedImages(described, {**old.images, "test": images}, same_as=same_as, **parts))


def load_data(
    name: str,
    *,
    n_levels: int | None = None,
    bits: int | None = None,
    binarization: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Data:
    """Return a data set as the pipeline prepares it; what is downloaded is verified, and kept for the next time.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``binarized_mnist``, ``cifar10``, or the path of a .npz file or
            of a folder of pictures.
        n_levels: of images of your own; None: 256.
        bits: 1 to 7, to quantize to 2^bits levels.
        binarization: ``none``, ``threshold`` or ``dynamic``; None: that of the data set.
        validation_fraction: of the training images, where there is no official validation set.
        test_fraction: of all images, where there is no official test set.
        seed: of splits and binarization.
        folder: where files are kept; by default that of ``BITSPERDIM_CACHE``, or ``~/.cache/bitsperdim``.

    Raises:
        InputError: there is no such data set, it cannot be had, or an argument does not fit it.
    """
    path = Path(name)
    known = name if name in SOURCES else "folder" if path.is_dir() else "npz" if path.suffix == ".npz" else name
    if known in ("npz", "folder") and name == known:
        raise InputError(f"For images of your own give the path of the .npz file or folder instead of {name!r}.")
    if known not in SOURCES:
        own = ("npz", "folder")
        names = ", ".join(each for each in SOURCES if each not in own)
        raise InputError(f"{shown(name)} is not a data set; choose {names}, or the path of a .npz file or a folder.")
    source = SOURCES[known]
    dataset: dict[str, Any] = {"name": known, "n_levels": n_levels, "seed": seed, "path": UNUSED}
    dataset |= {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    if known != name:
        dataset["path"] = str(path)
    binarization = binarization or ("static" if source.is_static else "none")
    content = {"dataset": dataset, "dequantize": {"bits": bits, "binarization": binarization}}
    try:
        params = validated({**content, **REST})
    except InputError as error:
        raise InputError(str(error).removeprefix("params.yaml: ")) from error
    cache = Path(folder) if folder is not None else _cache()
    source.check(params.dataset.path)
    raw = cache / "downloaded" / (known if known == name else f"{known}-{_digest(str(path.resolve()))}")
    source.download(raw, params.dataset.path)
    key = _digest(json.dumps([content, str(raw)], sort_keys=True))
    prepared = cache / "prepared" / f"{path.stem if known != name else known}-{key}"
    if known != name or not (prepared / "description.json").exists():  # your own files may have changed
        prepare(source.read(raw), params.dataset, params.dequantize, raw_levels(params), prepared)
    return Data(load_prepared(prepared))


def _cache() -> Path:
    if named := os.environ.get(CACHE):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "bitsperdim"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def data_of(
    images: Any,  # noqa: ANN401 - an array of NumPy or PyTorch, or Data
    n_levels: int | None,
    *,
    labels: Any = None,  # noqa: ANN401 - likewise
    train: Any = None,  # noqa: ANN401 - likewise
    name: str = ARRAYS,
) -> Data:
    """Return images that were given as an array as data; what is Data already stays what it is.

    Args:
        images: (N, C, H, W) or, of one channel, (N, H, W), integers 0..L-1.
        n_levels: L.
        labels: (N,) integers; None: there are none.
        train: the training images, to look for copies among them; None: they are not known.
        name: of the images, for the protocol tag.

    Raises:
        InputError: they are not images of integers, or hold a level that is not below L.
    """
    if isinstance(images, Data):
        if n_levels not in (None, images.n_levels):
            raise InputError(f"n_levels = {n_levels} is not allowed; these images have {images.n_levels} levels.")
        return images
    if n_levels is None:
        raise InputError("n_levels is missing: say how many levels the images have, 256 for values 0 to 255.")
    if not isinstance(n_levels, int) or not 2 <= n_levels <= MAX_LEVELS:
        raise InputError(
            f"n_levels = {shown(n_levels)} is not allowed; it must be an integer from 2 to {MAX_LEVELS:,}."
        )
    array = _integers(images, n_levels, "images")
    hashes = repeated.digests(array)
    digest = sha256(array)
    _, channels, height, width = array.shape
    classes = None if labels is None else _labels(labels, len(array))
    parts: dict[str, Any] = {"images": {"test": array}, "same_as": {"test": repeated.first_equal(hashes)}}
    counts = {"test": len(array)}
    if train is not None:
        known = _integers(train, n_levels, "train")
        parts["in_train"] = {"test": repeated.are_among(hashes, repeated.digests(known))}
        parts["images"]["train"], counts["train"] = known, len(known)
    else:
        parts["in_train"] = {"test": np.zeros(len(array), dtype=bool)}
    if classes is not None:
        parts["labels"] = {"test": classes}
    parts["noise"] = {"test": np.random.default_rng(0).random(array.shape, dtype=np.float32)}
    shape = f"{height}x{width}x{channels}/L{n_levels}/test{len(array)}/given-none"
    description = Description(
        image_shape=(channels, height, width),
        n_levels=n_levels,
        train_levels=n_levels,
        binarization="none",
        n_images=counts,
        test_sha256=digest,
        protocol=f"{name}-{digest[:HASH_DIGITS]}/none/{shape}",
        test_labels_sha256="" if classes is None else sha256(classes),
        n_test_classes=0 if classes is None else len(np.unique(classes)),
    )
    return Data(PreparedImages(description, **parts))


def _integers(images: Any, n_levels: int, name: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if not np.issubdtype(array.dtype, np.integer):
        hint = (
            ""
            if not np.issubdtype(array.dtype, np.floating)
            else (
                "; a likelihood of levels needs the levels themselves: for values x / (L-1) give "
                "(x * (L-1)).round().astype(int), and say by `inputs` what the model takes"
            )
        )
        raise InputError(f"{name} must be integers 0..{n_levels - 1}, not {array.dtype}{hint}.")
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(f"{name} must have the shape (N, C, H, W) or (N, H, W), not {array.shape}.")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= n_levels:
        raise InputError(f"{name} must hold levels from 0 to {n_levels - 1}, but they go from {lowest} to {highest}.")
    return np.ascontiguousarray(array.astype(np.uint8 if n_levels <= 256 else np.int32))


def _labels(labels: Any, n_images: int) -> np.ndarray:  # noqa: ANN401 - whatever was given
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (n_images,):
        raise InputError(f"labels must be integers of shape ({n_images},), not {array.dtype} of {array.shape}.")
    return array.astype(np.int64)
