"""The trained weights of small models, kept beside a recipe's result, so that anybody can score them again.

They lie in ``recipes/weights/<result>/<model>/<seed>/``, in the two files that a model is read from; the result has
their SHA-256. What is larger is not kept: git is not made for it.

Invariants (``tests/recipes/test_rescoring.py``): what is kept is what was trained
(``test_small_weights_are_kept_and_large_ones_are_not``); weights that are not those of the result are refused
(``test_other_weights_are_refused``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_bytes
from bitsperdim.recipes.recipe import FOLDER
from bitsperdim.recipes.running import Finished

WEIGHTS = FOLDER / "weights"
FILES = ("weights.safetensors", "model.json")  # of bitsperdim.models, whose import would load torch
LARGEST = 4 * 2**20  # bytes


def small_enough(finished: Finished, models: Iterable[str], seeds: Iterable[int]) -> dict[Path, bytes]:
    """Return what is kept of a finished run: the content of each file, by its path in the folder of the result.

    Args:
        finished: the run.
        models: the names of its models.
        seeds: of its trainings.
    """
    kept: dict[Path, bytes] = {}
    for model, seed in product(models, seeds):
        files = {Path(model, str(seed), name): finished.read(f"models/{model}/{seed}/{name}") for name in FILES}
        is_from_here = "origin" not in json.loads(files[Path(model, str(seed), "model.json")])
        if is_from_here and sum(map(len, files.values())) <= LARGEST:
            kept |= files
    return kept


def keep(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write the files of a result into its folder, and remove what an earlier run left there."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in files.items():
        write_bytes(folder / path, content)


def check_kept(folder: Path, root: Path, result: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of a result.

    Args:
        folder: of this result.
        root: of the repository.
        result: the content of its JSON.

    Raises:
        InputError: some are missing, or have another SHA-256.
    """
    again = f"run `bitsperdim recipe {result['recipe']} --size {result['size']}` again"
    for model, content in result["models"].items():
        for seed, expected in content["weights_sha256"].items():
            path = folder / model / seed / "weights.safetensors"
            place = path.relative_to(root)
            if not path.is_file():
                raise InputError(
                    f"{place} is not there: weights are kept where they take at most {LARGEST // 2**20} MiB; {again}."
                )
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise InputError(f"{place} is not what the result was scored with, by its SHA-256; {again}.")
