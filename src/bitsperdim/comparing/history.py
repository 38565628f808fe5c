"""What git knows: revisions, DVC's experiments, and files of a commit, without a checkout.

DVC keeps an experiment as a commit under ``refs/exps/<baseline>/<name>``; metrics are committed, so that git alone is
enough to read them. What DVC keeps in its cache is the business of :mod:`bitsperdim.comparing.cache`.

Invariants: an experiment is found by its name (``tests/comparing/test_source.py``,
``test_an_experiment_is_found_by_its_name``); every metrics file that a commit wrote is a change, also one that a merge
has of no parent (``tests/comparing/test_leaderboard.py``).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bitsperdim.errors import InputError

METRICS = re.compile(r"results/([^/\n]+)/metrics\.json")
EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38,62})/([^/]+)")
SHORT = 7  # hexadecimal digits of a commit that are shown


@dataclass(frozen=True)
class Experiment:
    """An experiment of DVC: its name, its commit, and the commit on which it was based."""

    name: str
    commit: str
    baseline: str


@dataclass(frozen=True)
class Change:
    """A metrics file that a commit or an experiment wrote.

    Attributes:
        model: the folder under ``results``.
        blob: the object of git with its content.
        commit: which wrote it; empty where none has.
        where: the commit or the experiment in words.
        seconds: when the commit was made, since 1970; None where there is none.
        subject: the first line of its message.
    """

    model: str
    blob: str
    commit: str
    where: str
    seconds: int | None
    subject: str


def git(root: Path, *arguments: str, content: bytes = b"") -> bytes | None:
    """Return what git says, or None where it fails.

    Raises:
        InputError: ``root`` is not the root of a repository, or git is not installed.
    """
    if not (root / ".git").exists():  # git would answer for a repository around it
        raise InputError(f"{root} is not a git repository: it has no revisions or experiments.")
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise InputError("git is not installed: revisions and experiments cannot be read.") from error
    except subprocess.CalledProcessError:
        return None


def commit_of(root: Path, name: str) -> str | None:
    """Return the commit of a git revision, or None where it is none."""
    if not name or name.startswith("-") or not name.isprintable():
        return None
    found = git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    return found.decode().strip() if found else None


def experiments(root: Path) -> list[Experiment]:
    """Return DVC's experiments in this repository, by name."""
    listing = (git(root, "for-each-ref", "refs/exps", "--format=%(refname) %(objectname)") or b"").decode()
    found = []
    for line in listing.splitlines():
        reference, commit = line.rsplit(" ", 1)
        parts = EXPERIMENT.fullmatch(reference)
        if parts:  # not a queue, a stash or a mark of a running experiment
            found.append(Experiment(parts[3], commit, parts[1] + parts[2]))
    return sorted(found, key=lambda item: (item.name, item.commit))


def experiment(root: Path, name: str) -> Experiment | None:
    """Return the experiment of this name, that on the current commit where there are several; None: there is none.

    Raises:
        InputError: there are several, and none or more than one is based on the current commit.
    """
    found = [item for item in experiments(root) if item.name == name]
    if len(found) > 1:
        head = commit_of(root, "HEAD")
        here = [item for item in found if item.baseline == head]
        if len(here) != 1:
            commits = ", ".join(item.commit[:SHORT] for item in found)
            raise InputError(f"There are {len(found)} experiments {name!r}; name one by its commit: {commits}.")
        found = here
    return found[0] if found else None


def models_at(root: Path, commit: str) -> list[str]:
    """Return the folders under ``results`` that have metrics at a commit, in the order of the tree."""
    listing = git(root, "ls-tree", "-r", "-z", "--name-only", commit, "results/") or b""
    names = (METRICS.fullmatch(path) for path in listing.decode("utf-8", "replace").split("\0"))
    return [name[1] for name in names if name]


def read_objects(root: Path, names: Iterable[str]) -> dict[str, bytes | None]:
    """Return the content of files, named as ``<commit>:<path>`` or by object, in one call of git; None: not there."""
    asked = list(dict.fromkeys(names))
    answer = git(root, "cat-file", "--batch", content="".join(f"{name}\n" for name in asked).encode()) or b""
    found: dict[str, bytes | None] = {}
    position = 0
    for name in asked:
        end = answer.find(b"\n", position)
        header, position = answer[position:end].split(), end + 1
        if len(header) == 3 and header[1] == b"blob":
            size = int(header[2])
            found[name], position = answer[position : position + size], position + size + 1
        else:
            found[name] = None  # "<name> missing"
            if len(header) == 3 and header[1] in (b"tree", b"commit", b"tag"):
                position += int(header[2]) + 1
    return found


def objects_of(root: Path, paths: list[str]) -> dict[str, str]:
    """Return path -> the object that git has, or would have, for these files of the workspace."""
    listing = "".join(f"{path}\n" for path in paths).encode()
    found = (git(root, "hash-object", "--stdin-paths", content=listing) or b"").decode().split()
    return dict(zip(paths, found, strict=True)) if len(found) == len(paths) else {}


def changes(root: Path) -> Iterator[Change]:
    """Yield every metrics file that a commit of a branch, a tag or HEAD wrote, the oldest first, then the experiments'.

    A merge counts for what it has of none of its parents.

    Raises:
        InputError: there is no commit, or git cannot tell.
    """
    history = git(
        root,
        *("log", "--branches", "--tags", "HEAD", "--reverse", "--full-history", "-c", "--raw", "--no-renames"),
        *("--no-abbrev", "--format=@%H %ct %s", "--", "results/*/metrics.json"),
    )
    if history is None:
        raise InputError(f"{root} has no commits, or git cannot read them.")
    commit, seconds, subject = "", 0, ""
    for line in history.decode("utf-8", "replace").split("\n"):
        if line.startswith("@"):
            commit, time, subject = line[1:].split(" ", 2)
            seconds = int(time)
        elif (written := _written(line)) is not None:
            yield Change(*written, commit, f"commit {commit[:SHORT]}", seconds, subject)
    for item in experiments(root):
        difference = git(
            root, "diff-tree", "-r", "--raw", "--no-renames", item.baseline, item.commit, "--", "results/"
        ) or git(root, "diff-tree", "-r", "--raw", "--no-renames", "--root", item.commit, "--", "results/")
        made = (git(root, "show", "-s", "--format=%ct", item.commit) or b"0").decode().strip()
        for line in (difference or b"").decode("utf-8", "replace").split("\n"):
            if (written := _written(line)) is not None:
                yield Change(*written, item.commit, f"experiment {item.name}", int(made), "")


def _written(line: str) -> tuple[str, str] | None:
    """Return model and object of a line of ``git log --raw`` that tells of written metrics, else None."""
    if not line.startswith(":") or "\t" not in line:
        return None
    head, path = line.split("\t", 1)
    fields = head.split()
    n_parents = len(head) - len(head.lstrip(":"))
    name, blob = METRICS.fullmatch(path), fields[2 * n_parents + 1]
    return None if name is None or set(blob) == {"0"} else (name[1], blob)
