"""Common to all tests: one thread per worker, no global seed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bitsperdim.core import git
from support import long_cases, warm

if TYPE_CHECKING:
    import torch

    from support.stage_runs import StageFolder

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # DVC starts `dvc`


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a process that runs tests; the one that hands them out to workers needs no torch."""
    if config.getoption("numprocesses", None):
        os.environ[warm.SHARED] = str(warm.folder())  # for all workers
        return
    import torch

    from support import other_processor

    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    if os.environ.get(other_processor.VARIABLE) == "shapes":
        other_processor.OtherRounding().__enter__()  # of this process, to its end


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator; statistical tests state their false-alarm rate for any seed."""
    import torch

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
    from support.stage_runs import StageFolder

    return StageFolder(tmp_path, repository, committed("params.yaml"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that ``make test`` leaves out."""
    long_cases.mark(items, are_chosen=any("::" in argument for argument in config.args))
