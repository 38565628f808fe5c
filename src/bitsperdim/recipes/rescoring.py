"""Scoring of the stored weights of a recipe's result with the present evaluation, without training.

The data stages and the evaluation run in a separate folder, without DVC. The result then has the new numbers and their
times, and records the commit at which they were computed (``rescored``). Everything about the training stays, above all
its commit.

Invariants (``tests/recipes/test_rescoring.py``): the same settings give the same numbers
(``test_the_same_settings_give_the_same_numbers``); changed settings of the evaluation are taken from the recipe
(``test_other_settings_of_the_evaluation``); other images, models or training settings are refused
(``test_a_recipe_that_trains_otherwise_is_refused``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitsperdim.config.defaults import completed
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json, write_json, write_npz
from bitsperdim.recipes.recipe import RESULTS, Recipe, SizeName, read_yaml, reading_result, result_name
from bitsperdim.recipes.result import rescored
from bitsperdim.recipes.running import score
from bitsperdim.recipes.weights import WEIGHTS, check_kept

TRAINED = ("dataset", "dequantize", "models", "seeds", "train")  # these and the models' own sections decide the weights


def rescore(root: Path, recipe: Recipe, size: SizeName) -> Path:
    """Score the weights of a result again, and write the result again; return the path of its JSON file.

    Args:
        root: folder of the repository.
        recipe: recipe of the result.
        size: ``cpu``, ``long`` or ``gpu``.

    Raises:
        InputError: there is no result, its weights are missing or different, the recipe now has other training
            settings, or a stage failed (the stage has printed the reason).
    """
    name = result_name(recipe.name, size)
    path, weights = root / RESULTS / f"{name}.json", root / WEIGHTS / name
    place = path.relative_to(root)
    if not path.is_file():
        raise InputError(
            f"There is no result {place} whose weights could be scored; run `bitsperdim recipe {recipe.name} "
            f"--size {size}` first."
        )
    params = recipe.parameters(read_yaml(root / "params.yaml"), size)
    with reading_result(path):
        content = read_json(path)
        check_kept(weights, root, content)
        others = [
            key
            for key in (*TRAINED, *params["models"])
            if completed(content["params"], key).get(key) != completed(params, key).get(key)
        ]
    if others:
        raise InputError(
            f"{place} was made with other values in {', '.join(others)} than recipes/{recipe.name}.yaml and "
            f"params.yaml have now; run the recipe again, or restore these values."
        )
    finished = score(root, recipe, size, params, weights)
    with reading_result(path), path.with_suffix(".npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        content, found = rescored(content, dict(arrays), finished)
    write_npz(path.with_suffix(".npz"), found)
    write_json(path, content)
    return path
