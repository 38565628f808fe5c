"""The images that a model from elsewhere is scored on: a data set by name, or arrays of integers.

Invariants (``tests/evaluation/test_images.py``): a data set by name is what the pipeline prepares, with the same
protocol tag (``test_a_data_set_is_what_the_pipeline_prepares``); floating-point numbers are refused; a subset is
seeded, and its protocol says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitsperdim.config.params import STUDIES
from bitsperdim.core.code import digest, needed
from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import in_chunks, sha256
from bitsperdim.data import near, preparation, repeated
from bitsperdim.data.prepared import Description, PreparedImages, load_prepared
from bitsperdim.models.external.distributions import first_line
from bitsperdim.preflight.agreement import raw_levels, validated
from bitsperdim.sources import SOURCES

MAX_LEVELS = 65_536
MAX_CHANNELS = 4  # of images as their sources have them; more are channels last, where there are so few of those
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
        if type(n_images) is not int or not 1 <= n_images <= n_all:
            raise InputError(
                f"subset = {shown(n_images)} is not allowed; it must be an integer from 1 to {n_all}, which are all."
            )
        if type(seed) is not int or seed < 0:
            raise InputError(f"seed = {shown(seed)} is not allowed; it must be an integer, 0 or more.")
        if n_images == n_all:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(n_all)[:n_images])
        old = self.prepared
        images, description = old.images["test"][rows], old.description
        rest, size, given = description.protocol.rsplit("/", 2)
        described = replace(
            description,
            n_images={**description.n_images, "test": n_images},
            test_sha256=sha256(images),
            protocol=f"{rest}/test{n_images}of{size.removeprefix('test')}-seed{seed}/{given}",
            n_same={},
            **({} if self.labels is None else _of_labels(self.labels[rows])),
        )
        parts = {
            name: {**arrays, "test": arrays["test"][rows]} if "test" in arrays else dict(arrays)
            for name in ("labels", "noise", "in_train", "near_train")
            for arrays in (getattr(old, name),)
        }
        same_as = {"test": repeated.first_equal(repeated.digests(images))}
        return Data(PreparedImages(described, {**old.images, "test": images}, same_as=same_as, **parts))


def load_data(
    name: str | os.PathLike,
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
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"{shown(name)} is not a data set; give its name, or a path.")
    path, name = Path(name), os.fspath(name)
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
    cache = Path(folder) if folder is not None else _cache()
    raw = cache / "downloaded" / (known if known == name else f"{known}-{_digest(str(path.resolve()))}")
    try:
        params = validated({**content, **REST})
        source.check(params.dataset.path)
        source.download(raw, params.dataset.path)
        key = _digest(json.dumps([content, str(raw), digest(needed(Path(preparation.__file__)))], sort_keys=True))
        prepared = cache / "prepared" / f"{path.stem if known != name else known}-{key}"
        if known == name:  # your own files may have changed
            with contextlib.suppress(InputError):  # it is not there, was interrupted, or is damaged
                return Data(load_prepared(prepared))
        preparation.prepare(source.read(raw), params.dataset, params.dequantize, raw_levels(params), prepared)
        return Data(load_prepared(prepared))
    except InputError as error:
        raise InputError(re.sub(r"params\.yaml: |\b(dataset|dequantize)\.(?=[a-z_]+ )", "", str(error))) from error


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
        labels: (N,) integers; None: there are none, or those of the data set.
        train: the training images, to look for copies among them; None: they are not known.
        name: of the images, for the protocol tag.

    Raises:
        InputError: they are not images of integers, or hold a level that is not below L.
    """
    if isinstance(images, Data):
        if n_levels not in (None, images.n_levels):
            raise InputError(f"n_levels = {shown(n_levels)} is not allowed; these images have {images.n_levels}.")
        if train is not None:
            raise InputError("train is not allowed here; a data set knows its training images.")
        return images if labels is None else _with_labels(images, labels)
    if isinstance(images, str | Path):
        raise InputError(f"images = {shown(str(images))} is a name; give bitsperdim.load_data({shown(str(images))}).")
    if n_levels is None:
        _refuse_floats(array_of(images, "images"), "images", "L-1")
        raise InputError("n_levels is missing: say how many levels the images have, 256 for values 0 to 255.")
    n_levels = int(n_levels) if isinstance(n_levels, np.integer) else n_levels
    if type(n_levels) is not int or not 2 <= n_levels <= MAX_LEVELS:
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
        if known.shape[1:] != array.shape[1:]:
            raise InputError(f"train holds images of shape {known.shape[1:]}, but images of {array.shape[1:]}.")
        of_train = repeated.digests(known)
        parts["in_train"] = {"test": repeated.are_among(hashes, of_train)}
        distinct = np.unique(repeated.first_equal(of_train))
        parts["near_train"] = {
            "test": near.near_copies(in_chunks(array), known, distinct, parts["in_train"]["test"]).of
        }
        parts["images"]["train"], counts["train"] = known, len(known)
    else:
        parts["in_train"] = {"test": np.zeros(len(array), dtype=bool)}
        parts["near_train"] = {"test": np.full(len(array), -1, dtype=np.int64)}
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
        **({} if classes is None else _of_labels(classes)),
    )
    return Data(PreparedImages(description, **parts))


