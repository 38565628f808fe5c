"""Trained weights of small models, stored beside a recipe's result, so that anybody can score them again.

They are in ``recipes/weights/<result>/<model>/<seed>/``, in the two files from which a model is read, and the result
has their SHA-256. Larger weights are not stored, because git is not made for large files.

Invariants (``tests/recipes/test_rescoring.py``): the stored weights are the trained weights
(``test_small_weights_are_kept_and_large_ones_are_not``); weights that do not belong to the result are refused
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
FILES = ("weights.safetensors", "model.json")  # as in bitsperdim.models, whose import would load torch
LARGEST = 4 * 2**20  # bytes


def small_enough(finished: Finished, models: Iterable[str], seeds: Iterable[int]) -> dict[Path, bytes]:
    """Return the weights of a finished run that are small enough to be stored: path in the result's folder -> content.

    Args:
        finished: the run.
        models: names of its models.
        seeds: seeds of its training runs.
    """
    kept: dict[Path, bytes] = {}
    for model, seed in product(models, seeds):
        files = {Path(model, str(seed), name): finished.read(f"models/{model}/{seed}/{name}") for name in FILES}
        is_from_here = "origin" not in json.loads(files[Path(model, str(seed), "model.json")])
        if is_from_here and sum(map(len, files.values())) <= LARGEST:
            kept |= files
    return kept


def keep(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write the files of a result into its folder, after removing the files of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in files.items():
        write_bytes(folder / path, content)


def check_kept(folder: Path, root: Path, result: Mapping[str, Any]) -> None:
    """Refuse weights that do not belong to a result.

    Args:
        folder: folder with the weights of this result.
        root: folder of the repository.
        result: content of the result's JSON file.

    Raises:
        InputError: weights are missing, or have another SHA-256.
    """
    again = f"run `bitsperdim recipe {result['recipe']} --size {result['size']}` again"
    for model, content in result["models"].items():
        for seed, expected in content["weights_sha256"].items():
            path = folder / model / seed / "weights.safetensors"
            place = path.relative_to(root)
            if not path.is_file():
                raise InputError(
                    f"{place} does not exist: only weights of at most {LARGEST // 2**20} MiB are stored; {again}."
                )
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise InputError(f"{place} has another SHA-256 than the weights of the result; {again}.")
