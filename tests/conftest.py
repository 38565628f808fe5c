"""Common to all tests: one thread per worker, no global seed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitsperdim.core import git
from support import long_cases, other_processor
from support.stage_runs import StageFolder

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # DVC starts `dvc`
if os.environ.get(other_processor.VARIABLE) == "shapes":
    other_processor.OtherRounding().__enter__()  # of this process, to its end


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator; statistical tests state their false-alarm rate for any seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def committed(repository: Path) -> Callable[[str], str]:
    """Read a file as the last commit has it: what a user changes and reruns must not fail the tests.

    Without git (an unpacked archive) the files are those of the release.
    """

    def read(path: str) -> str:
        try:
            return git.repository(repository).ask("show", f"HEAD:./{path}").decode("utf-8")
        except git.NotARepositoryError:
            return (repository / path).read_text(encoding="utf-8")

    return read


@pytest.fixture
def stage_folder(tmp_path: Path, repository: Path, committed: Callable[[str], str]) -> StageFolder:
    """A folder in which training stages run."""
    return StageFolder(tmp_path, repository, committed("params.yaml"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that ``make test`` leaves out."""
    long_cases.mark(items, are_chosen=any("::" in argument for argument in config.args))
