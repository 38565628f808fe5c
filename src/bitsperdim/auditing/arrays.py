"""Arrays of somebody's .npz files: log-likelihoods, and images of integers. Object arrays are never unpickled.

Invariants (``tests/auditing/test_command.py``): channels last and first are the same images; where either could be
meant, it is asked.
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
    """Return arrays of a .npz file.

    Args:
        path: of the file.
        names: which; None: all.

    Raises:
        InputError: it is not such a file, or one of these is an array of objects.
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
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        if name and "Object arrays" in str(error):
            raise InputError(
                f"{path}: {name} is an array of Python objects, which are not unpickled; save plain numbers."
            ) from error
        raise InputError(f"{path} cannot be read as a .npz file of arrays ({type(error).__name__}).") from error
    return found


def names_of(path: Path) -> list[str]:
    """Return the names of the arrays of a .npz file.

    Raises:
        InputError: it is not such a file.
    """
    if not path.is_file():
        raise InputError(f"{shown(str(path))} is not a file.")
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # the last: a compression it does not know
        raise InputError(f"{path} cannot be read as a .npz file of arrays ({type(error).__name__}).") from error


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Return ``log_p`` or ``log_w`` of a file, under its name.

    Raises:
        InputError: there is neither, or both.
    """
    names = names_of(path)
    found = [name for name in SCORES if name in names]
    if len(found) != 1:
        has = f"it has {', '.join(names[:8])}" if names else "it is empty"
        raise InputError(f"{path} must hold either log_p, (N,) nats, or log_w, (K, N) log-weights in nats; {has}.")
    return read_arrays(path, found)


def read_images(place: str, wanted: Sequence[str], channels: str | None) -> np.ndarray:
    """Return images of a .npz file, (N, C, H, W), or (N, H, W) of one channel.

    Args:
        place: of the file, or ``file.npz:name`` for one array of it.
        wanted: names under which they may stand; else the only array is meant.
        channels: ``first`` or ``last``; None: as the shape says.

    Raises:
        InputError: there are no such images, or the shape does not say where channels are.
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
            raise InputError(f"{file}: images of shape {array.shape} are ambiguous; say --channels first or last.")
        channels = could_be[0] if could_be else "first"
    return np.moveaxis(array, -1, 1) if channels == "last" else array


def split_place(place: str) -> tuple[Path, str]:
    """Return the file and the name of ``file.npz:name``; the name is empty where none is given."""
    found = re.fullmatch(r"(?P<file>.+\.npz):(?P<name>\w+)", place)
    return (Path(found["file"]), found["name"]) if found else (Path(place), "")
