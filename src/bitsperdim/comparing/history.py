"""Reading git: revisions, DVC's experiments, and the files of a commit, without a checkout.

DVC stores an experiment as a commit under ``refs/exps/<baseline>/<name>``. Metrics are committed, so that git alone is
enough to read them. :mod:`bitsperdim.comparing.cache` reads DVC's cache, and :mod:`bitsperdim.core.git` finds the
repository.

Invariants: an experiment is found by its name (``tests/comparing/test_source.py``,
``test_an_experiment_is_found_by_its_name``). Every metrics file that a commit wrote is a change, also a file of a merge
that no parent has. In a history that is cut off, no commit is credited with a file that an earlier commit may have
written (``tests/comparing/test_leaderboard.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bitsperdim.core.errors import InputError
from bitsperdim.core.git import SHORT, Repository

METRICS = re.compile(r"results/([^/\n]+)/metrics\.json")
EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38,62})/([^/]+)")


@dataclass(frozen=True)
class Experiment:
    """A DVC experiment: its name, its commit, and the commit on which it is based."""

    name: str
    commit: str
    baseline: str


@dataclass(frozen=True)
class Change:
    """A metrics file that a commit or an experiment wrote.

    Attributes:
        model: name of the folder under ``results``.
        blob: identifier of the git object with the content.
        commit: the commit that wrote the file, or at least has it; empty: no commit has it.
        where: the commit or the experiment in words.
        seconds: time of the commit, in seconds since 1970; None: there is no commit, or the writer is unknown.
        subject: first line of the commit message.
        writer_is_known: whether this commit wrote the file; otherwise an earlier, missing commit may have written it.
    """

    model: str
    blob: str
    commit: str
    where: str
    seconds: int | None
    subject: str
    writer_is_known: bool = True


def commit_of(repository: Repository, name: str) -> str | None:
    """Return the commit of a git revision, or None if the name is not a revision.

    Raises:
        GitError: git fails.
    """
    if not name or name.startswith(("-", "^")) or not name.isprintable():
        return None
    found = repository.find("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if found is not None:
        return found.decode().strip()
    thing = repository.find("rev-parse", "--verify", "--quiet", name)
    if thing is not None and (identity := thing.decode().strip()) != name:
        repository.ask("cat-file", "-t", identity)  # raises GitError if the reference points to a missing object
    return None


def experiments(repository: Repository) -> list[Experiment]:
    """Return DVC's experiments in this repository, by name."""
    listing = repository.ask("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").decode()
    found = []
    for line in listing.splitlines():
        reference, commit = line.rsplit(" ", 1)
        parts = EXPERIMENT.fullmatch(reference)
        if parts:  # other references are a queue, a stash or a running experiment
            found.append(Experiment(parts[3], commit, parts[1] + parts[2]))
    return sorted(found, key=lambda item: (item.name, item.commit))


def experiment(repository: Repository, name: str) -> Experiment | None:
    """Return the experiment with this name, or None; of several, return the one based on the current commit.

    Raises:
        InputError: there are several experiments with this name, and not exactly one is based on the current commit.
    """
    found = [item for item in experiments(repository) if item.name == name]
    if len(found) > 1:
        head = commit_of(repository, "HEAD")
        here = [item for item in found if item.baseline == head]
        if len(here) != 1:
            commits = ", ".join(item.commit[:SHORT] for item in found)
            raise InputError(f"There are {len(found)} experiments {name!r}; choose one by its commit: {commits}.")
        found = here
    return found[0] if found else None


def models_at(repository: Repository, commit: str) -> list[str]:
    """Return the folders under ``results`` that have metrics at a commit, in git's order."""
    listing = repository.ask("ls-tree", "-r", "-z", "--name-only", commit, "results/")
    names = (METRICS.fullmatch(path) for path in listing.decode("utf-8", "replace").split("\0"))
    return [name[1] for name in names if name]


def objects_of(repository: Repository, paths: list[str]) -> dict[str, str]:
    """Return path -> the git object that has, or would have, the content of this file in the workspace."""
    listing = "".join(f"{repository.prefix}{path}\n" for path in paths).encode()  # relative to the top
    found = repository.ask("hash-object", "--stdin-paths", content=listing).decode().split()
    return dict(zip(paths, found, strict=True)) if len(found) == len(paths) else {}


def changes(repository: Repository) -> Iterator[Change]:
    """Yield every metrics file that commits wrote, the oldest first, then those that experiments wrote.

    The commits are those of branches, tags and HEAD. A merge counts as the writer of a file that none of its parents
    has. If history is cut off, or the baseline of an experiment is missing, git shows all existing files as new; their
    writer is then unknown.

    Raises:
        InputError: there is no commit.
        GitError: git fails.
    """
    if repository.find("rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise InputError(f"{repository.root} has no commits; make one first: `git add --all`, then `git commit`.")
    history = repository.ask(
        "log",
        "--branches",
        "--tags",
        "HEAD",
        "--reverse",
        "--full-history",
        "-c",
        "--raw",
        "--no-renames",
        "--relative",
        "--no-abbrev",
        "--format=@%H %ct %s",
        "--",
        "results/*/metrics.json",
    )
    cut = repository.cut()
    commit, seconds, subject = "", 0, ""
    for line in history.decode("utf-8", "replace").split("\n"):
        if line.startswith("@"):
            commit, time, subject = line[1:].split(" ", 2)
            seconds = int(time)
        elif (written := _written(line)) is not None:
            where = f"commit {commit[:SHORT]}"
            if commit in cut:
                yield Change(*written, commit, f"{where} or earlier", None, "", writer_is_known=False)
            else:
                yield Change(*written, commit, where, seconds, subject)
    for item in experiments(repository):
        is_known = commit_of(repository, item.baseline) is not None
        against = (item.baseline, item.commit) if is_known else ("--root", item.commit)
        difference = repository.ask(
            "diff-tree", "-r", "--raw", "--relative", "--no-renames", *against, "--", "results/"
        )
        made = int(repository.ask("show", "-s", "--format=%ct", item.commit))
        where = f"experiment {item.name}" + ("" if is_known else " or its baseline")
        for line in difference.decode("utf-8", "replace").split("\n"):
            if (written := _written(line)) is not None:
                yield Change(*written, item.commit, where, made if is_known else None, "", writer_is_known=is_known)


def _written(line: str) -> tuple[str, str] | None:
    """Return the model and the object from a line of ``git log --raw`` about written metrics; None for other lines."""
    if not line.startswith(":") or "\t" not in line:
        return None
    head, path = line.split("\t", 1)
    fields = head.split()
    n_parents = len(head) - len(head.lstrip(":"))
    name, blob = METRICS.fullmatch(path), fields[2 * n_parents + 1]
    return None if name is None or set(blob) == {"0"} else (name[1], blob)
