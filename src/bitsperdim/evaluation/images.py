"""The images that a model from elsewhere is scored on: a data set by name, or arrays of integers.

Invariants (``tests/evaluation/test_images.py``): a data set given by name equals the one that the pipeline prepares,
with the same protocol tag (``test_a_data_set_is_what_the_pipeline_prepares``); floating-point numbers are refused; a
subset is chosen with a seed, and its protocol tag names the subset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
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
from bitsperdim.sources import SOURCES, Drawn

MAX_LEVELS = 65_536
MAX_CHANNELS = 4  # arrays with more channels are taken for channels last if their last dimension is at most this
HASH_DIGITS = 12
CACHE = "BITSPERDIM_CACHE"
ARRAYS = "images"  # beginning of the name of data that were given as an array
UNUSED = "unused"  # path for a data set that needs no path
# sections that params.yaml must have, but that are not used here
REST: dict[str, Any] = {
    "models": ["histogram"],
    "histogram": {"family": "histogram"},
    "seeds": [0],
    **{name: {} for name in ("train", "evaluate", *STUDIES)},
}


@dataclass(frozen=True)
class Data:
    """Images of integers 0..L-1 with their description.

    Attributes:
        prepared: images as the pipeline prepares them; the split ``test`` holds the images to be scored.
    """

    prepared: PreparedImages

    @property
    def images(self) -> np.ndarray:
        """The images to be scored, (N, C, H, W)."""
        return self.prepared.images["test"]

    @property
    def labels(self) -> np.ndarray | None:
        """Class labels of the images to be scored, (N,) int64; None if there are no labels."""
        return self.prepared.labels.get("test")

    @property
    def train(self) -> np.ndarray | None:
        """The training images, (N, C, H, W); None if only images to be scored were given."""
        return self.prepared.images.get("train")

    @property
    def validation(self) -> np.ndarray | None:
        """The validation images, (N, C, H, W); None if only images to be scored were given."""
        return self.prepared.images.get("validation")

    @property
    def log_p_true(self) -> np.ndarray | None:
        """The true log P(x) of the images to be scored, (N,) float64 nats; None if it is not known."""
        return self.prepared.log_p_true.get("test")

    @property
    def n_levels(self) -> int:
        """The number of levels L."""
        return self.prepared.description.n_levels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""
        return self.prepared.description.image_shape

    @property
    def protocol(self) -> str:
        """The protocol tag; only numbers with the same tag may be compared."""
        return self.prepared.description.protocol

    def __repr__(self) -> str:
        """Return a description of the images in one line."""
        channels, height, width = self.image_shape
        return (
            f"<{len(self.images):,} images to be scored of {height} x {width} x {channels}, {self.n_levels} levels; "
            f"protocol {self.protocol}>"
        )

    def subset(self, n_images: int, seed: int = 0) -> Data:
        """Return a random part of the images to be scored.

        The protocol tag names the part, so that its number is not compared with the number of all images.

        Args:
            n_images: number of images in the part, from 1 to N.
            seed: seed of the random choice.

        Raises:
            InputError: the number of images or the seed is out of range.
        """
        n_all = len(self.images)
        if type(n_images) is not int or not 1 <= n_images <= n_all:
            raise InputError(
                f"subset = {shown(n_images)} is not allowed; it must be an integer from 1 to {n_all}, the number of "
                f"images."
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
            for name in ("labels", "noise", "in_train", "near_train", "log_p_true")
            for arrays in (getattr(old, name),)
        }
        copies = old.same_as["test"][rows]
        same_as = {"test": np.unique(copies, return_index=True)[1][np.unique(copies, return_inverse=True)[1]]}
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
    drawn: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
) -> Data:
    """Return a data set as the pipeline prepares it; downloads are verified and cached.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``binarized_mnist``, ``cifar10``, or the path of a .npz file or
            of a folder of pictures; or ``ising``, ``hidden_markov``, ``templates``, ``small_pixelcnn``, whose log P(x)
            is known (:mod:`bitsperdim.sources.known`).
        n_levels: number of levels of your own images; None: 256.
        bits: number of bits, 1 to 7, to quantize to 2^bits levels.
        binarization: ``none``, ``threshold`` or ``dynamic``; None: the binarization of the data set.
        validation_fraction: share of the training images for validation, if there is no official validation set.
        test_fraction: share of all images for the test set, if there is no official test set.
        seed: seed of the splits, of binarization, and of data sets that are drawn.
        drawn: settings of a data set whose log P(x) is known that differ from the defaults: ``height``, ``width``,
            ``n_channels``, ``n_train``, ``n_validation``, ``n_test``, ``strength``, ``n_components``.
        folder: folder for the files; by default the folder in the environment variable ``BITSPERDIM_CACHE``, or
            ``~/.cache/bitsperdim``.

    Raises:
        InputError: there is no such data set, it cannot be downloaded or read, or an argument does not fit it.
    """
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"{shown(name)} is not a data set; give the name of a data set, or a path.")
    path, name = Path(name), os.fspath(name)
    known = name if name in SOURCES else "folder" if path.is_dir() else "npz" if path.suffix == ".npz" else name
    if known in ("npz", "folder") and name == known:
        raise InputError(f"For your own images, give the path of the .npz file or folder instead of {name!r}.")
    if known not in SOURCES:
        own = ("npz", "folder")
        names = ", ".join(each for each in SOURCES if each not in own)
        raise InputError(f"{shown(name)} is not a data set; choose {names}, or the path of a .npz file or a folder.")
    source = SOURCES[known]
    if drawn is not None and not isinstance(source, Drawn):
        raise InputError(f"drawn is not allowed with {shown(name)}, whose images are not drawn.")
    dataset: dict[str, Any] = {"name": known, "n_levels": n_levels, "seed": seed, "path": UNUSED}
    dataset |= {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    if known != name:
        dataset["path"] = str(path)
    if drawn is not None:
        dataset["drawn"] = dict(drawn)
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
        if known == name:  # a user's own files are always prepared again, because they may have changed
            with contextlib.suppress(InputError):  # the cached data set is missing, incomplete or damaged
                return Data(load_prepared(prepared))
        images = preparation.read_source(params.dataset, raw)
        preparation.prepare(images, params.dataset, params.dequantize, raw_levels(params), prepared)
        return Data(load_prepared(prepared))
    except InputError as error:
        raise InputError(re.sub(r"params\.yaml: |\b(dataset|dequantize)\.(?=[a-z_.]+ )", "", str(error))) from error


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
    labels: Any = None,  # noqa: ANN401 - an array
    train: Any = None,  # noqa: ANN401 - an array
    name: str = ARRAYS,
) -> Data:
    """Return :class:`Data` for images that are an array, or are :class:`Data` already.

    Args:
        images: :class:`Data`, or integers 0..L-1 of shape (N, C, H, W) or, with one channel, (N, H, W).
        n_levels: number of levels L.
        labels: class labels, (N,), integers; None: the labels of the data set, if it has any.
        train: training images, among which copies are searched; None: they are not known.
        name: name of the images in the protocol tag.

    Raises:
        InputError: the arrays are not images of integers from 0 to L-1, or another argument does not fit.
    """
    if isinstance(images, Data):
        if n_levels not in (None, images.n_levels):
            raise InputError(f"n_levels = {shown(n_levels)} is not allowed; these images have {images.n_levels}.")
        if train is not None:
            raise InputError("train is not allowed with a data set, which already has its training images.")
        return images if labels is None else _with_labels(images, labels)
    if isinstance(images, str | Path):
        raise InputError(
            f"images = {shown(str(images))} is a name or path; give bitsperdim.load_data({shown(str(images))})."
        )
    if n_levels is None:
        _refuse_floats(array_of(images, "images"), "images", "L-1")
        raise InputError("n_levels is missing: give the number of levels of the images, 256 for values 0 to 255.")
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
            raise InputError(
                f"train has images of shape {known.shape[1:]}, but those to be scored have {array.shape[1:]}."
            )
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
    """Return the data set with these labels for the images to be scored."""
    classes = _labels(labels, len(data.images))
    described = replace(data.prepared.description, **_of_labels(classes))
    return Data(replace(data.prepared, description=described, labels={**data.prepared.labels, "test": classes}))


def _of_labels(classes: np.ndarray) -> dict[str, Any]:
    return {"test_labels_sha256": sha256(classes), "n_test_classes": len(np.unique(classes))}


def array_of(given: Any, name: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    """Convert an argument to a NumPy array.

    Args:
        given: tensor, array or list.
        name: name of the argument, for the error message.

    Raises:
        InputError: the conversion fails.
    """
    try:
        return given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    except Exception as error:  # lists of unequal lengths, tensors without values, types that NumPy does not have
        what = str(given.dtype) if isinstance(given, torch.Tensor) else type(given).__name__
        raise InputError(f"{name} cannot be converted to a NumPy array: {what} ({first_line(error)}).") from error


def _integers(images: Any, n_levels: int, name: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    array = array_of(images, name)
    _refuse_floats(array, name, str(n_levels - 1))
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape:
        raise InputError(f"{name} must have the shape (N, C, H, W) or (N, H, W), not {array.shape}.")
    if array.shape[1] > MAX_CHANNELS >= array.shape[3]:
        raise InputError(
            f"{name} of shape {array.shape} seem to have their channels last; convert them to (N, C, H, W) with "
            f"transpose(0, 3, 1, 2), and set `layout` to the layout that the model takes."
        )
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= n_levels:
        raise InputError(
            f"{name} must hold levels from 0 to {n_levels - 1}, but the values go from {lowest} to {highest}."
        )
    return np.ascontiguousarray(array.astype(np.uint8 if n_levels <= 256 else np.int32))


def _refuse_floats(array: np.ndarray, name: str, highest: str) -> None:
    if np.issubdtype(array.dtype, np.integer):
        return
    hint = (
        "; the likelihood is defined on the levels themselves: for values x / (L-1) give "
        "(x * (L-1)).round().astype(int), and set `inputs` to the values that the model takes"
    )
    hint = hint if np.issubdtype(array.dtype, np.floating) else ""
    raise InputError(f"{name} must be integers 0..{highest}, not {array.dtype}{hint}.")


def _labels(labels: Any, n_images: int) -> np.ndarray:  # noqa: ANN401 - whatever was given
    array = array_of(labels, "labels")
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (n_images,):
        raise InputError(f"labels must be integers of shape ({n_images},), not {array.dtype} of shape {array.shape}.")
    if array.min() < 0:
        raise InputError(f"labels must be 0 or more, but the smallest is {array.min()}.")
    return array.astype(np.int64)