def _with_labels(data: Data, labels: Any) -> Data:  # noqa: ANN401 - whatever was given
    """Return a data set whose images to be scored have these labels."""
    classes = _labels(labels, len(data.images))
    described = replace(data.prepared.description, **_of_labels(classes))
    return Data(replace(data.prepared, description=described, labels={**data.prepared.labels, "test": classes}))


def _of_labels(classes: np.ndarray) -> dict[str, Any]:
    return {"test_labels_sha256": sha256(classes), "n_test_classes": len(np.unique(classes))}


def array_of(given: Any, name: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    """Return an array of NumPy.

    Raises:
        InputError: it cannot be made one.
    """
    try:
        return given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    except Exception as error:  # lists of unequal lengths, tensors without values, types that NumPy does not have
        what = str(given.dtype) if isinstance(given, torch.Tensor) else type(given).__name__
        raise InputError(f"{name} cannot be made an array of NumPy: {what} ({first_line(error)}).") from error


def _integers(images: Any, n_levels: int, name: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    array = array_of(images, name)
    _refuse_floats(array, name, str(n_levels - 1))
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(f"{name} must have the shape (N, C, H, W) or (N, H, W), not {array.shape}.")
    if array.shape[1] > MAX_CHANNELS >= array.shape[3]:
        raise InputError(
            f"{name} of shape {array.shape} seem to have their channels last; give them as (N, C, H, W), by "
            f"transpose(0, 3, 1, 2), and say by `layout` what the model takes."
        )
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= n_levels:
        raise InputError(f"{name} must hold levels from 0 to {n_levels - 1}, but they go from {lowest} to {highest}.")
    return np.ascontiguousarray(array.astype(np.uint8 if n_levels <= 256 else np.int32))


def _refuse_floats(array: np.ndarray, name: str, highest: str) -> None:
    if np.issubdtype(array.dtype, np.integer):
        return
    hint = (
        "; a likelihood of levels needs the levels themselves: for values x / (L-1) give "
        "(x * (L-1)).round().astype(int), and say by `inputs` what the model takes"
    )
    hint = hint if np.issubdtype(array.dtype, np.floating) else ""
    raise InputError(f"{name} must be integers 0..{highest}, not {array.dtype}{hint}.")


def _labels(labels: Any, n_images: int) -> np.ndarray:  # noqa: ANN401 - whatever was given
    array = array_of(labels, "labels")
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (n_images,):
        raise InputError(f"labels must be integers of shape ({n_images},), not {array.dtype} of {array.shape}.")
    if array.min() < 0:
        raise InputError(f"labels must be 0 or more, but the smallest is {array.min()}.")
    return array.astype(np.int64)
