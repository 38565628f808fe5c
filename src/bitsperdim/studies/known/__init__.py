"""The study of known truths: tests of this package on problems whose answers are known.

It has three parts:

- :mod:`.excess`: model families are trained on images whose log P(x) is known, and no model beats the truth;
- :mod:`.estimators`: estimators are applied many times to marginal likelihoods that are known;
- :mod:`.mistakes`: known mistakes that lead to a wrong likelihood are made on purpose, to see which checks catch them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitsperdim.core.files import write_csv, write_json
from bitsperdim.studies.known import estimators, excess, mistakes

if TYPE_CHECKING:
    import torch

    from bitsperdim.config.families.base import TrainSection
    from bitsperdim.config.known import KnownSection

__all__ = ["study", "write"]

Rows = Sequence[Mapping[str, Any]]
Found = tuple[dict[str, Any], dict[str, Rows]]  # metrics, and the rows of each table by its name


def study(section: KnownSection, shared: TrainSection, dequantized: Path, device: torch.device) -> Found:
    """Run the three parts of the study.

    Args:
        section: section of the study in ``params.yaml``.
        shared: shared settings of the trainer.
        dequantized: folder with the images of the pipeline, on which the mistakes are made.
        device: device for the computations.

    Returns:
        The metrics of each part under its name, and the rows of each table by its name.

    Raises:
        InputError: the images are missing or damaged, or a training run failed.
    """
    metrics: dict[str, Any] = {}
    tables: dict[str, Rows] = {}
    for name, found in (
        ("excess", excess.study(section.excess, shared, section.seed, device)),
        ("estimators", estimators.study(section.estimators, section.seed)),
        ("mistakes", mistakes.study(section.mistakes, dequantized, section.seed, device)),
    ):
        metrics[name] = found[0]
        tables |= found[1]
    return metrics, tables


def write(folder: Path, metrics: Mapping[str, Any], tables: Mapping[str, Rows]) -> None:
    """Write ``metrics.json`` and one CSV for each table into ``folder``."""
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", list(rows[0]), rows)
    write_json(folder / "metrics.json", metrics)
