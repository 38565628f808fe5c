"""What the report shows of the study ``known``: its metrics and tables, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitsperdim.core.stored import Stored
from bitsperdim.results.mistakes import Mistakes, read_mistakes
from bitsperdim.results.reading import read_stored


class KnownMetrics(Stored):
    """``results/known/metrics.json``."""


@dataclass(frozen=True)
class KnownTruths:
    """Metrics, columns of tables, and the mistakes."""

    metrics: KnownMetrics
    mistakes: Mistakes


def read_known(folder: Path) -> KnownTruths:
    """Read ``results/known``.

    Raises:
        InputError: a file is missing or not what the stage writes.
    """
    return KnownTruths(read_stored(folder / "metrics.json", KnownMetrics), read_mistakes(folder))
