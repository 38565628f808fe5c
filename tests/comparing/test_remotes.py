"""A real DVC remote: a run is pushed to a folder; clones pull it without running anything, and compare its commits."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support import warm
from support.cases import write_studies

STUDIES = ("known", "density_and_mass", "project_delay", "universal_resnet")
SECONDS = 240


class Copy:
    """A repository with this repository's code and pipeline; commands in it do not see the user's configuration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **os.environ,
            **{
                f"GIT_{who}_{what}": "nobody@example.org"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "BITSPERDIM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join([warm.path(), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(root / "src"),
            **{
                f"DVC_{what}": str(root.parent / "dvc")
                for what in ("GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR", "SITE_CACHE_DIR")
            },
        }

    def run(self, *command: str, status: int = 0) -> str:
        """Return the output of a command on stdout and stderr; the command must exit with this status."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == status, f"{command} ended with {done.returncode}: {done.stdout}"
        return done.stdout

    def compare(self, *arguments: str, status: int = 0) -> str:
        return self.run("python", "-m", "bitsperdim.cli", "compare", *arguments, status=status)

    def clone(self, name: str) -> Copy:
        self.run("git", "clone", "--quiet", str(self.root), str(self.root.parent / name))
        return Copy(self.root.parent / name)

    def change(self, path: str, change: Any) -> None:
        yaml = YAML()
        content = yaml.load((self.root / path).read_text(encoding="utf-8"))
        change(content)
        with (self.root / path).open("w", encoding="utf-8") as file:
            yaml.dump(content, file)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Copy:
    """Two runs, committed and pushed to a folder, after which the cache of the place where they were run is gone.

    The models are two that take no time, and the studies, which need no remote, are not stages here.
    """
    copy = Copy(tmp_path_factory.mktemp("remotes") / "origin")
    copy.root.mkdir()
    for part in ("src", "stages"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(repository / part, copy.root / part, ignore=ignored)
    for part in ("recipes", "data/own", "external"):
        (copy.root / part).mkdir(parents=True)
        (copy.root / part / "README.md").write_text("Nothing.\n", encoding="utf-8")
    for file in (".dvcignore", ".gitattributes", ".gitignore", "dvc.yaml", "params.yaml"):
        shutil.copy(repository / file, copy.root / file)

    def cut(pipeline: Any) -> None:
        for study in STUDIES:
            del pipeline["stages"][study]

    def small(params: Any) -> None:
        params["models"] = ["histogram", "gaussian"]
        params["evaluate"] |= {"n_samples": 4, "n_pictures": 4}

    copy.change("dvc.yaml", cut)
    copy.change("params.yaml", small)
    write_studies(copy.root / "results")
    copy.run("git", "init", "--quiet", "--initial-branch=main")
    copy.run("dvc", "init", "--quiet")
    copy.run("dvc", "remote", "add", "--default", "storage", str(copy.root.parent / "storage"))
    copy.run("dvc", "repro")
    commit(copy, "First")

    def other(params: Any) -> None:
        params["histogram"]["pseudocount"] = 30.0

    copy.change("params.yaml", other)
    ran = copy.run("dvc", "repro")
    assert "train@histogram" in ran
    assert "Running stage 'train@gaussian'" not in ran
    commit(copy, "Second")
    shutil.rmtree(copy.root / ".dvc" / "cache")
    return copy


def commit(copy: Copy, message: str) -> None:
    copy.run("git", "add", "--all")
    copy.run("git", "commit", "--quiet", "--message", message)
    copy.run("dvc", "push", "--quiet")


def test_a_clone_pulls_and_has_nothing_left_to_run(origin: Copy) -> None:
    clone = origin.clone("pulled")
    assert not (clone.root / "report").exists()
    clone.run("dvc", "pull", "--quiet")
    assert (clone.root / "report" / "index.html").stat().st_size > 10_000
    assert "up to date" in clone.run("dvc", "status")
    assert "Running" not in clone.run("dvc", "repro")
    assert clone.run("git", "status", "--porcelain") == ""
    (clone.root / "recipes" / "results").mkdir()
    (clone.root / "recipes" / "results" / "new.json").write_text("{}", encoding="utf-8")
    assert "up to date" in clone.run("dvc", "status"), "the report shows no result of a recipe"
    (clone.root / "recipes" / "new.yaml").write_text("{}", encoding="utf-8")
    assert "recipes" in clone.run("dvc", "status"), "the report shows the published numbers of a recipe"


def test_commits_whose_data_are_only_on_the_remote_are_compared(origin: Copy) -> None:
    clone = origin.clone("without_cache")
    said = clone.compare("HEAD~1", "HEAD")
    assert "histogram.pseudocount: 1.0 -> 30.0" in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("histogram ")] == ["worse"]
    assert [line.split()[-2:] for line in said.splitlines() if line.startswith("gaussian ")] == [["the", "same"]]
    assert not list((clone.root / "results").rglob("per_image.csv"))  # no file was checked out


def test_data_that_are_nowhere_leave_an_unpaired_difference(origin: Copy) -> None:
    clone = origin.clone("nowhere")
    clone.run("dvc", "remote", "modify", "--local", "storage", "url", str(origin.root.parent / "gone"))
    said = clone.compare("HEAD~1", "HEAD")
    assert [", unpaired " in line for line in said.splitlines() if line.startswith("histogram ")] == [True]
    assert "is neither in DVC's cache nor on a remote: run `dvc pull` or `dvc repro` on that commit." in said
    said = clone.compare("workspace", "HEAD")
    assert "is neither in the workspace nor in DVC's cache: run `dvc pull` or `dvc repro`." in said


def test_a_clone_without_the_data_runs_with_links_to_the_cache(origin: Copy) -> None:
    """The second run replaces links by new files, and does not write through a link into the cache."""
    clone = origin.clone("linked")
    clone.run("dvc", "remote", "modify", "--local", "storage", "url", str(origin.root.parent / "gone"))
    clone.run("dvc", "config", "--local", "cache.type", "symlink")
    clone.run("dvc", "exp", "run", "dequantize")
    images = clone.root / "data" / "dequantized" / "test" / "images.npy"
    assert images.is_symlink()
    clone.run("dvc", "exp", "run", "-S", "dataset.seed=1", "--force", "dequantize")
    stored = [path for path in (clone.root / ".dvc" / "cache" / "files" / "md5").rglob("*") if path.is_file()]
    assert len(stored) > 10
    for path in stored:
        assert hashlib.md5(path.read_bytes()).hexdigest() == (path.parent.name + path.name).removesuffix(".dir")


def test_files_that_the_user_put_there_survive_a_run_that_fails(origin: Copy) -> None:
    """They are found also from DVC's copy for an experiment; a relative mirror path starts at the repository."""
    clone = origin.clone("own")
    own = clone.root / "data" / "raw" / "mnist"
    own.mkdir(parents=True)
    (own / "notes.txt").write_text("mine", encoding="utf-8")
    clone.environment["BITSPERDIM_MIRROR"] = "../no_mirror"
    run = ("dvc", "exp", "run", "-S", "dataset.name=mnist", "download")
    said = clone.run(*run[:3], "--temp", *run[3:], status=255)
    assert f"{clone.root}/../no_mirror/mnist/train-images-idx3-ubyte.gz does not exist. " in said
    other = gzip.compress(b"other images")
    (own / "train-images-idx3-ubyte.gz").write_bytes(other)
    said = clone.run(*run[:3], "--temp", *run[3:], status=255)
    assert "data/raw/mnist/train-images-idx3-ubyte.gz is a whole gzip file, but its content is not that of" in said
    assert {path.name: path.read_bytes() for path in own.iterdir()} == {
        "notes.txt": b"mine",
        "train-images-idx3-ubyte.gz": other,
    }
