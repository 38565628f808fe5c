"""Reading of single files of ``results``: each is read completely, or refused with one sentence.

:mod:`bitsperdim.report.content` interprets the contents, and checks whether files belong together.

Invariant (``tests/report/test_report.py``): a missing or broken file gives one sentence that names the file
(``test_a_missing_file_is_one_sentence``).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from bitsperdim.config.params import SWITCHED_OFF
from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import Stored

Columns = dict[str, np.ndarray]
AS_SWITCHED_OFF = f"{json.dumps(SWITCHED_OFF, indent=2)}\n".encode()  # metrics.json of a study that is switched off
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


Schema = TypeVar("Schema", bound=Stored)


def read_stored(path: Path, schema: type[Schema]) -> Schema:
    """Read a JSON file and check it against its schema."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if content == AS_SWITCHED_OFF:
        raise InputError(
            f"{path} says that the study is switched off; add it to studies in params.yaml, and run `dvc repro`."
        )
    return schema.read(content, str(path))


def read_columns(path: Path, names: tuple[str, ...], may_be_nan: tuple[str, ...] = ()) -> Columns:
    """Read the named columns of a CSV file as float64; only the columns in ``may_be_nan`` may contain NaN."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in names}
    except OSError as error:
        raise _unreadable(path, error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a table of numbers with the columns {', '.join(names)}.") from error
    if not rows:
        raise InputError(f"{path} has no rows.")
    if any(np.isnan(column).any() for name, column in columns.items() if name not in may_be_nan):
        raise InputError(f"{path} has a NaN in one of the columns {', '.join(names)}.")
    return columns


def read_rows(
    path: Path, text: str, numbers: tuple[str, ...], may_be_nan: tuple[str, ...] = ()
) -> list[dict[str, str | float]]:
    """Read the rows of a CSV file with one column of text and columns of numbers, some of which may contain NaN."""
    columns = read_columns(path, numbers, may_be_nan)
    with path.open(encoding="utf-8", newline="") as file:
        names = [row.get(text) for row in csv.DictReader(file)]
    found: list[dict[str, str | float]] = []
    for index, name in enumerate(names):
        if not name:
            raise InputError(f"{path} has no {text} in row {index + 1}.")
        found.append({text: name, **{key: float(column[index]) for key, column in columns.items()}})
    return found


def read_arrays(path: Path, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, np.ndarray]:
    """Read the named arrays of a .npz file and check their shapes; None means any length."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in shapes}
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # a damaged file can raise almost any exception
        raise InputError(f"{path} does not have the arrays {', '.join(shapes)}, or is damaged.") from error
    for name, shape in shapes.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(b not in (None, a) for a, b in zip(found, shape, strict=True)):
            raise InputError(f"{path}: {name} has the shape {found}, which differs from what the stage writes.")
    return arrays


def read_picture(path: Path) -> Picture:
    """Read a PNG file and its size."""
    try:
        png = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not png.startswith(PNG_SIGNATURE) or len(png) < 24:
        raise InputError(f"{path} is not a PNG file.")
    # the header chunk comes first: its width and height are bytes 16 to 23
    return Picture(png, int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"))


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}); run the stage that writes it.")
