"""Atomic writing of files with stable bytes: the same content gives the same bytes, and a file is complete or absent.

No function of this module writes a time, a host name or a commit.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitsperdim.core.errors import InputError

FLOAT_FORMAT = "%.9g"
CHUNK_VALUES = 2**22  # number of array values that are held in memory at a time
REPOSITORY = "BITSPERDIM_REPOSITORY"  # the user's repository, for runs in separate folders
COPIES = ".dvc/tmp/exps"  # folder in which `dvc exp run --temp` and `--queue` make copies of the repository
LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<suffix>(\.[^.]+)?)")  # the temporary names of atomic_path


def workspace() -> Path:
    """Return the repository that the user works in, which also holds files that git does not track.

    If the current folder is a copy of a repository, made for an experiment, this is the original repository. Otherwise
    it is the current folder.
    """
    if named := os.environ.get(REPOSITORY):
        return Path(named)
    copies = next((folder for folder in Path.cwd().parents if folder.match(COPIES)), None)
    return Path() if copies is None else copies.parents[2]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move the file to ``path`` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, name):  # name the file that the user knows, not the temporary one
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder; no other process may be writing into it now."""
    for path in list(folder.rglob(".*")):
        found = LEFTOVER.fullmatch(path.name)
        if found and Path(found["name"]).suffix == found["suffix"]:
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to ``path`` atomically."""
    write_bytes(path, content.encode("utf-8"))


def rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Round every float in a JSON-like value to nine significant digits, and replace minus zero by zero."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(FLOAT_FORMAT % value) + 0.0
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and floats of nine significant digits.

    An infinite value is written as ``Infinity``, which Python and DVC can read: the loss is infinite if a model gives
    an image no mass, and ``dvc metrics`` would not show a null.

    Raises:
        ValueError: a value is NaN.
    """
    _refuse_nan(content, "")
    write_text(path, json.dumps(rounded(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _refuse_nan(value: Any, key: str) -> None:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_nan(item, f"{key}.{name}")
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{key[1:]} is NaN")


@contextlib.contextmanager
def reading(path: Path, stage: str) -> Iterator[None]:
    """Raise InputError if the block fails to read a file that ``stage`` wrote.

    Raises:
        InputError: the file is missing or truncated, or its content is not what the stage writes.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist; run the stage {stage!r} first.") from error
    except Exception as error:  # a damaged file can raise almost any exception
        raise InputError(f"{path} is damaged ({type(error).__name__}); run the stage {stage!r} again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV with the given columns; floats have nine significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row[column] for column in columns)
        writer.writerow([FLOAT_FORMAT % cell if isinstance(cell, float) else cell for cell in cells])
    write_text(path, text.getvalue())


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz file whose bytes do not depend on the time or the version of Python.

    ``numpy.savez_compressed`` streams the members into the archive, and Python's format of streamed members has changed
    between patch releases.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content.getbuffer())


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file. Unlike ``numpy.load``, this does not open archives."""
    with path.open("rb") as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return array


class StoredArray:
    """An array in a .npy file; indexing reads only the requested rows into memory.

    Attributes:
        path: path of the file.
        shape: shape of the whole array.
        dtype: type of the values.
    """

    def __init__(self, path: Path) -> None:
        """Read the header of the file."""
        self.path = path
        opened = np.lib.format.open_memmap(path, mode="r")
        self.shape: tuple[int, ...] = opened.shape
        self.dtype: np.dtype = opened.dtype

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return a copy of some rows; the file is mapped into memory only while they are copied."""
        return np.array(np.lib.format.open_memmap(self.path, mode="r")[rows])


Rows = np.ndarray | StoredArray


def in_chunks(rows: Rows, n_values: int = CHUNK_VALUES) -> Iterator[np.ndarray]:
    """Yield the rows in order, in chunks of about ``n_values`` values but at least one row."""
    step = max(1, n_values // max(1, math.prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def write_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterable[np.ndarray]) -> str:
    """Write an array to a .npy file chunk by chunk, and return its :func:`sha256`.

    Args:
        path: path of the file.
        shape: shape of the whole array.
        dtype: type of the values; every chunk must have it.
        chunks: the rows in order; together as many as ``shape`` says.

    Raises:
        ValueError: the chunks do not have the given type and shape.
    """
    digest = _digest(dtype, shape)
    n_rows = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            if chunk.dtype != dtype or chunk.shape[1:] != shape[1:]:
                raise ValueError(f"a chunk of {chunk.dtype} {chunk.shape} is not a part of an array of {dtype} {shape}")
            content = np.ascontiguousarray(chunk).data
            digest.update(content)
            file.write(content)
            n_rows += len(chunk)
        if n_rows != shape[0]:
            raise ValueError(f"the chunks have {n_rows} rows in all, not {shape[0]}")
    return digest.hexdigest()


def sha256(array: Rows) -> str:
    """Return the SHA-256 of an array's dtype, shape and values, as hexadecimal text."""
    digest = _digest(array.dtype, array.shape)
    for chunk in in_chunks(array) if array.shape else ():
        digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def _digest(dtype: np.dtype, shape: tuple[int, ...]) -> hashlib._Hash:
    return hashlib.sha256(f"{dtype.str} {shape}\n".encode())
