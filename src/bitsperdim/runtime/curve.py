"""The training curve of a model: a file that grows with the training, and beside the logs the same with seconds.

``training_curve.csv`` is an output of its stage, of which the same weights have the same bytes. Seconds are never the
same: they stand with all else in ``train-<model>.csv`` in the folder of the logs, which no stage declares and git
ignores. Both are written after an epoch, where the last time is :data:`EVERY` seconds ago, and whole in the end.

Invariants (``tests/runtime/test_curve.py``): while a model is trained they hold every epoch so far, of the seeds before
too (``test_they_grow_with_the_training``); a disk that is full stops no training
(``test_a_full_disk_stops_no_training``).
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

from bitsperdim.core.files import write_csv

COLUMNS = ("epoch", "step", "n_presented", "learning_rate", "train_bpd", "validation_bpd", "seed")
SECONDS = "seconds"
EVERY = 1.0  # seconds between two times that the files are written
Row = Mapping[str, float | int]


class CurveFiles:
    """The two files, and what they hold.

    Args:
        curve: the path of that without seconds.
        log: of that with seconds.
    """

    def __init__(self, curve: Path, log: Path) -> None:
        """Write nothing yet."""
        self.curve, self.log = curve, log
        self.rows: list[Row] = []  # of the seeds before
        self.written = -math.inf

    def follow(self, rows: Sequence[Row], seconds: Sequence[float]) -> None:
        """Write the epochs of one more seed so far, unless the last time was just now.

        Args:
            rows: with the keys :data:`COLUMNS`.
            seconds: of the training of this seed, at the end of each.
        """
        if monotonic() - self.written < EVERY:
            return
        try:
            self._write(self.curve, [*self.rows, *timed(rows, seconds)])
            self._write(self.log, [*self.rows, *timed(rows, seconds)])
        except OSError as error:
            reason = error.strerror or error
            sys.stderr.write(f"{error.filename} cannot be written ({reason}); the training goes on without it.\n")
        self.written = monotonic()

    def add(self, rows: Sequence[Row], seconds: Sequence[float]) -> None:
        """Take over the rows of a seed that is trained."""
        self.rows += timed(rows, seconds)

    def finish(self) -> None:
        """Write both files; that of the logs if it can be."""
        self._write(self.curve, self.rows)
        try:
            self._write(self.log, self.rows)
        except OSError as error:
            sys.stderr.write(f"{self.log} cannot be written ({error.strerror or error}).\n")

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        write_csv(path, COLUMNS if path == self.curve else (*COLUMNS, SECONDS), rows)


def timed(rows: Sequence[Row], seconds: Sequence[float]) -> list[Row]:
    """Return rows with their seconds, to the millisecond."""
    return [{**row, SECONDS: round(at, 3)} for row, at in zip(rows, seconds, strict=True)]


def read_rows(text: str) -> list[dict[str, str]]:
    """Return the rows of a file of either kind, also one that an earlier version wrote."""
    return list(csv.DictReader(io.StringIO(text)))


def seconds_of(curve: Sequence[Mapping[str, str]], log: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the seconds at each row of a curve by a log; empty ones where the log is of another training.

    A log is of a training where all else that it says is the same, digit for digit.
    """
    same = [{key: value for key, value in row.items() if key != SECONDS} for row in log] == [dict(row) for row in curve]
    return [row.get(SECONDS, "") for row in log] if same else [""] * len(curve)
