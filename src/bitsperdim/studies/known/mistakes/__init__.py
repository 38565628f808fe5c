"""Every known way to print a wrong likelihood, made on purpose, and what catches it.

There is one list, :data:`MISTAKES`, in groups. Each mistake is made on the images of the pipeline, with small models
that are trained on them; how far the number is off is measured beside the right one, of the same images and the same
model; and what catches it is found out anew in each run:

- a model with the mistake goes to the audit, which is not told (:mod:`bitsperdim.auditing`);
- what this package refuses is asked for, and so is the comparison of numbers that are not comparable;
- of what its own code cannot do the test that guards it is named;
- what nothing finds is called open.

The same models without a mistake are audited too (:mod:`.right`).

Where a check is expected to find a mistake and does not, the row says "not caught"; the stage does not fail.

Invariants (``tests/studies/known/test_mistakes.py``): on digits each mistake is caught as the list says, and what is
open is open (``test_every_mistake_is_caught_as_it_says``); what has a known value has it
(``test_what_can_be_derived_is_measured``); a rerun is byte-identical (``test_a_rerun_is_byte_identical``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from bitsperdim.studies.known.mistakes import constants, counting, masses, pictures, samples
from bitsperdim.studies.known.mistakes.bench import Bench, some_images
from bitsperdim.studies.known.mistakes.mistake import Mistake, row_of
from bitsperdim.studies.known.mistakes.right import RIGHT, false_alarms

if TYPE_CHECKING:
    from bitsperdim.config.known import MistakesSection

__all__ = ["MISTAKES", "make_all", "study"]

MISTAKES: Mapping[str, Sequence[Mistake]] = {
    "Counting and units": counting.MISTAKES,
    "Densities and their constants": constants.MISTAKES,
    "Conditionals and networks": masses.MISTAKES,
    "Samples of a latent code": samples.MISTAKES,
    "Images and comparisons": pictures.MISTAKES,
}
Rows = Sequence[Mapping[str, Any]]


def make_all(bench: Bench) -> list[dict[str, Any]]:
    """Make every mistake and return its row."""
    every = [(group, mistake) for group, mistakes in MISTAKES.items() for mistake in mistakes]
    rows = []
    for group, mistake in (bar := tqdm(every, unit="mistake", disable=None, leave=False)):
        bar.set_description(mistake.name)
        rows.append(row_of(mistake, group, bench))
    return rows


def study(
    section: MistakesSection, dequantized: Path, seed: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Return the metrics of this part, and the rows of its table.

    Args:
        section: how many images, and how long is trained and asked.
        dequantized: the folder with the images of the pipeline.
        seed: of all randomness.
        device: is not used: models and images are small.

    Raises:
        InputError: the images are missing or damaged.
    """
    images = some_images(dequantized, section, seed)
    bench = Bench(images, section, seed)
    rows, alarms = make_all(bench), false_alarms(bench)
    outcomes = [row["outcome"] for row in rows]
    metrics = {
        "protocol": bench.data.protocol,
        "is_cut": images.is_cut,
        "n_train": len(images.splits["train"]),
        "n_right_models": len(RIGHT),
        "false_alarms": alarms,
        "n_mistakes": len(rows),
        "n_caught": outcomes.count("caught"),
        "n_not_caught": outcomes.count("not caught"),
        "n_open": outcomes.count("open"),
        "n_not_applicable": outcomes.count("does not apply"),
    }
    return metrics, {"mistakes": rows}
