"""A copy of the code in which recipes run without DVC, and the command that runs them there."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from support import warm
from support.small_params import made_small


def copied(repository: Path, folder: Path) -> None:
    """Copy the code, with parameters of seconds and no recipes."""
    for part in ("src", "stages"):
        shutil.copytree(repository / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(repository / "dvc.yaml", folder / "dvc.yaml")
    (folder / "params.yaml").write_text(made_small((repository / "params.yaml").read_text("utf-8")), "utf-8")
    (folder / "recipes").mkdir()


def write_recipe(root: Path, name: str, content: Mapping[str, Any]) -> None:
    with (root / "recipes" / f"{name}.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(dict(content), file)


def call(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``bitsperdim recipe``, which starts stages by the Python that it runs in."""
    return subprocess.run(
        [warm.python(), "-m", "bitsperdim.cli", "recipe", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "BITSPERDIM_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
