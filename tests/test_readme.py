"""The README tells the truth: its table is that of the results, its targets and files exist."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsperdim.errors import InputError
from bitsperdim.models import MODELS
from bitsperdim.readme import BEGIN, END, update


@pytest.fixture
def text(committed: Callable[[str], str]) -> str:
    return committed("README.md")


def test_the_table_is_that_of_the_committed_results(text: str, committed: Callable[[str], str], tmp_path: Path) -> None:
    models = json.loads(committed("results/models.json"))["models"]
    for name in ("models.json", "dequantize/metrics.json", *(f"{model}/metrics.json" for model in models)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(committed(f"results/{name}"), encoding="utf-8")
    assert update(text, tmp_path) == text, "run `make readme`"


def test_a_readme_without_markers_is_refused(repository: Path) -> None:
    for broken in ("", BEGIN, f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(InputError, match="must hold the markers"):
            update(broken, repository / "results")


def test_every_make_target_named_exists(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z]+)", (repository / name).read_text(encoding="utf-8")))
        assert named
        assert named <= targets, name


def test_every_file_named_exists(repository: Path) -> None:
    made_by_the_pipeline = ("report/", "models/", "logs/", "data/raw/", "data/dequantized/", "results/<", "data/own/my")
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (repository / name).read_text(encoding="utf-8")
        paths = re.findall(r"`((?:src|stages|tests|docs|data|results|report|models|logs|\.ci)/[^`\s]*)`", text)
        assert paths
        for path in paths:
            if not path.startswith(made_by_the_pipeline) and "<" not in path:
                assert (repository / path).exists(), f"{name} names {path}"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (repository / link).exists(), f"{name} links {link}"


def test_every_family_is_described(text: str) -> None:
    for family in MODELS:
        assert f"`{family}`" in text
