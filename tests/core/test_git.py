"""Provenance is correct or unknown in every kind of folder; if git cannot answer, the error gives git's own reason."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsperdim.core.git import GitError, NotARepositoryError, Provenance, provenance, repository
from support.laboratory import anothers, git

CODE = ("src", "dvc.yaml")


def commit(top: Path, folder: str = ".") -> Path:
    """Make a repository with a little code in one of its folders, and return that folder."""
    root = top / folder
    (root / "src").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "src" / "code.py").write_text("x = 1\n")
    (root / ".gitignore").write_text("*.so\n")
    git(top, "init", "--quiet", "--initial-branch=main")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "Code")
    return root.resolve()


def worktree(top: Path) -> Path:
    git(commit(top / "first"), "worktree", "add", "--quiet", str(top / "second"))
    return top / "second"


def submodule(top: Path) -> Path:
    origin, outer = commit(top / "origin"), commit(top / "outer")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "lab")
    return outer / "lab"


def shallow(top: Path) -> Path:
    origin = commit(top / "origin")
    git(origin, "commit", "--quiet", "--allow-empty", "--message", "Second")
    git(top, "clone", "--quiet", "--depth=1", f"file://{origin}", str(top / "clone"))
    return top / "clone"


PLACES: dict[str, Callable[[Path], Path]] = {
    "whole": commit,
    "folder": lambda top: commit(top, "a b/läb"),
    "worktree": worktree,
    "submodule": submodule,
    "shallow": shallow,
}


@pytest.mark.parametrize("place", PLACES)
def test_provenance_is_right_wherever_git_can_tell(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = PLACES[place](tmp_path)
    git(root, "config", "status.showUntrackedFiles", "no")  # new files must count as changes despite this setting
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hooks-of-another"))
    head = git(root, "rev-parse", "HEAD")
    assert provenance(root, *CODE) == Provenance(head, False)
    assert repository(root).is_shallow == (place == "shallow")
    assert repository(root).prefix == ("a b/läb/" if place == "folder" else "")
    name = f"{head}:./dvc.yaml"
    assert repository(root).read([name, f"{head}:./none"]) == {name: b"stages: {}\n", f"{head}:./none": None}
    (root / "src" / "compiled.so").write_text("ignored")
    (root / "README.md").write_text("not code")
    assert provenance(root, *CODE) == Provenance(head, False)
    (root / "src" / "new.py").write_text("y = 2\n")
    assert provenance(root, *CODE) == Provenance(head, True)
    (root / "src" / "new.py").unlink()
    (root / "src" / "code.py").write_text("x = 2\n")
    assert provenance(root, *CODE) == Provenance(head, True)
    git(root, "add", "--all")
    assert provenance(root, *CODE) == Provenance(head, True)


def without_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", str(root))
    return "is git installed?"


def of_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in anothers().items():
        monkeypatch.setenv(name, value)
    top = git(root, "rev-parse", "--show-toplevel", safe="*")
    return f"detected dubious ownership in repository at '{top}'; To add an exception for this directory, call: git con"


def without_head(root: Path, _: pytest.MonkeyPatch) -> str:
    Path(git(root, "rev-parse", "--absolute-git-dir"), "HEAD").unlink()
    return "not a git repository"


def without_settings(root: Path, _: pytest.MonkeyPatch) -> str:
    Path(git(root, "rev-parse", "--absolute-git-dir"), "config").write_text("[core\n")
    return "bad config line 1"


@pytest.mark.parametrize("folder", [".", "lab"])
@pytest.mark.parametrize("spoil", [without_git, of_another, without_head, without_settings])
def test_what_git_cannot_tell_is_unknown(
    spoil: Callable[[Path, pytest.MonkeyPatch], str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = commit(tmp_path, folder)
    (root / "src" / "code.py").write_text("x = 2\n")  # the code has changed, so the answer `False` would be wrong
    words = spoil(root, monkeypatch)
    found = provenance(root, *CODE)
    assert (found.commit, found.has_local_changes, found.words) == (None, None, "commit unknown")
    assert words in str(found.unknown_because)
    assert "\n" not in str(found.unknown_because)
    with pytest.raises(GitError) as caught:
        repository(root)
    assert str(caught.value) == found.unknown_because


def test_git_of_a_folder_around_does_not_answer_for_a_damaged_repository(tmp_path: Path) -> None:
    outer = commit(tmp_path)
    root = commit(tmp_path / "lab")
    git(outer, "add", "lab")
    (root / ".git" / "HEAD").unlink()
    with pytest.raises(GitError, match=r"git does not accept .*/lab/\.git as a repository: it is damaged\."):
        repository(root)


def test_a_lost_commit_is_unknown(tmp_path: Path) -> None:
    root = commit(tmp_path)
    head = git(root, "rev-parse", "HEAD")
    shutil.rmtree(root / ".git" / "objects")
    (root / ".git" / "objects").mkdir()
    found = provenance(root, *CODE)
    assert (found.commit, found.has_local_changes) == (head, None)
    assert found.words == f"{head[:7]}, local changes unknown"
    assert "bad object HEAD" in str(found.unknown_because)


@pytest.mark.parametrize("option", ["--assume-unchanged", "--skip-worktree"])
def test_files_that_git_does_not_look_at_are_unknown(option: str, tmp_path: Path) -> None:
    root = commit(tmp_path, "lab")
    git(root, "update-index", option, "src/code.py")
    (root / "src" / "code.py").write_text("x = 2\n")
    found = provenance(root, *CODE)
    assert (found.commit, found.has_local_changes) == (git(root, "rev-parse", "HEAD"), None)
    assert "changes in src/code.py" in str(found.unknown_because)
    assert provenance(root, "dvc.yaml").has_local_changes is False


def test_an_archive_is_not_the_repository_around_it(tmp_path: Path) -> None:
    """The outer repository sees its files as new or ignored; if they are ignored, git would report no changes."""
    root = commit(tmp_path / "outside" / "archive")
    shutil.rmtree(root / ".git")
    alone = provenance(root, *CODE)
    assert alone == Provenance(None, None, f"{root} is not a git repository: it has no revisions or experiments.")
    outer = commit(tmp_path / "outer")
    root = root.rename(outer / "archive")
    for ignored in ("", "/archive\n"):
        (outer / ".gitignore").write_text(ignored)
        with pytest.raises(NotARepositoryError, match=f"nor part of the repository {outer}, which does not track its"):
            repository(root)
        assert provenance(root, *CODE).has_local_changes is None
    git(outer, "add", "--force", "archive")
    git(outer, "commit", "--quiet", "--message", "Keep it")
    assert provenance(root, *CODE) == Provenance(git(outer, "rev-parse", "HEAD"), False)


def test_before_the_first_commit_there_is_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert provenance(tmp_path, *CODE) == Provenance(None, None, "there are no commits yet")


def test_what_a_file_says_is_never_made_more_certain() -> None:
    """This includes files of earlier versions, which wrote no commit, and `false` if there was no answer."""
    assert Provenance.recorded({"commit": "a" * 40, "has_local_changes": False}) == Provenance("a" * 40, False)
    changed = Provenance.recorded({"commit": "a" * 40, "has_local_changes": True})
    assert (changed, changed.is_a_commit, changed.words) == (
        Provenance("a" * 40, True),
        False,
        "aaaaaaa with local changes",
    )
    for content in ({}, {"commit": None, "has_local_changes": False}, {"has_local_changes": False}):
        assert Provenance.recorded(content) == Provenance(None, None, "it was not recorded")
    assert Provenance.recorded({"commit": "a" * 40}) == Provenance("a" * 40, None, "it was not recorded")
    for origin in (Provenance(None, None, "a reason"), Provenance("b", None, "another"), Provenance("c", True)):
        assert Provenance.recorded(origin.as_record()) == origin
    for content in ({"commit": 3}, {"commit": "a", "has_local_changes": "no"}, {"provenance_unknown_because": 3}):
        with pytest.raises(TypeError, match="has the wrong type"):
            Provenance.recorded(content)


def call(root: Path, repository: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=root, env={**environment, "PATH": path}, capture_output=True, text=True, check=False
    )


def test_dvc_works_without_git_once_it_is_told(tmp_path: Path, repository: Path) -> None:
    """`make repro` checks this first and prints a command; after that command, DVC works."""
    (tmp_path / ".dvc").mkdir()
    shutil.copy(repository / ".dvc" / "config", tmp_path / ".dvc" / "config")
    (tmp_path / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo 1 > one\n    outs: [one]\n")
    ask = (sys.executable, "-m", "bitsperdim.core.git", "--dvc")
    refused = call(tmp_path, repository, *ask)
    assert (refused.returncode, refused.stdout) == (1, "")
    words = f"{tmp_path} is not a git repository, which DVC treats as an error. Run `dvc config "
    assert refused.stderr.startswith(words)
    typed = refused.stderr.split("`")[1]
    assert call(tmp_path, repository, *typed.split()).returncode == 0
    assert call(tmp_path, repository, *ask).returncode == 0
    done = call(tmp_path, repository, "dvc", "repro")
    assert (done.returncode, (tmp_path / "one").read_text()) == (0, "1\n"), done.stderr
    assert "python -m bitsperdim.core.git --dvc\n" in (repository / "Makefile").read_text(encoding="utf-8")


def test_a_rerun_of_the_last_commit_wants_one(tmp_path: Path, repository: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(repository / ".ci" / "rerun", tmp_path / ".ci" / "rerun")
    shutil.copytree(repository / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    refused = call(tmp_path, repository, ".ci/rerun", "--small")
    words = f"{tmp_path} is not a git repository: it has no revisions or experiments.\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", words)
