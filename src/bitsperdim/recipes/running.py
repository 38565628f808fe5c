"""Running a recipe: as a named DVC experiment in a copy of the workspace, or stage by stage without DVC.

Either way the workspace stays as it is, an interrupted run goes on where it stopped (stages that are done
are not run again, a training goes on from its checkpoint), and what was made can be read by path.

Not here: what is kept of a run (:mod:`bitsperdim.recipes.result`).

Invariants (``tests/recipes/test_running.py``): the stages run in order, once; the second run does
nothing; another parameter or an edit of the code starts anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim import checkpoints, stage
from bitsperdim.errors import InputError
from bitsperdim.files import write_text
from bitsperdim.recipes.recipe import Recipe, SizeName, overrides, read_yaml

RUNS, LOGS = Path("runs"), Path("logs") / "recipes"


@dataclass(frozen=True)
class Finished:
    """A run that came to its end.

    Attributes:
        experiment: its name.
        read: returns the content of a file that the pipeline wrote or read, by its path in the repository.
        params: the whole content of its ``params.yaml``.
        logs: the folder of the stages' logs.
    """

    experiment: str
    read: Callable[[str], bytes]
    params: Mapping[str, Any]
    logs: Path


def run(root: Path, recipe: Recipe, size: SizeName, *, with_dvc: bool | None = None) -> Finished:
    """Run a recipe to its end.

    Args:
        root: of the repository.
        recipe: what to run.
        size: ``cpu`` or ``gpu``.
        with_dvc: None: where DVC is installed and the repository is one of git.

    Raises:
        InputError: the recipe or a parameter is not allowed, or a stage failed (it has said why).
    """
    params = recipe.parameters(read_yaml(root / "params.yaml"), size)
    if with_dvc is None:
        with_dvc = importlib.util.find_spec("dvc") is not None and (root / ".git").exists()
    name = f"{recipe.name}-{size}"
    logs = root / LOGS / name
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        checkpoints.VARIABLE: os.environ.get(checkpoints.VARIABLE, str(root / "checkpoints")),
        stage.LOGS: str(logs),
    }
    if with_dvc:
        read = _with_dvc(root, name, overrides(recipe.changes(size)), environment)
    else:
        read = _without_dvc(root, name, params, environment)
    return Finished(name, read, params, logs)


def _with_dvc(root: Path, name: str, changes: list[str], environment: Mapping[str, str]) -> Callable[[str], bytes]:
    dvc = [sys.executable, "-m", "dvc"]
    existing = subprocess.run(
        [*dvc, "exp", "list", "--name-only"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if name in existing.stdout.split():  # what it computed stays in DVC's cache
        _call([*dvc, "exp", "remove", "--quiet", name], root, environment)
    settings = [part for change in changes for part in ("-S", change)]
    _call([*dvc, "exp", "run", "--temp", "--name", name, *settings], root, environment)

    def read(path: str) -> bytes:
        import dvc.api  # imported here: two seconds

        content: bytes = dvc.api.read(path, repo=str(root), rev=name, mode="rb")
        return content

    return read


def _without_dvc(
    root: Path, name: str, params: Mapping[str, Any], environment: Mapping[str, str]
) -> Callable[[str], bytes]:
    """Run the commands of ``dvc.yaml`` in order in a copy of the code; what is done is marked."""
    folder = root / RUNS / name
    pipeline = read_yaml(root / "dvc.yaml")
    fingerprint = _fingerprint(root, params)
    done = folder / "done"
    if not (done / fingerprint).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("src", "stages"):
            shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        with (folder / "params.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(dict(params), file)
        write_text(done / fingerprint, "")
    for label, command in commands(pipeline, params):
        marker = done / label
        if marker.exists():
            print(f"{label} is done already.")
            continue
        print(f"Running {label}:")
        _call(["/bin/sh", "-c", command], folder, environment)
        write_text(marker, "")
    return lambda path: (folder / path).read_bytes()


def commands(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the label and the command of every stage of ``dvc.yaml`` in order, as DVC would fill them in.

    Raises:
        InputError: a command refers to something that is no parameter.
    """
    found = []
    for label, definition in pipeline["stages"].items():
        models = params["models"] if "matrix" in definition else [None]
        for model in models:
            command: str = definition["cmd"]
            for key in re.findall(r"\$\{([\w.]+)\}", command):
                command = command.replace(f"${{{key}}}", _value(key, params, model))
            found.append((label if model is None else f"{label}@{model}", command))
    return found


def _value(key: str, params: Mapping[str, Any], model: str | None) -> str:
    if key == "item.model" and model is not None:
        return model
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"dvc.yaml: ${{{key}}} is no parameter.")
        value = value[part]
    return str(value)


def _fingerprint(root: Path, params: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(repr(sorted(params.items())).encode())
    for path in (root / "dvc.yaml", *sorted((root / "src").rglob("*.py")), *sorted((root / "stages").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _call(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if status:
        raise InputError(
            f"The run stopped (status {status}); what is done is kept, and the same command goes on from there."
        )
