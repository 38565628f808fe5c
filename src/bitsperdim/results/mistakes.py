"""Reading and checking the table of mistakes that the study ``known`` makes on purpose.

Invariant (``tests/report/test_mistakes_table.py``): a row in another format than the stage writes gives one sentence
that names the file and the row.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import Stored
from bitsperdim.results.reading import read_stored

TABLE = "mistakes.csv"
SHOWN = 5e-5  # bits/dim: half a unit in the last digit of a number that is shown without an error
NUMBERS = ("wrong_bpd", "right_bpd", "off_bpd", "off_bpd_standard_error")


class MistakesMetrics(Stored):
    """Counts of the mistakes in ``results/known/metrics.json``."""

    protocol: str
    is_cut: bool
    n_train: int
    n_right_models: int
    false_alarms: list[str]
    n_mistakes: int
    n_caught: int
    n_not_caught: int
    n_open: int
    n_not_applicable: int


class _OfStudy(Stored):
    mistakes: MistakesMetrics


class Row(Stored):
    """One mistake.

    Attributes:
        group: heading of its group.
        name: a few words.
        done: sentence that describes the mistake.
        source: published case; empty: no published case was found.
        way: how it is expected to be caught.
        law: test that protects this package from the mistake; may be empty.
        wrong_bpd: number with the mistake, bits/dim; this and the next three are None if the mistake does not apply.
        right_bpd: number without the mistake, bits/dim.
        off_bpd: difference of the two, negative if the number with the mistake looks better.
        off_bpd_standard_error: standard error, paired over images; None if the numbers are not of the same images.
        outcome: the result.
        by: the checks that found it, or the law.
        words: sentence of the check or of the refusal, or the reason why the mistake does not apply.
    """

    group: str
    name: str
    done: str
    source: str
    way: Literal["audit", "refusal", "comparison", "law", "open"]
    law: str
    wrong_bpd: float | None = None
    right_bpd: float | None = None
    off_bpd: float | None = None
    off_bpd_standard_error: float | None = None
    outcome: Literal["caught", "not caught", "open", "does not apply"]
    by: str
    words: str

    @property
    def caught_by(self) -> str:
        """What caught the mistake, in a few words; empty if it was not caught."""
        if self.outcome != "caught":
            return ""
        if self.way == "law":
            return "by construction"
        if self.way == "comparison":
            return "comparison refused"
        return self.by.replace("; ", ", ")

    @property
    def has_error(self) -> bool:
        """Whether the standard error is large enough to be shown; the error of a constant is zero."""
        return self.off_bpd_standard_error is not None and self.off_bpd_standard_error >= SHOWN

    @property
    def looks(self) -> str:
        """Whether the mistake makes a model look better or worse, in words."""
        off = 0.0 if self.off_bpd is None or abs(self.off_bpd) < 1e-9 else self.off_bpd
        return "looks better" if off < 0 else "looks worse" if off > 0 else "the same number"


@dataclass(frozen=True)
class Mistakes:
    """The table of mistakes.

    Attributes:
        metrics: counts.
        rows: rows in the order of the table.
    """

    metrics: MistakesMetrics
    rows: list[Row]

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """Name and rows of each group."""
        return [(name, list(rows)) for name, rows in groupby(self.rows, lambda row: row.group)]

    def of(self, outcome: str) -> list[Row]:
        """Return the rows with this outcome."""
        return [row for row in self.rows if row.outcome == outcome]

    @property
    def most(self) -> Row | None:
        """The mistake that improves the number most; None if no mistake improves it."""
        better = [row for row in self.rows if row.off_bpd is not None and row.off_bpd < 0]
        return min(better, key=lambda row: row.off_bpd or 0.0, default=None)


def read_mistakes(folder: Path) -> Mistakes:
    """Read the table in ``results/known``.

    Raises:
        InputError: a file is missing, or has another format than the stage writes.
    """
    path = folder / TABLE
    metrics = read_stored(folder / "metrics.json", _OfStudy).mistakes
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); run the stage that writes it.") from error
    rows = [_row(line, f"{path}, row {number}") for number, line in enumerate(lines, 1)]
    if len(rows) != metrics.n_mistakes:
        raise InputError(f"{path} has {len(rows)} rows, but {folder / 'metrics.json'} counts {metrics.n_mistakes}.")
    return Mistakes(metrics, rows)


def _row(line: dict[str, str], place: str) -> Row:
    content: dict[str, object] = dict(line)
    for name in NUMBERS:
        try:
            content[name] = float(line[name]) if line.get(name) else None
        except ValueError as error:
            raise InputError(f"{place}: {name} = {line[name]!r} is not a number.") from error
    row = Row.of(content, place)
    if row.outcome != "does not apply" and (row.off_bpd is None or not math.isfinite(row.off_bpd)):
        raise InputError(f"{place}: off_bpd is not a finite number.")
    return row
