"""`bitsperdim init`: the files are those of the repository, nothing is written over, and a mistake is one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim import __version__, cli
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import GitError, repository
from bitsperdim.init import command, files
from support.laboratory import git

OTHER = "bitsperdim 0.0.0\n"  # a version that is not installed


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """A folder as a user gets it, in a repository of its own."""
    folder = tmp_path / "lab"
    list(command.lay_out(folder))
    return folder


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but git's."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(path): file.read_bytes() for path, file in found.items() if path.parts[0] != ".git"}


def test_the_files_are_those_of_git(repository: Path) -> None:
    """Each pattern finds files; what lies beside them without being in git does not come along."""
    paths = files.paths(repository)
    assert len(set(paths)) == len(paths)
    for pattern in files.PATTERNS:
        assert any(fnmatch(path, pattern) for path in paths), pattern
    scripts = {f"stages/{path.name}" for path in (repository / "stages").iterdir() if path.is_file()}
    assert scripts <= set(paths)
    if not (repository / ".git").exists():
        pytest.skip("an unpacked archive has no git to ask")
    tracked = subprocess.run(["git", "-C", str(repository), "ls-files"], capture_output=True, text=True, check=True)
    assert set(paths) <= set(tracked.stdout.splitlines())


def test_the_archive_has_the_files(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        files.pack(repository, tmp_path / name / "files.zip")
    archive = tmp_path / "one" / "files.zip"
    assert archive.read_bytes() == (tmp_path / "two" / "files.zip").read_bytes()
    of_repository = files.read()
    monkeypatch.setattr(files, "ARCHIVE", archive)
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == files.paths(repository)
    assert files.read() == of_repository


def test_every_file_of_the_package_is_in_the_wheel(repository: Path, project: dict[str, Any]) -> None:
    """Python files always are; each other file needs a pattern, and each pattern a file."""
    listed = project["tool"]["setuptools"]["package-data"]
    source = repository / "src"
    used = set()
    for path in sorted((source / "bitsperdim").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = ".".join(path.relative_to(source).parent.parts)
            found = {(package, pattern) for pattern in listed.get(package, []) if fnmatch(path.name, pattern)}
            assert found, f"{path} is not in the wheel"
            used |= found
    assert used == {(package, pattern) for package, patterns in listed.items() for pattern in patterns}
    packages = {path.parent for path in (source / "bitsperdim").rglob("*.py")}
    assert [str(folder) for folder in packages if not (folder / "__init__.py").is_file()] == []


def test_the_requirements_have_lower_bounds_and_the_version_one_place(
    project: dict[str, Any], repository: Path
) -> None:
    """A wheel that demanded one version of torch could not be installed beside the user's own."""
    for requirement in project["project"]["dependencies"]:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+(,<\d+)?", requirement), requirement
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bitsperdim.__version__"}
    citation = YAML(typ="safe").load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_the_files_are_those_of_the_repository(laid_out: Path, repository: Path) -> None:
    """Up to the texts that are replaced, each of which is there once, and the files that are written."""
    found, written = contents(laid_out), command.written()
    assert set(found) == {*files.paths(repository), *written}
    for path, content in found.items():
        text = content.decode("utf-8")
        if path in written:
            assert text == written[path]
            continue
        expected = (repository / path).read_text(encoding="utf-8")
        for before, after in command.REPLACED.get(path, ()):
            assert expected.count(before) == 1
            expected = expected.replace(before, after)
        assert text == expected, path


def test_no_stage_needs_the_code_of_the_repository(laid_out: Path, repository: Path) -> None:
    """The pipeline is the repository's, but that preflight always runs and does not depend on src."""
    ours, theirs = (
        YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8")) for root in (laid_out, repository)
    )
    assert "src" not in re.sub(r"(?m)^ *#.*", "", (laid_out / "dvc.yaml").read_text(encoding="utf-8"))
    preflight = theirs["stages"]["preflight"]
    preflight["deps"].remove("src/bitsperdim")
    assert ours == {**theirs, "stages": {**theirs["stages"], "preflight": {**preflight, "always_changed": True}}}
    for stage in ours["stages"].values():
        for path in stage.get("deps", []):  # what no stage makes is there
            made = path.startswith(("data/code", "data/preflight", "data/de", "data/do", "results", "$"))
            assert made or (laid_out / path).exists(), path


