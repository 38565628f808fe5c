"""Queries to git about the repository that contains the laboratory, and clear errors if git cannot answer.

The laboratory is the folder with this project. It may be a whole repository, a worktree, a submodule, or a folder of a
larger repository. If it was unpacked inside another repository that does not track it, it is not part of that
repository: git would answer all the same, and would report edited code as unchanged. If git cannot answer, the result
is an error with git's own reason, never a "no".

Paths are relative to the laboratory: git runs in its folder, and ``<commit>:./<path>`` names a file of a commit.
:attr:`Repository.prefix` gives the path of the laboratory from the top of the repository.

Invariants (``tests/core/test_git.py``): the recorded provenance is correct or unknown in each of these places, and
unknown where git is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsperdim.core.errors import InputError

SHORT = 7  # number of hexadecimal digits of a commit that are shown
OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # in a hook, these name the repository that runs it
UNSHALLOW = "`git fetch --unshallow` gets the earlier commits"
WITHOUT_GIT = (
    "{root} is not a git repository, which DVC treats as an error. Run `dvc config --local core.no_scm true` once to "
    "let DVC work without git; then repeat the command."
)


class NotARepositoryError(InputError):
    """The laboratory is not part of any git repository, so it has no commits and no experiments."""


class GitError(InputError):
    """The laboratory is, or may be, part of a repository, but git cannot answer; the message has git's reason."""


