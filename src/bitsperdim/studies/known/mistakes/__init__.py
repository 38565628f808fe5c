"""Known mistakes that lead to a wrong likelihood, made on purpose, and the checks that catch them.

The list :data:`MISTAKES` contains all mistakes in groups. Each mistake is made on the images of the pipeline, with
small models that are trained on them. The wrong number is compared with the right number for the same images and the
same model. Each run tests again what catches the mistake:

- a model with the mistake is passed to the audit without any hint (:mod:`bitsperdim.auditing`);
- the study tries what this package should refuse, such as the comparison of numbers that are not comparable;
- if the code of this package cannot make the mistake, the test that ensures this is named;
- if no check finds the mistake, it is called open.

The same models without a mistake are audited too (:mod:`.right`).

If a check should find a mistake and does not, the row says "not caught"; the stage does not fail.

Invariants (``tests/studies/known/test_mistakes.py``): on digits, each mistake is caught in the way that the list says,
and open mistakes stay open (``test_every_mistake_is_caught_as_it_says``); errors with a known value have this value
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
    """Make every mistake and return one row for each."""
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
        section: numbers of images, training steps and questions of the audit.
        dequantized: folder with the images of the pipeline.
        seed: seed of all randomness.
        device: not used, because models and images are small.

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
