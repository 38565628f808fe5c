"""The files of ``results``, each read as a whole or refused with one sentence.

What their contents mean, and whether they belong together, is the business of
:mod:`bitsperdim.report.content`.

Invariant (``tests/report/test_report.py``): a missing or broken file is one sentence that names it
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
AS_SWITCHED_OFF = f"{json.dumps(SWITCHED_OFF, indent=2)}\n".encode()  # as a stage writes it
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
        raise InputError(f"{path} says that the study is switched off; name it in studies, and run `dvc repro`.")
    return schema.read(content, str(path))


def read_columns(path: Path, names: tuple[str, ...], may_be_nan: tuple[str, ...] = ()) -> Columns:
    """Read the named columns of a CSV file as float64, of which some may hold a NaN."""
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
        raise InputError(f"{path} holds a NaN in one of the columns {', '.join(names)}.")
    return columns


def read_rows(
    path: Path, text: str, numbers: tuple[str, ...], may_be_nan: tuple[str, ...] = ()
) -> list[dict[str, str | float]]:
    """Read the rows of a CSV file with one column of text and others of numbers, of which some may hold a NaN."""
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
    """Read the named arrays of a .npz file and check their shapes; None stands for any length."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in shapes}
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise InputError(f"{path} does not hold the arrays {', '.join(shapes)}.") from error
    for name, shape in shapes.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(b not in (None, a) for a, b in zip(found, shape, strict=True)):
            raise InputError(f"{path}: {name} has the shape {found}, which is not what a stage writes there.")
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
