"""Your own images: a .npz file of uint8 arrays ``train`` and, optionally, ``test`` and ``validation``.

Each array is (N, H, W) for grey images or (N, H, W, C) for C channels, C at most 4. ``train_labels``, ``test_labels``
and ``validation_labels``, (N,) integers, are optional. Without ``test`` (or ``validation``), a random share of
``train`` is used, chosen by the seed (:mod:`bitsperdim.data.preparation`). Object arrays are never unpickled. The file
is read in parts, so it may be larger than the memory; only arrays in Fortran order are read as a whole.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.files import CHUNK_VALUES, read_npy, reading, write_npy
from bitsperdim.sources.base import RawImages, Source
from bitsperdim.sources.folder import forget_splits, open_splits

SPLITS = ("train", "validation", "test")
MAX_CHANNELS = 4


class Npz(Source):
    """A .npz file named by ``dataset.path``."""

    n_levels = 256
    fixed_levels = False

    def check(self, path: str) -> None:
        """Check that the path is a file."""
        try:
            is_file = Path(path).is_file()
        except OSError as error:
            raise InputError(f"params.yaml: dataset.path = {shown(path)} cannot be read: {error.strerror}.") from error
        if not is_file:
            raise InputError(
                f"params.yaml: dataset.path = {shown(path)} is not a file; dataset.name = 'npz' needs a .npz file "
                f"of uint8 arrays 'train' and 'test'."
            )

    def facts(self, path: str) -> tuple[tuple[int, int, int] | None, int | None]:
        """Return the image shape from the header of ``train``; the number of classes is only known to be 0 or not."""
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # download reports what is wrong
            with archive.open("train.npy") as content:
                (_, height, width, *rest), _, _ = read_header(content)
            is_labelled = any(name.endswith("_labels.npy") for name in archive.namelist())
            return (rest[0] if rest else 1, height, width), None if is_labelled else 0
        return None, None

    def download(self, folder: Path, path: str) -> None:
        """Verify every byte of the user's file, then unpack it to one .npy file for each array."""
        self.check(path)
        members = verify_npz(Path(path))
        forget_splits(folder)
        for name in sorted(members, key=lambda name: name == "train"):  # `train` last: without it nothing is read
            member = members[name]
            if name in SPLITS:
                n_images, *rest = member.shape if len(member.shape) == 4 else (*member.shape, 1)
                height, width, channels = rest
                chunks = (_channels_first(chunk) for chunk in member.chunks())
                write_npy(folder / f"{name}.npy", (n_images, channels, height, width), np.dtype(np.uint8), chunks)
            else:
                labels = np.concatenate(list(member.chunks())).astype(np.int64)
                write_npy(folder / f"{name}.npy", labels.shape, labels.dtype, [labels])

    def read(self, folder: Path) -> RawImages:
        """Open the images without reading them; read the labels."""
        images = open_splits(folder)
        labels = {}
        for split in images:
            path = folder / f"{split}_labels.npy"
            if path.exists():
                with reading(path, "download"):
                    labels[split] = read_npy(path)
        return RawImages(images, labels)


@dataclass(frozen=True)
class Member:
    """An array in a .npz file that is read in parts."""

    archive: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the rows in order; the checksum of the array in the archive is verified at the end.

        An array in Fortran order is read as a whole.
        """
        with zipfile.ZipFile(self.archive) as archive, archive.open(f"{self.name}.npy") as file:
            _, is_fortran, _ = read_header(file)
            row = math.prod(self.shape[1:]) * self.dtype.itemsize
            step = len(self) if is_fortran else max(1, CHUNK_VALUES // max(1, row))
            for start in range(0, len(self), step):
                n_rows = min(step, len(self) - start)
                content = file.read(n_rows * row)
                if len(content) < n_rows * row:
                    raise ValueError(f"array {self.name!r} ends before its last row")
                shape = (n_rows, *self.shape[1:])
                yield np.frombuffer(content, self.dtype).reshape(shape, order="F" if is_fortran else "C")
            if file.read(1):
                raise ValueError(f"array {self.name!r} is longer than its shape")

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a .npy file: the shape, whether it is in Fortran order, and the type.

    Raises:
        ValueError: there is no header of version 1.0 or 2.0, or the array holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format is not supported")
    shape, is_fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, is_fortran, dtype


def verify_npz(path: Path) -> dict[str, Member]:
    """Read a user's .npz file from beginning to end, in parts, and return its arrays.

    Raises:
        InputError: the file is not a .npz file or is damaged, or an array has a wrong name, shape, type or length.
    """
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise InputError(f"{path} holds a single array; save with numpy.savez(path, train=..., test=...).")
    allowed = [*SPLITS, *(f"{split}_labels" for split in SPLITS)]
    members: dict[str, Member] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name not in allowed or name == entry.filename or name in members:
                    raise InputError(
                        f"{path}: array {shown(name)} is not allowed; allowed are {', '.join(allowed)}, once each."
                    )
                with archive.open(entry) as content:
                    shape, _, dtype = read_header(content)
                members[name] = Member(path, name, shape, dtype)
        _check(path, members)
        for member in members.values():
            for _ in member.chunks():
                pass
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged archive can raise almost any exception
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a readable .npz file without pickled objects ({reason}).") from error
    return members


def _check(path: Path, members: dict[str, Member]) -> None:
    """Refuse arrays that are not images or labels, or that do not fit together."""
    if "train" not in members:
        raise InputError(f"{path}: array 'train' is missing; the file has {', '.join(members) or 'no array'}.")
    splits = [split for split in SPLITS if split in members]
    for split in splits:
        member = members[split]
        if member.dtype != np.uint8:
            raise InputError(f"{path}: array {split!r} has type {member.dtype}; images must be uint8, values 0 to 255.")
        is_grey, in_colour = len(member.shape) == 3, len(member.shape) == 4 and member.shape[-1] <= MAX_CHANNELS
        if not (is_grey or in_colour) or 0 in member.shape:
            raise InputError(
                f"{path}: array {split!r} has shape {member.shape}; images are (N, H, W) or (N, H, W, C) "
                f"with 1 to {MAX_CHANNELS} channels last, and at least one image."
            )
        if member.shape[1:] != members["train"].shape[1:]:
            raise InputError(
                f"{path}: {split!r} holds images of shape {member.shape[1:]} but 'train' of "
                f"{members['train'].shape[1:]}; all images must have the same shape."
            )
    labelled = [split for split in splits if f"{split}_labels" in members]
    for split in labelled:
        labels = members[f"{split}_labels"]
        n_images = len(members[split])
        if labels.dtype.kind not in "iu" or labels.shape != (n_images,):
            raise InputError(
                f"{path}: array '{split}_labels' has type {labels.dtype} and shape {labels.shape}; "
                f"labels are integers of shape ({n_images},)."
            )
    if labelled and labelled != splits:
        lacking = ", ".join(f"{split}_labels" for split in splits if split not in labelled)
        raise InputError(f"{path}: labels are given for some arrays only; add {lacking} or leave all labels out.")
    for split in SPLITS:
        if f"{split}_labels" in members and split not in members:
            raise InputError(f"{path}: there are labels '{split}_labels', but no images {split!r}.")


def _channels_first(images: np.ndarray) -> np.ndarray:
    """Return (N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
