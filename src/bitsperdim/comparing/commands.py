"""The commands ``bitsperdim compare`` and ``bitsperdim leaderboard``: their arguments in, their text out."""

from __future__ import annotations

import sys
from pathlib import Path

from bitsperdim.core.errors import InputError

NAMES = (
    "A and B are git revisions, names of DVC experiments, or names of results in recipes/results; 'workspace' means "
    "the present files. A name is looked up first as a revision, then as a recipe result, then as an experiment. "
    "NAME:MODEL picks one model, so that two different models can be compared."
)


def compare(root: Path, a: str, b: str, models: str | None, form: str) -> str:
    """Return a comparison as ``text``, ``markdown`` or ``json``.

    Args:
        root: folder of the repository.
        a: the first name, with or without a model.
        b: the second name, with or without a model.
        models: names of models separated by commas, or None for all.
        form: ``text``, ``markdown`` or ``json``.

    Raises:
        InputError: a name is unknown, or nothing can be compared.
    """
    from bitsperdim.comparing import comparison, output
    from bitsperdim.comparing.cache import Cache
    from bitsperdim.comparing.source import find

    (name_a, model_a), (name_b, model_b) = split(a), split(b)
    if models is not None and (model_a or model_b):
        raise InputError("Name the models either by --models or as A:MODEL B:MODEL, not both.")
    chosen = None if models is None else [name for name in models.split(",") if name]
    if chosen == []:
        raise InputError("--models is empty; name models separated by commas, such as --models vae,iwae.")
    cache = Cache(root)
    found = comparison.compare(find(root, name_a, cache), find(root, name_b, cache), (model_a, model_b), chosen)
    return {"text": output.as_text, "markdown": output.as_markdown, "json": output.as_json}[form](found)


def split(argument: str) -> tuple[str, str | None]:
    """Return the name and the model of ``NAME:MODEL``; a git revision of a commit never ends in ``:MODEL``."""
    name, colon, model = argument.rpartition(":")
    return (name, model or None) if colon else (argument, None)


def leaderboard(root: Path, form: str, *, with_recipes: bool = False) -> str:
    """Return the leaderboard as ``text``, ``markdown`` or ``csv``, with or without the results of recipes.

    With ``csv``, the reasons why results were left out go to the standard error.

    Raises:
        InputError: there are no results, or git fails.
    """
    from bitsperdim.comparing import leaderboard as board
    from bitsperdim.comparing.cache import Cache

    found = board.leaderboard(root, Cache(root), with_recipes=with_recipes)
    if form == "csv":
        for sentence in found.left_out:
            print(f"Left out: {sentence}", file=sys.stderr)
        text: str = found.table().to_csv(index=False).rstrip("\n")
        return text
    return {"text": board.as_text, "markdown": board.as_markdown}[form](found)
