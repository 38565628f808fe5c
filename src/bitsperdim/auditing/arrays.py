"""Reading a user's .npz files: log-likelihoods, and images of integers. Object arrays are never unpickled.

Invariants (``tests/auditing/test_command.py``): channels last and channels first give the same images; an ambiguous
shape is an error.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsperdim.core.errors import InputError, shown

SCORES = ("log_p", "log_w")
MAX_CHANNELS = 4


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return arrays of a .npz file by name.

    Args:
        path: path of the file.
        names: names of the arrays to read; None: all arrays.

    Raises:
        InputError: the file is not a .npz file, or one of these arrays holds Python objects.
    """
    if not path.is_file():
        raise InputError(f"{shown(str(path))} is not a file.")
    found, name = {}, ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files if names is None else names:
                found[name] = archive[name]
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged file can raise almost any exception
        if name and "Object arrays" in str(error):
            raise InputError(
                f"{path}: {name} is an array of Python objects, which is never unpickled; save an array of numbers."
            ) from error
        raise InputError(f"{path} cannot be read as a .npz file of arrays ({type(error).__name__}).") from error
    return found


def names_of(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz file.

    Raises:
        InputError: the file is not a .npz file.
    """
    if not path.is_file():
        raise InputError(f"{shown(str(path))} is not a file.")
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # the last: an unknown compression
        raise InputError(f"{path} cannot be read as a .npz file of arrays ({type(error).__name__}).") from error


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Return the array ``log_p`` or ``log_w`` of a file, under its name.

    Raises:
        InputError: the file has neither of the two, or both.
    """
    names = names_of(path)
    found = [name for name in SCORES if name in names]
    if len(found) != 1:
        has = f"it has {', '.join(names[:8])}" if names else "it has no arrays"
        raise InputError(f"{path} must hold either log_p, (N,) nats, or log_w, (K, N) log-weights in nats; {has}.")
    return read_arrays(path, found)


def read_images(place: str, wanted: Sequence[str], channels: str | None) -> np.ndarray:
    """Return the images of a .npz file, (N, C, H, W), or (N, H, W) with one channel.

    Args:
        place: path of the file, or ``file.npz:name`` for one of its arrays.
        wanted: names that the array of images may have; if none of them is in the file, its only array is taken.
        channels: ``first`` or ``last``; None: guess from the shape.

    Raises:
        InputError: there are no such images, or the shape does not tell which axis holds the channels.
    """
    file, given = split_place(place)
    names = names_of(file)
    name = given or next((name for name in wanted if name in names), names[0] if len(names) == 1 else "")
    if name not in names:
        which = f"no array {shown(given)}" if given else f"several arrays and none named {' or '.join(wanted)}"
        raise InputError(f"{file} has {which}; choose one of {', '.join(names[:8])} as {file}:NAME.")
    array = read_arrays(file, [name])[name]
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    if array.ndim != 4:
        return array
    if channels is None:
        could_be = [word for word, axis in (("first", 1), ("last", 3)) if array.shape[axis] <= MAX_CHANNELS]
        if len(could_be) > 1:
            raise InputError(
                f"{file}: either axis of the images of shape {array.shape} may hold the channels, which is ambiguous; "
                f"add --channels first or --channels last."
            )
        channels = could_be[0] if could_be else "first"
    return np.moveaxis(array, -1, 1) if channels == "last" else array


def split_place(place: str) -> tuple[Path, str]:
    """Return the file and the array name of ``file.npz:name``; without ``:name`` the name is empty."""
    found = re.fullmatch(r"(?P<file>.+\.npz):(?P<name>\w+)", place)
    return (Path(found["file"]), found["name"]) if found else (Path(place), "")
