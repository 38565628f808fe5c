"""Byte-stable, atomic files: the same content is always the same bytes, and a file is whole or absent.

Nothing here writes a time, a host or a commit.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitsperdim.errors import InputError

FLOAT_FORMAT = "%.9g"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and move it there when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to ``path`` atomically."""
    write_bytes(path, content.encode("utf-8"))


def rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Round every float in a JSON-like value to nine significant digits."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(FLOAT_FORMAT % value)
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and floats of nine significant digits.

    NaN is refused. An infinite value is written as ``Infinity``, which Python and DVC read: a model that gives an
    image no mass has an infinite loss, and a null would vanish from ``dvc metrics``.
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
    """Turn any failure to read a file that ``stage`` wrote into one sentence.

    Raises:
        InputError: the file is missing, cut short, or not what the stage writes.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} is not there; run the stage {stage!r} first.") from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise InputError(f"{path} is damaged ({type(error).__name__}); run the stage {stage!r} again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV with the given columns, floats with nine significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row[column] for column in columns)
        writer.writerow([FLOAT_FORMAT % cell if isinstance(cell, float) else cell for cell in cells])
    write_text(path, text.getvalue())


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz, the same bytes whenever and with whichever version of Python.

    numpy's own function streams, and what Python writes of a streamed member has changed between
    patch releases.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content.getbuffer())


def sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's dtype, shape and values, as hexadecimal text."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
