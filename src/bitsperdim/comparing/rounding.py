"""Messages about a rerun on another machine, whose last digits differ from the committed ones.

Another processor, GPU, number of threads or version of PyTorch adds numbers in another order, and training amplifies
the differences. So a rerun of the last commit on another machine modifies files that git tracks, although nobody
changed anything. At its end a run reports this and its cause, and whether the numbers agree within the tolerances of
:mod:`bitsperdim.comparing.rerun`.

The affected stages are found in ``dvc.lock``. Their command, code and parameters are those of the last commit, and so
are those of all earlier stages, but their outputs differ.

Invariants (``tests/comparing/test_rounding.py``): different outputs from the same inputs are reported. Outputs are not
reported if the command, a parameter, the code or the images differ, in this stage or in an earlier one.
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
CODE = "data/code"  # hashes of the code, from preflight: where the package is installed, no stage depends on it itself
TOLERANCES = "the tolerances of bitsperdim.comparing.rerun"
SHOWN = 3  # largest number of stages, and of disagreements, that are shown
Stages = Mapping[str, Mapping[str, Any]]


def rounded_otherwise(before: Stages, after: Stages) -> list[str]:
    """Return the stages with the same inputs but other outputs, in the order of ``after``.

    Args:
        before: stages of a ``dvc.lock``.
        after: stages of another ``dvc.lock``.
    """
    makers = {out["path"]: name for name, stage in after.items() for out in stage.get("outs", [])}

    def made_by(path: str) -> set[str]:
        """Return the stages that make a file or folder, or a part of it."""
        return {
            name
            for made, name in makers.items()
            if path == made or path.startswith(f"{made}/") or made.startswith(f"{path}/")
        }

    def own(stage: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the inputs of a stage that no other stage makes, and the hashes of the code that it needs."""
        deps = {
            dep["path"]: dep.get("md5")
            for dep in stage.get("deps", [])
            if dep["path"].startswith(f"{CODE}/") or not made_by(dep["path"])
        }
        return stage.get("cmd"), stage.get("params"), deps

    known: dict[str, bool] = {}

    def is_the_same(name: str) -> bool:
        """Return whether a stage and all stages before it have the same inputs."""
        if name not in known:
            known[name] = name in before and own(before[name]) == own(after[name])
            earlier = {maker for dep in after[name].get("deps", []) for maker in made_by(dep["path"])} - {name}
            known[name] = known[name] and all(is_the_same(maker) for maker in earlier)
        return known[name]

    return [name for name in after if is_the_same(name) and _outs(before[name]) != _outs(after[name])]


def _outs(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hash of each output, without the files that describe the machine or the code and hold no results."""
    files = (*made_with.FILES.values(), CODE)
    return {out["path"]: out.get("md5") for out in stage.get("outs", []) if not out["path"].endswith(files)}


def sentence(root: Path) -> str:
    """Return a message about digits that differ from the last commit; empty if there are none.

    The message is also empty if git cannot read the last commit, or if a lock file is damaged.

    Args:
        root: folder of the laboratory, with a ``dvc.lock`` that DVC has just written.
    """
    try:
        here = repository(root)
        committed, current = here.read([f"HEAD:./{LOCK}"])[f"HEAD:./{LOCK}"], (root / LOCK).read_bytes()
        if committed is None or committed == current:  # parsing takes a second, and is not needed here
            return ""
        before, after = (YAML(typ="safe").load(lock.decode("utf-8"))["stages"] for lock in (committed, current))
        names = rounded_otherwise(before, after)
        return _told(here, names, [path for name in names for path in _outs(after[name])]) if names else ""
    except (InputError, OSError, YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _told(here: Repository, names: list[str], outs: list[str]) -> str:
    """Return the sentences about stages with other digits, and about their outputs."""
    found, n_compared = [], 0
    numbers = [path for path in outs if path.endswith("/metrics.json")]
    for path, content in zip(numbers, here.read([f"HEAD:./{path}" for path in numbers]).values(), strict=True):
        if content is not None and (here.root / path).is_file():
            rerun = json.loads((here.root / path).read_text(encoding="utf-8"))
            found += disagreements(json.loads(content), rerun, Path(path).parent.name)
            n_compared += 1
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    told = [
        f"The digits differ from the last commit, with the same code and parameters: {', '.join(names[:SHOWN])}{more}.",
        "Another processor, GPU, number of threads or version of PyTorch adds numbers in another order, and training "
        "amplifies the differences.",
    ]
    if found:
        told.append(f"The numbers do NOT agree within {TOLERANCES}: {' '.join(found[:SHOWN])}")
    elif n_compared:
        told.append(f"These numbers agree with the committed ones, within {TOLERANCES}.")
    if workspace() == Path():  # not in a copy that DVC made for an experiment
        status = here.ask("status", "--porcelain", "--untracked-files=no", "--", LOCK, *outs)
        told.append(f"Number of tracked files modified by this: {len(status.splitlines())}.")
    return " ".join(told)
