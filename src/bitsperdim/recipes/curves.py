"""The training curves that are kept with the results of recipes, for images of one kind.

Invariants (``tests/recipes/test_curves.py``): only curves for the same data set, treatment, shape and levels are read
(``test_only_curves_for_the_same_images_are_read``); a damaged curve is one sentence
(``test_a_damaged_curve_is_one_sentence``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsperdim.core.files import read_json
from bitsperdim.recipes.recipe import RESULTS, reading_result
from bitsperdim.runtime.curve import read_rows


@dataclass(frozen=True)
class Curve:
    """The training curve of one model for one seed.

    Attributes:
        name: name of the result and of the model, and the seed if there are several.
        n_presented: training images presented, rising, shape (n,).
        bpd: bits/dim of the validation images, shape (n,).
    """

    name: str
    n_presented: np.ndarray
    bpd: np.ndarray


def read_curves(root: Path, protocol: str) -> list[Curve]:
    """Return the committed curves for images of the kind that a protocol tag names, in the order of their names.

    The kind is the data set, the treatment, the shape and the number of levels. A curve without numbers of presented
    images, as early results have it, and a model in closed form are left out.

    Args:
        root: folder of the repository; without ``recipes/results`` there are no curves.
        protocol: tag of the images.

    Raises:
        InputError: a result is damaged.
    """
    found: list[Curve] = []
    for path in sorted((root / RESULTS).glob("*.csv")):
        with reading_result(path):
            if read_json(path.with_suffix(".json"))["data"]["protocol"].split("/")[:4] != protocol.split("/")[:4]:
                continue
            rows = read_rows(path.read_text(encoding="utf-8"))
            seeds = {row["seed"] for row in rows}
            for model, seed in dict.fromkeys((row["model"], row["seed"]) for row in rows):
                mine = [row for row in rows if (row["model"], row["seed"]) == (model, seed) and row["n_presented"]]
                points = np.array([(float(row["n_presented"]), float(row["validation_bpd"])) for row in mine])
                if len(mine) > 1:
                    name = f"{path.stem}, {model}" + (f", seed {seed}" if len(seeds) > 1 else "")
                    found.append(Curve(name, points[:, 0], points[:, 1]))
    return found
