"""What another machine changes: the same code and parameters, but other digits than those that are committed.

Processors add numbers in an order of their own, and so do GPUs, other numbers of threads and other versions of PyTorch;
a training amplifies the differences. So a rerun of the last commit on another machine modifies files that git tracks,
though nobody changed anything. The end of a run says so, and why, and whether the numbers agree within the tolerances
of :mod:`bitsperdim.comparing.rerun`.

``dvc.lock`` tells which stages: those whose command, code and parameters are the ones of the last commit, as are those
of all stages before them, but whose outputs are not.

Invariants (``tests/comparing/test_rounding.py``): other outputs of the same inputs are told; those of another command,
another parameter, an edit of the code or other images, here or in an earlier stage, are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitsperdim.comparing.rerun import disagreements
from bitsperdim.core import made_with
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import workspace
from bitsperdim.core.git import Repository, repository

LOCK = "dvc.lock"
SHOWN = 3  # stages, disagreements
Stages = Mapping[str, Mapping[str, Any]]


def rounded_otherwise(before: Stages, after: Stages) -> list[str]:
    """Return the stages that were given the same twice and made something else of it, in the order of ``after``.

    Args:
        before: the stages of a ``dvc.lock``.
        after: those of another.
    """
    makers = {out["path"]: name for name, stage in after.items() for out in stage.get("outs", [])}

    def made_by(path: str) -> set[str]:
        """The stages that make a file or folder, or a part of it."""
        return {
            name
            for made, name in makers.items()
            if path == made or path.startswith(f"{made}/") or made.startswith(f"{path}/")
        }

    def own(stage: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a stage is given that no other stage makes."""
        deps = {dep["path"]: dep.get("md5") for dep in stage.get("deps", []) if not made_by(dep["path"])}
        return stage.get("cmd"), stage.get("params"), deps

    known: dict[str, bool] = {}

    def is_the_same(name: str) -> bool:
        """Whether a stage was given the same, and all before it."""
        if name not in known:
            known[name] = name in before and own(before[name]) == own(after[name])
            earlier = {maker for dep in after[name].get("deps", []) for maker in made_by(dep["path"])} - {name}
            known[name] = known[name] and all(is_the_same(maker) for maker in earlier)
        return known[name]

    return [name for name in after if is_the_same(name) and _outs(before[name]) != _outs(after[name])]


def _outs(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hash of each output, but of those that name the machine: they hold no digits."""
    files = tuple(made_with.FILES.values())
    return {out["path"]: out.get("md5") for out in stage.get("outs", []) if not out["path"].endswith(files)}


def sentence(root: Path) -> str:
    """Return what a user should know of digits that differ from the last commit's; empty where there are none.

    Where git cannot tell what the last commit is, or a lock is not one, nothing can be said.

    Args:
        root: of the laboratory, with a ``dvc.lock`` that DVC has just written.
    """
    try:
        here = repository(root)
        committed, current = here.read([f"HEAD:./{LOCK}"])[f"HEAD:./{LOCK}"], (root / LOCK).read_bytes()
        if committed is None or committed == current:  # nothing to parse, which takes a second
            return ""
        before, after = (YAML(typ="safe").load(lock.decode("utf-8"))["stages"] for lock in (committed, current))
        names = rounded_otherwise(before, after)
        return _told(here, names, [path for name in names for path in _outs(after[name])]) if names else ""
    except (InputError, OSError, YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _told(here: Repository, names: list[str], outs: list[str]) -> str:
    """Return the sentences on stages that rounded otherwise, and on their outputs."""
    found, n_compared = [], 0
    numbers = [path for path in outs if path.endswith("/metrics.json")]
    for path, content in zip(numbers, here.read([f"HEAD:./{path}" for path in numbers]).values(), strict=True):
        if content is not None and (here.root / path).is_file():
            rerun = json.loads((here.root / path).read_text(encoding="utf-8"))
            found += disagreements(json.loads(content), rerun, Path(path).parent.name)
            n_compared += 1
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    told = [
        f"Other digits than in the last commit, from the same code and parameters: {', '.join(names[:SHOWN])}{more}.",
        "Another processor, GPU, number of threads or version of PyTorch adds numbers in another order, and a training "
        "amplifies the differences.",
    ]
    if found:
        told.append(f"NOT within the tolerances of `make check`: {' '.join(found[:SHOWN])}")
    elif n_compared:
        told.append("These numbers agree with the committed ones, within the tolerances of `make check`.")
    if workspace() == Path():  # not in a copy that DVC made for an experiment
        status = here.ask("status", "--porcelain", "--untracked-files=no", "--", LOCK, *outs)
        told.append(f"Tracked files that are modified by that: {len(status.splitlines())}.")
    return " ".join(told)
