"""The training curve of a model: a file that grows during training, and a copy with seconds in the folder of the logs.

``training_curve.csv`` is an output of its stage: the same weights give the same bytes. Seconds differ from run to run.
Therefore they are in a second file with the same rows, ``train-<model>.csv`` in the folder of the logs, which no stage
declares and git ignores. Both files are written after an epoch if the last time was at least :data:`EVERY` seconds ago,
and completely at the end.

Invariants (``tests/runtime/test_curve.py``): during training, the files hold every epoch so far, also of the earlier
seeds (``test_they_grow_with_the_training``); a full disk does not stop training
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
EVERY = 1.0  # seconds between two writes of the files, at least
Row = Mapping[str, float | int]


class CurveFiles:
    """The two files of a training curve and their rows.

    Args:
        curve: path of the file without seconds.
        log: path of the file with seconds.
    """

    def __init__(self, curve: Path, log: Path) -> None:
        """Store the paths; no file is written yet."""
        self.curve, self.log = curve, log
        self.rows: list[Row] = []  # rows of the finished seeds
        self.written = -math.inf

    def follow(self, rows: Sequence[Row], seconds: Sequence[float]) -> None:
        """Write both files with the epochs of the current seed so far, unless they were written just now.

        Args:
            rows: rows of the current seed, with the keys :data:`COLUMNS`.
            seconds: training time of this seed at the end of each row's epoch.
        """
        if monotonic() - self.written < EVERY:
            return
        try:
            self._write(self.curve, [*self.rows, *timed(rows, seconds)])
            self._write(self.log, [*self.rows, *timed(rows, seconds)])
        except OSError as error:
            reason = error.strerror or error
            sys.stderr.write(f"{error.filename} cannot be written ({reason}); training continues without it.\n")
        self.written = monotonic()

    def add(self, rows: Sequence[Row], seconds: Sequence[float]) -> None:
        """Keep the rows of a seed whose training is finished."""
        self.rows += timed(rows, seconds)

    def finish(self) -> None:
        """Write both files completely; if the file with seconds cannot be written, only print a message.

        Raises:
            OSError: the curve without seconds cannot be written.
        """
        self._write(self.curve, self.rows)
        try:
            self._write(self.log, self.rows)
        except OSError as error:
            sys.stderr.write(f"{self.log} cannot be written ({error.strerror or error}).\n")

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        write_csv(path, COLUMNS if path == self.curve else (*COLUMNS, SECONDS), rows)


def timed(rows: Sequence[Row], seconds: Sequence[float]) -> list[Row]:
    """Return the rows with their seconds added, rounded to milliseconds."""
    return [{**row, SECONDS: round(at, 3)} for row, at in zip(rows, seconds, strict=True)]


def read_rows(text: str) -> list[dict[str, str]]:
    """Return the rows of either file from its text, also if an earlier version wrote it."""
    return list(csv.DictReader(io.StringIO(text)))


def seconds_of(curve: Sequence[Mapping[str, str]], log: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the seconds from a log for each row of a curve; empty texts if the log is from another training run.

    The log belongs to the same training run if all its other columns equal the curve, digit for digit.
    """
    same = [{key: value for key, value in row.items() if key != SECONDS} for row in log] == [dict(row) for row in curve]
    return [row.get(SECONDS, "") for row in log] if same else [""] * len(curve)
