"""The README tells the truth: its table is that of the results, its targets and files exist."""

import re
from pathlib import Path

import pytest

from bitsperdim.errors import InputError
from bitsperdim.models import MODELS
from bitsperdim.readme import BEGIN, END, update


@pytest.fixture
def text(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_results(text: str, repository: Path) -> None:
    assert update(text, repository / "results") == text, "run `make readme`"


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
            if not path.startswith(made_by_the_pipeline):
                assert (repository / path).exists(), f"{name} names {path}"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (repository / link).exists(), f"{name} links {link}"


def test_every_family_is_described(text: str) -> None:
    for family in MODELS:
        assert f"`{family}`" in text