@pytest.mark.parametrize("there", [(), (".git",), (".venv",), (".git", ".venv")])
def test_an_empty_folder_may_hold_a_repository_and_an_environment(there: tuple[str, ...], tmp_path: Path) -> None:
    if ".git" in there:
        git(tmp_path, "init", "--quiet")
        git(tmp_path, "config", "user.name", "Nobody")
    if ".venv" in there:
        (tmp_path / ".venv").mkdir()
    said = list(command.lay_out(tmp_path))
    assert said[0] == (
        f"Wrote {len(contents(tmp_path))} files into {tmp_path}. Its stages run bitsperdim {__version__}, the "
        f"installed package."
    )
    assert said[1].startswith("Found" if ".git" in there else "Made a")
    assert git(tmp_path, "status", "--porcelain").splitlines() == [f"A  {path}" for path in sorted(contents(tmp_path))]
    assert ("Nobody" in git(tmp_path, "config", "--list", "--local")) == (".git" in there)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text(""), "is not a folder; name an empty folder, or one that does not exist yet."),
        (lambda path: (path / "deep").mkdir(parents=True), "is not empty (deep is in it); name an empty folder, or "),
        (lambda path: list(command.lay_out(path)), "is not empty (.dvc is in it); name an empty folder, or one "),
    ],
    ids=["file", "other", "laid out"],
)
def test_a_folder_that_is_not_empty_is_refused(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path / "lab")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"lab {words}")):
        list(command.lay_out(tmp_path / "lab"))
    assert contents(tmp_path) == before


def test_in_a_larger_repository_the_files_are_staged_there(tmp_path: Path) -> None:
    """In a folder that this repository ignores, and in none, they get a repository of their own."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("/ignored/\n")
    list(command.lay_out(tmp_path / "part"))
    assert not (tmp_path / "part" / ".git").exists()
    assert "A  part/dvc.yaml" in git(tmp_path, "status", "--porcelain").splitlines()
    assert repository(tmp_path / "part").prefix == "part/"
    list(command.lay_out(tmp_path / "ignored" / "lab"))
    assert (tmp_path / "ignored" / "lab" / ".git").is_dir()


def test_a_damaged_repository_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(GitError, match="git cannot tell about"):
        list(command.lay_out(tmp_path / "lab"))
    assert contents(tmp_path) == {}


def test_without_git_dvc_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = list(command.lay_out(tmp_path / "lab"))
    assert said[1].startswith("git is not installed: DVC was told to work without it")
    assert (tmp_path / "lab" / ".dvc" / "config.local").read_text() == "[core]\n    no_scm = true\n"
    assert not (tmp_path / "lab" / ".git").exists()


def committed(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Files")


def test_an_update_writes_what_belongs_to_the_version(laid_out: Path, repository: Path) -> None:
    """The user's parameters and models stay, and so does whatever git does not have yet."""
    (laid_out / command.PACKAGE).write_text(OTHER)
    (laid_out / "stages" / "train.py").write_text("an earlier script\n")
    (laid_out / "params.yaml").write_text("models: []\n")
    with pytest.raises(InputError, match=r"dvc\.yaml has changes that are not committed, and would be written anew"):
        list(command.update(laid_out))
    committed(laid_out)
    (laid_out / "external" / "mine.py").write_text("1\n")
    assert list(command.update(laid_out)) == [
        f"From bitsperdim 0.0.0 to bitsperdim {__version__}: stages/package.txt, stages/train.py."
    ]
    assert (laid_out / "stages" / "train.py").read_bytes() == (repository / "stages" / "train.py").read_bytes()
    assert (laid_out / command.PACKAGE).read_text() == f"bitsperdim {__version__}\n"
    assert (laid_out / "params.yaml").read_text() == "models: []\n"
    committed(laid_out)
    assert next(command.update(laid_out)).endswith(": nothing has changed.")
    with pytest.raises(InputError, match=r"was not laid out by `bitsperdim init`: it has no stages/package\.txt\."):
        list(command.update(repository))


