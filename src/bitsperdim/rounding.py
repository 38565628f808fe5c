"""What another processor changes: the same code and parameters, but other digits than those that are committed.

Processors add numbers in another order, and a training makes much of the last digit. So a rerun of the last commit on
another machine modifies files that git tracks, though nobody changed anything. The end of a run says so, and why, and
whether the numbers agree within the tolerances of :mod:`bitsperdim.check`.

``dvc.lock`` tells: a stage whose command, code and parameters are those of the last commit, and so are those of all
stages before it, has other outputs for no other reason than that.

Invariants (``tests/test_rounding.py``): other outputs of the same inputs are told; those of another parameter, an edit
of the code or other images, here or in an earlier stage, are not.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim import check
from bitsperdim.errors import InputError
from bitsperdim.git import repository

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

    def earlier(stage: Mapping[str, Any]) -> set[str]:
        """The stages that make what this one reads, by themselves or as files in a folder."""
        read = [dep["path"] for dep in stage.get("deps", [])]
        return {
            maker
            for path, maker in makers.items()
            if any(path == dep or path.startswith(f"{dep}/") or dep.startswith(f"{path}/") for dep in read)
        }

    def own(stage: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a stage is given that no other stage makes."""
        deps = {dep["path"]: dep.get("md5") for dep in stage.get("deps", []) if not _made(dep["path"], makers)}
        return stage.get("cmd"), stage.get("params"), deps

    known: dict[str, bool] = {}

    def is_the_same(name: str) -> bool:
        """Whether a stage was given the same, and all before it."""
        if name not in known:
            known[name] = name in before and own(before[name]) == own(after[name])
            known[name] = known[name] and all(is_the_same(maker) for maker in earlier(after[name]) - {name})
        return known[name]

    return [name for name in after if is_the_same(name) and _outs(before[name]) != _outs(after[name])]


def _made(path: str, makers: Mapping[str, str]) -> bool:
    return any(path == made or path.startswith(f"{made}/") or made.startswith(f"{path}/") for made in makers)


def _outs(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {out["path"]: out.get("md5") for out in stage.get("outs", [])}


def sentence(root: Path) -> str:
    """Return what a user should know of digits that differ from the last commit's; empty where there are none.

    Where git cannot tell what the last commit is, nothing can be said.

    Args:
        root: of the laboratory, with a ``dvc.lock`` that DVC has just written.
    """
    try:
        here = repository(root)
        committed = here.find("show", f"HEAD:./{LOCK}")
    except InputError:
        return ""
    current = (root / LOCK).read_bytes() if (root / LOCK).is_file() else b""
    if committed is None or committed == current:
        return ""
    before, after = (YAML(typ="safe").load(lock.decode("utf-8"))["stages"] for lock in (committed, current))
    names = rounded_otherwise(before, after)
    if not names:
        return ""
    modified = here.ask("status", "--porcelain", "--untracked-files=no", "--", "results", LOCK).decode().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(here.ask("archive", "--format=zip", "HEAD", "results"))) as archive:
            archive.extractall(folder)
        found = check.compare(Path(folder) / "results", root / "results")
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    verdict = (
        "The numbers agree with the committed ones, within the tolerances of `make check`."
        if not found
        else "NOT within the tolerances of `make check`: " + " ".join(found[:SHOWN])
    )
    return (
        f"Other digits than in the last commit, from the same code and parameters: {', '.join(names[:SHOWN])}{more}. "
        f"This processor adds numbers in another order than the one that made them, and a training makes much of the "
        f"last digit. {verdict} git shows {len(modified)} modified files; `bitsperdim back` goes back."
    )
