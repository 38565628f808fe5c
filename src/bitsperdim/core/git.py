"""git, asked about the repository that a laboratory lies in: what it answers, or why it cannot tell.

The laboratory may be a whole repository, a worktree, a submodule, or a folder of a larger repository. One that was
unpacked inside another repository, which does not track it, is none of that repository: git would answer for it, and
say of edited code that nothing has changed. What git cannot tell is an error with git's own reason, never a "no".

Paths are those in the laboratory: git is run there, ``<commit>:./<path>`` names a file of a commit, and
:attr:`Repository.prefix` is for those that want paths from the top.

Invariants (``tests/core/test_git.py``): provenance is right or unknown in each of these places, and where there is no
git.
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

SHORT = 7  # hexadecimal digits of a commit that are shown
OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # in a hook git names its own repository by them
UNSHALLOW = "`git fetch --unshallow` gets the earlier commits"
WITHOUT_GIT = (
    "{root} is not a git repository, which DVC takes for a mistake. `dvc config --local core.no_scm true`, typed once, "
    "tells it that there is none; then type the same again."
)


class NotARepositoryError(InputError):
    """There is no repository that the laboratory is part of: no commits, no experiments."""


class GitError(InputError):
    """There is one, or may be one, and git cannot tell; the sentence has git's reason."""


@dataclass(frozen=True)
class Repository:
    """A repository, seen from the laboratory.

    Attributes:
        root: the folder of the laboratory.
        prefix: that folder, from the top of the repository, with a slash at its end; empty where it is the top.
        is_shallow: whether its history is cut.
    """

    root: Path
    prefix: str
    is_shallow: bool

    def ask(self, *arguments: str, content: bytes = b"", index: Path | None = None) -> bytes:
        """Return what git says.

        Args:
            *arguments: of git.
            content: what it reads.
            index: a file in place of the repository's own index.

        Raises:
            GitError: it cannot tell.
        """
        return _answer(self.root, arguments, content, index)

    def find(self, *arguments: str) -> bytes | None:
        """Return what git says, or None where it says no, by status 1.

        Raises:
            GitError: it cannot tell.
        """
        return _answer_or_no(self.root, arguments)

    def read(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Return the content of files named as ``<commit>:./<path>`` or by object, all in one call; None: no file."""
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
        """Return the commits at which history is cut: whatever they hold may be the work of an earlier one."""
        if not self.is_shallow:
            return frozenset()
        path = self.ask("rev-parse", "--git-path", "shallow")
        return frozenset((self.root / os.fsdecode(path).rstrip("\n")).read_text(encoding="ascii").split())


@dataclass(frozen=True)
class Provenance:
    """What code a result was made with.

    Attributes:
        commit: on which it was based; None where that is unknown.
        has_local_changes: whether the code differed from that commit; None where that is unknown.
        unknown_because: why something is unknown.
    """

    commit: str | None
    has_local_changes: bool | None
    unknown_because: str | None = None

    @classmethod
    def recorded(cls, content: Mapping[str, Any]) -> Provenance:
        """Return what a file says; of code without a commit it is unknown how it differed, whatever was written.

        Raises:
            TypeError: it says something else.
        """
        commit, changes = content.get("commit"), content.get("has_local_changes")
        because = content.get("provenance_unknown_because") or "it was not recorded"
        if not (isinstance(commit, str | None) and isinstance(changes, bool | None) and isinstance(because, str)):
            raise TypeError("commit, has_local_changes or provenance_unknown_because is not what is written there")
        if commit is None or changes is None:
            return cls(commit, None, because)
        return cls(commit, changes)

    def as_record(self) -> dict[str, Any]:
        """Return what is written into a file."""
        return {
            "commit": self.commit,
            "has_local_changes": self.has_local_changes,
            "provenance_unknown_because": self.unknown_because,
        }

    @property
    def words(self) -> str:
        """It in a few words."""
        if self.commit is None:
            return "commit unknown"
        changes = {False: "", True: " with local changes", None: ", local changes unknown"}[self.has_local_changes]
        return f"{self.commit[:SHORT]}{changes}"

    @property
    def is_a_commit(self) -> bool:
        """Whether the code is that of a commit, which can be checked out."""
        return self.has_local_changes is False


def repository(root: Path) -> Repository:
    """Return the repository that a laboratory is part of.

    Raises:
        NotARepositoryError: there is none.
        GitError: git cannot tell.
    """
    root = root.resolve()
    marked = _marked(root)
    if marked is None:
        raise NotARepositoryError(f"{root} is not a git repository: it has no revisions or experiments.")
    answer = _answer(root, ("rev-parse", "--show-toplevel", "--show-prefix", "--is-shallow-repository"))
    top, prefix, is_shallow = os.fsdecode(answer).rstrip("\n").split("\n")
    if Path(top).resolve() != marked:
        raise GitError(f"git does not take {marked / '.git'} for a repository: it is damaged.")
    if prefix and _answer_or_no(root, ("ls-files", "--error-unmatch", "--", "dvc.yaml")) is None:
        raise NotARepositoryError(
            f"{root} is not a git repository, nor part of {marked}, around it: that does not track its dvc.yaml."
        )
    return Repository(root, prefix, is_shallow == "true")


def provenance(root: Path, *paths: str) -> Provenance:
    """Return the commit that is checked out, and whether some files and folders differ from it; ignored files do not.

    A new file counts, and a file that git was told to assume unchanged is unknown.
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
    """Return the nearest folder, at or above a resolved one, that is marked as a repository."""
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
        raise GitError(f"git cannot be run, to look at {root}: {error.strerror} (is it installed?).") from error


def _error(root: Path, done: subprocess.CompletedProcess[bytes]) -> GitError:
    """Return git's own reason, in one line."""
    lines = [line.strip() for line in os.fsdecode(done.stderr).splitlines()]
    reason = "; ".join(line for line in lines if line).replace(":; ", ": ").removeprefix("fatal: ")
    return GitError(f"git cannot tell about {root}: {reason or f'status {done.returncode}'}")


def main() -> None:
    """End with a sentence if this folder is not in a repository; with ``--dvc``, if DVC takes that for a mistake."""
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