def started(folder: Path, *before: Path) -> subprocess.CompletedProcess[str]:
    """Start the stage preflight, which lacks its arguments, with other folders first on the path."""
    path = os.pathsep.join([*map(str, before), str(Path(sys.executable).parent), os.environ["PATH"]])
    source = str(Path(command.__file__).parents[2])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": source}
    arguments = ["sh", "stages/start.sh", "preflight"]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_stage_wants_the_package_of_its_own_version(laid_out: Path, tmp_path: Path) -> None:
    assert started(laid_out).stderr == "usage: python stages/preflight.py RESULTS MARKER CODE\n"
    (laid_out / command.PACKAGE).write_text(OTHER)
    done = started(laid_out)
    assert (done.returncode, done.stderr) == (
        1,
        f"preflight: this folder was laid out by bitsperdim 0.0.0, but bitsperdim {__version__} is installed; "
        f"`bitsperdim init --update .` writes its stages anew.\n",
    )
    python = tmp_path / "bin" / "python"  # one that has everything but bitsperdim
    python.parent.mkdir()
    python.write_text(f'#!{shutil.which("sh")}\ncase $2 in *__version__*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = started(laid_out, python.parent)
    assert (done.returncode, done.stderr) == (
        1,
        f"preflight: this python ({python}) does not have bitsperdim; first activate the environment in which "
        f"bitsperdim is installed.\n",
    )


Call = Callable[..., tuple[str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in a folder; return what it printed, and the sentence with which it ended."""

    def call(folder: Path, *arguments: str) -> tuple[str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["bitsperdim", *arguments])
        sentence = ""
        try:
            cli.main()
        except SystemExit as error:
            sentence = str(error.code)
        return capsys.readouterr().out, sentence

    return call


def test_from_the_command_line(call: Call, tmp_path: Path) -> None:
    """A command that needs such a folder says how to get one; before the first commit, that one is needed."""
    for arguments in (("compare", "HEAD"), ("leaderboard",), ("recipe",), ("run",), ("back",)):
        said, sentence = call(tmp_path, *arguments)
        assert said == ""
        assert sentence.endswith("Change into one, or lay one out: `bitsperdim init FOLDER`.")
    said, sentence = call(tmp_path, "init", "lab")
    assert said.splitlines()[-1] == "Next: `cd lab`, then `dvc repro`; lab/README.md lists more commands."
    assert sentence == ""
    assert call(tmp_path, "init", "lab")[1].startswith("lab is not empty (")
    for arguments in (("run", "-S", "evaluate.n_samples=8"), ("leaderboard",)):
        said, sentence = call(tmp_path / "lab", *arguments)
        assert said == ""
        assert "lab has no commits" in sentence
        assert sentence.endswith("make one first: `git add --all`, then `git commit`.")
    said, sentence = call(tmp_path / "lab", "recipe")
    assert sentence == ""
    assert "cifar10-pixelcnn: " in said


def test_the_readme_names_commands_that_exist(laid_out: Path) -> None:
    text = (laid_out / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 30
    [commands] = [action.choices for action in cli.parser()._actions if action.choices]
    named = set(re.findall(r"\bbitsperdim ([a-z]+)\b", text))
    assert {"init", "run", "compare", "leaderboard", "back", "recipe"} <= named <= {*commands, "has"}
    for path in re.findall(r"`([\w./-]+\.(?:md|yaml))`", text):
        assert (laid_out / path).is_file(), path