@dataclass(frozen=True)
class Repository:
    """The git repository that contains the laboratory.

    Attributes:
        root: the folder of the laboratory.
        prefix: path of that folder from the top of the repository, with a final slash; empty if it is the top.
        is_shallow: whether the history is incomplete (a shallow clone).
    """

    root: Path
    prefix: str
    is_shallow: bool

    def ask(self, *arguments: str, content: bytes = b"", index: Path | None = None) -> bytes:
        """Run git and return its output.

        Args:
            *arguments: arguments of git.
            content: bytes for the standard input of git.
            index: file to use in place of the repository's own index.

        Raises:
            GitError: git cannot answer.
        """
        return _answer(self.root, arguments, content, index)

    def find(self, *arguments: str) -> bytes | None:
        """Run git and return its output, or None if it answers no, with exit status 1.

        Raises:
            GitError: git cannot answer.
        """
        return _answer_or_no(self.root, arguments)

    def read(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Return the contents of files, by one call of git; None stands for a name that is not a file.

        Args:
            names: names ``<commit>:./<path>`` or hashes of objects.
        """
        asked = list(dict.fromkeys(names))
        answer = self.ask("cat-file", "--batch", content="".join(f"{name}\n" for name in asked).encode())
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

    def cut(self) -> frozenset[str]:
        """Return the commits at which the history is cut: their files may have been written by earlier commits."""
        if not self.is_shallow:
            return frozenset()
        path = self.ask("rev-parse", "--git-path", "shallow")
        return frozenset((self.root / os.fsdecode(path).rstrip("\n")).read_text(encoding="ascii").split())


@dataclass(frozen=True)
class Provenance:
    """The version of the code that a result was made with.

    Attributes:
        commit: hash of the commit that was checked out; None: unknown.
        has_local_changes: whether the code differed from that commit; None: unknown.
        unknown_because: why one of them is unknown.
    """

    commit: str | None
    has_local_changes: bool | None
    unknown_because: str | None = None

    @classmethod
    def recorded(cls, content: Mapping[str, Any]) -> Provenance:
        """Return the provenance that a file records; without a commit, local changes are always unknown.

        Raises:
            TypeError: a value of the file has the wrong type.
        """
        commit, changes = content.get("commit"), content.get("has_local_changes")
        because = content.get("provenance_unknown_because") or "it was not recorded"
        if not (isinstance(commit, str | None) and isinstance(changes, bool | None) and isinstance(because, str)):
            raise TypeError("commit, has_local_changes or provenance_unknown_because has the wrong type")
        if commit is None or changes is None:
            return cls(commit, None, because)
        return cls(commit, changes)

    def as_record(self) -> dict[str, Any]:
        """Return the content to write into a file."""
        return {
            "commit": self.commit,
            "has_local_changes": self.has_local_changes,
            "provenance_unknown_because": self.unknown_because,
        }

    @property
    def words(self) -> str:
        """The provenance in a few words."""
        if self.commit is None:
            return "commit unknown"
        changes = {False: "", True: " with local changes", None: ", local changes unknown"}[self.has_local_changes]
        return f"{self.commit[:SHORT]}{changes}"

    @property
    def is_a_commit(self) -> bool:
        """Whether the code is exactly the code of a commit, so that it can be checked out again."""
        return self.has_local_changes is False


def repository(root: Path) -> Repository:
    """Return the repository that a laboratory is part of.

    Raises:
        NotARepositoryError: the laboratory is not part of a repository.
        GitError: git cannot answer.
    """
    root = root.resolve()
    marked = _marked(root)
    if marked is None:
        raise NotARepositoryError(f"{root} is not a git repository: it has no revisions or experiments.")
    answer = _answer(root, ("rev-parse", "--show-toplevel", "--show-prefix", "--is-shallow-repository"))
    top, prefix, is_shallow = os.fsdecode(answer).rstrip("\n").split("\n")
    if Path(top).resolve() != marked:
        raise GitError(f"git does not accept {marked / '.git'} as a repository: it is damaged.")
    if prefix and _answer_or_no(root, ("ls-files", "--error-unmatch", "--", "dvc.yaml")) is None:
        raise NotARepositoryError(
            f"{root} is not a git repository, nor part of the repository {marked}, which does not track its dvc.yaml."
        )
    return Repository(root, prefix, is_shallow == "true")


def provenance(root: Path, *paths: str) -> Provenance:
    """Return the commit that is checked out, and whether some files and folders differ from it.

    A new file counts as a change, an ignored file does not. If git was told to assume that a file is unchanged, local
    changes are unknown.
    """
    commit = None
    try:
        here = repository(root)
        head = here.find("rev-parse", "--verify", "--quiet", "HEAD")
        if head is None:
            return Provenance(None, None, "there are no commits yet")
        commit = head.decode().strip()
        if here.ask("status", "--porcelain", "--untracked-files=all", "--", *paths):
            return Provenance(commit, True)
        tracked = os.fsdecode(here.ask("ls-files", "-v", "-z", "--", *paths)).split("\0")
    except InputError as error:
        return Provenance(commit, None, str(error))
    unwatched = [line[2:] for line in tracked if line[:1] == "S" or line[:1].islower()]
    if unwatched:
        return Provenance(commit, None, f"git was told not to look for changes in {unwatched[0]} (git update-index)")
    return Provenance(commit, False)


def _marked(root: Path) -> Path | None:
    """Return the nearest folder, at or above a resolved path, that contains ``.git``."""
    return next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)


def _answer(root: Path, arguments: Sequence[str], content: bytes = b"", index: Path | None = None) -> bytes:
    done = _run(root, arguments, content, index)
    if done.returncode:
        raise _error(root, done)
    return done.stdout


def _answer_or_no(root: Path, arguments: Sequence[str]) -> bytes | None:
    done = _run(root, arguments)
    if done.returncode not in (0, 1):
        raise _error(root, done)
    return None if done.returncode else done.stdout


def _run(
    root: Path, arguments: Sequence[str], content: bytes = b"", index: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if key not in OF_ANOTHER} | {"LC_ALL": "C"}
    environment |= {"GIT_INDEX_FILE": str(index)} if index else {}
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, input=content, env=environment, capture_output=True, check=False)
    except OSError as error:
        raise GitError(f"git cannot be run in {root}: {error.strerror} (is git installed?).") from error


def _error(root: Path, done: subprocess.CompletedProcess[bytes]) -> GitError:
    """Return an error with git's own reason, in one line."""
    lines = [line.strip() for line in os.fsdecode(done.stderr).splitlines()]
    reason = "; ".join(line for line in lines if line).replace(":; ", ": ").removeprefix("fatal: ")
    return GitError(f"git cannot tell about {root}: {reason or f'status {done.returncode}'}")


def main() -> None:
    """Exit with a message if this folder is not in a repository; with ``--dvc``, only if DVC would refuse to run."""
    root = Path.cwd()
    try:
        if sys.argv[1:] != ["--dvc"]:
            repository(root)
        elif _marked(root.resolve()) is None:
            asked = subprocess.run(
                [sys.executable, "-m", "dvc", "config", "core.no_scm"], capture_output=True, text=True, check=False
            )
            if asked.stdout.strip().lower() != "true":
                raise NotARepositoryError(WITHOUT_GIT.format(root=root))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
