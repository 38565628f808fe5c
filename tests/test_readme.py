"""The README tells the truth: its table is that of the results, its targets and files exist."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsperdim.errors import InputError
from bitsperdim.models import MODELS
from bitsperdim.readme import BEGIN, END, RECIPES_BEGIN, update


@pytest.fixture
def text(committed: Callable[[str], str]) -> str:
    return committed("README.md")


def test_the_tables_are_those_of_the_committed_results(
    text: str, repository: Path, committed: Callable[[str], str], tmp_path: Path
) -> None:
    models = json.loads(committed("results/models.json"))["models"]
    paths = ["models.json", "dequantize/metrics.json", *(f"{model}/metrics.json" for model in models)]
    paths = [f"results/{path}" for path in paths]
    listing = subprocess.run(
        ["git", "-C", str(repository), "ls-tree", "-r", "--name-only", "HEAD", "recipes/results/"],
        capture_output=True,
        text=True,
        check=False,  # without git the files are those of the release
    )
    recipes = listing.stdout.split() or [
        path.relative_to(repository).as_posix() for path in (repository / "recipes" / "results").glob("*")
    ]
    for path in [*paths, *(path for path in recipes if path.endswith(".json"))]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(committed(path), encoding="utf-8")
    assert update(text, tmp_path) == text, "run `make readme`"


def test_a_readme_without_markers_is_refused(repository: Path) -> None:
    for broken in ("", BEGIN, f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}", f"{BEGIN}{END}{RECIPES_BEGIN}"):
        with pytest.raises(InputError, match="must hold the markers"):
            update(broken, repository)


def test_every_make_target_named_exists(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z]+)", (repository / name).read_text(encoding="utf-8")))
        assert named
        assert named <= targets, name


def test_every_file_named_exists(repository: Path) -> None:
    made_elsewhere = ("report/", "models/", "logs/", "runs/", "data/raw/", "data/dequantized/", "results/<")
    made_elsewhere += ("data/own/my", "recipes/my")
    folders = r"src|stages|tests|docs|data|recipes|results|report|models|logs|runs|\.ci"
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (repository / name).read_text(encoding="utf-8")
        paths = re.findall(rf"`((?:{folders})/[^`\s]*)`", text)
        assert paths
        for path in paths:
            if not path.startswith(made_elsewhere) and "<" not in path:
                assert (repository / path).exists(), f"{name} names {path}"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (repository / link).exists(), f"{name} links {link}"


def test_every_family_is_described(text: str) -> None:
    for family in MODELS:
        assert f"`{family}`" in text
