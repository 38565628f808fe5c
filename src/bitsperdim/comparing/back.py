"""The command ``bitsperdim back``, which restores the parameters, the results and DVC's outputs of the last commit.

``git checkout .`` is not reliable for this. Git takes a file for unchanged, without reading it, if its size, inode and
times agree with the index, and many builds of git compare whole seconds only. ``dvc exp run`` writes a file as in the
last commit, records its times in the index, and a few milliseconds later writes the experiment's content into it. If
both contents have the same size and the index itself is written in a later second, git never reads the file again:
``git status`` is clean, and ``git checkout .`` leaves another experiment's number on the disk. So this module uses a
new index without times. Git then reads every file, and files that differ are written again.

This module does not restore three things. Edits of other files are named and kept. Outputs whose committed version is
not in DVC's cache are named and not changed. Images beside a user's own ``.dvc`` file are ignored.

Invariant (``tests/comparing/test_back.py``): afterwards every tracked file of :data:`GOES_BACK` has the bytes of the
last commit, whatever its size and times.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim.comparing.cache import Cache
from bitsperdim.comparing.comparison import Difference
from bitsperdim.comparing.numbers import flat
from bitsperdim.comparing.output import difference
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import GitError, Repository, repository
from bitsperdim.preflight.preflight import KEPT, forget
from bitsperdim.recipes.recipe import read_yaml

# data/code records which code made the results; the marker of preflight is in git, too, and not in DVC's cache
GOES_BACK = ("params.yaml", "dvc.lock", "results", "data/code", "data/preflight.txt")
MOST_NAMED = 10  # largest number of parameters that are listed


def go_back(root: Path) -> Iterator[str]:
    """Restore params.yaml, dvc.lock, results/ and the pipeline's outputs of the last commit; yield what changed.

    Raises:
        InputError: there is no commit, or git or DVC fails.
    """
    here = repository(root)
    head = here.find("rev-parse", "--verify", "--quiet", "--short", "HEAD")
    if head is None:
        raise InputError(f"{root} has no commits, so there is nothing to restore.")
    commit = head.decode().strip()
    differing = files_that_differ(here)
    to_restore = [path for path in differing if _goes_back(path)]
    parameters = _parameters(here, to_restore)
    committed = _names(here.ask("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *GOES_BACK))
    compared = ("--cached", "--no-renames", "--name-only", "--relative", "-z", "HEAD", "--", *GOES_BACK)
    unknown = sorted({*to_restore, *_names(here.ask("diff-index", *compared))})
    try:
        here.ask("update-index", "--force-remove", "-z", "--stdin", content=_listing(unknown))
        if wanted := [path for path in unknown if path in set(committed)]:  # the index has no times for these now
            from_file = ("--pathspec-from-file=-", "--pathspec-file-nul")
            here.ask("--literal-pathspecs", "checkout", "--quiet", "HEAD", *from_file, content=_listing(wanted))
    except GitError as error:
        raise InputError(f"Not every file could be restored: {error}") from error
    yield f"Going back to the last commit, {commit}:"
    yield from parameters[:MOST_NAMED]
    if more := parameters[MOST_NAMED:]:
        yield f"  params.yaml: and {len(more)} more"
    yield from (f"  restored: {path}" for path in to_restore)
    removed = _forget_other_models(root, committed)
    yield from (f"  removed: the pipeline's files in {name}" for name in removed)
    if kept := [path for path in differing if not _goes_back(path)]:
        yield f"  kept, although different from the commit: {', '.join(kept)}"
    changed, missing = _dvc_checkout(root, committed)
    yield from (f"  DVC: {line}" for line in changed)
    if missing:
        shown = f"{', '.join(missing[:3])}{', ...' if missing[3:] else ''}"
        yield f"  not restored, because DVC's cache lacks the committed version: {shown}; `dvc repro` makes it again."
    if not (to_restore or removed or changed):
        yield "  nothing had to change."


def files_that_differ(here: Repository) -> list[str]:
    """Return the tracked files that are missing or differ from the last commit; git reads every file for this.

    Raises:
        GitError: git fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        here.ask("read-tree", "HEAD", index=index)
        options = ("--porcelain", "--no-renames", "--untracked-files=no", "-z", "--", ".")
        listing = here.ask("status", *options, index=index)  # paths relative to the top of the repository
    return [entry[3:].removeprefix(here.prefix) for entry in _names(listing)]


def _goes_back(path: str) -> bool:
    return any(path == name or path.startswith(f"{name}/") for name in GOES_BACK)


def _parameters(here: Repository, differing: list[str]) -> list[str]:
    """Describe the parameters that are restored; the list is empty if a file cannot be read."""
    if "params.yaml" not in differing:
        return []
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "params.yaml"
        before.write_bytes(here.ask("show", "HEAD:./params.yaml"))
        try:
            now, then = (flat(read_yaml(path)) for path in (here.root / "params.yaml", before))
        except InputError:
            return []
    return [f"  params.yaml: {difference(item)}" for item in _differences(now, then)]


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[Difference]:
    keys = [key for key in {**then, **now} if (key in now, now.get(key)) != (key in then, then.get(key))]
    return [Difference(key, (now.get(key), then.get(key)), (key in now, key in then)) for key in keys]


def _forget_other_models(root: Path, committed: list[str]) -> list[str]:
    """Remove the pipeline's files from folders of results/ that are not in the commit; return the folders' names."""
    known = {path.split("/")[1] for path in committed if path.startswith("results/")}
    results = root / "results"
    folders = sorted(results.iterdir()) if results.is_dir() else []
    others = [folder for folder in folders if folder.name not in (*known, *KEPT)]
    found = []
    for folder in others:
        if folder.is_dir() and not folder.is_symlink():
            before = set(folder.iterdir())
            forget(folder)
            if not folder.exists() or set(folder.iterdir()) != before:
                found.append(f"results/{folder.name}")
    return found


def _dvc_checkout(root: Path, of_git: Collection[str]) -> tuple[list[str], list[str]]:
    """Let DVC restore the outputs that are complete in its cache; other outputs DVC would remove.

    Args:
        root: folder of the laboratory, with the ``dvc.lock`` of the commit.
        of_git: the files that git has restored.

    Returns:
        The changes by DVC, and the outputs that were not changed because the cache does not have them.

    Raises:
        InputError: ``dvc checkout`` fails.
    """
    stages = YAML(typ="safe").load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    outs = {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}
    cache = Cache(root)
    folders = {str(folder) for path in of_git for folder in Path(path).parents}
    wanted = [path for path in sorted(outs) if path not in of_git and path not in folders]
    there = [path for path in wanted if cache.has(outs[path])]
    changed = []
    if there:
        command = [sys.executable, "-m", "dvc", "checkout", "--force", *there]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())[:300]
            raise InputError(f"The files in git are restored, but `dvc checkout` failed: {reason}.")
        changed = [f"{found[1]} {found[2]}" for found in re.finditer(r"(?m)^([AMD])\s+(.+)$", done.stdout)]
    return changed, [path for path in wanted if path not in there]


def _names(listing: bytes) -> list[str]:
    """Return the names in a listing that ends each name with a zero byte; names need not be valid UTF-8."""
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def _listing(names: list[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)
