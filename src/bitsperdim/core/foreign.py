"""The user's own files that a result depends on: their hashes, and the other files that they import.

An external model is a Python file below ``external/``. It may import other files from its folder, and its arguments may
name files below ``external/``. This module executes none of them: it only reads their imports and names.

Invariants (``tests/core/test_foreign.py``): all files that a file imports from its folder, directly or indirectly, are
found (``test_what_is_imported_is_found``); a name that a file does not define is noticed before any code is executed
(``test_names_are_read``).
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import workspace

FOLDER = "external"  # folder of the repository; DVC tracks its changes


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return path -> SHA-256 for the files that exist, sorted by path."""
    return {path.as_posix(): file_sha256(path) for path in sorted({Path(each) for each in paths}) if path.is_file()}


def code_beside(path: Path) -> list[Path]:
    """Return a Python file and all files that it imports from its own folder, directly or indirectly, sorted by path.

    If it imports a package from the folder, all Python files of the package are included. A file that is not valid
    Python has no imports.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        found.add(file)
        for name in _imported(file):
            base = path.parent / name
            waiting.append(base.with_name(f"{name}.py"))
            if base.is_dir():
                waiting += sorted(base.rglob("*.py"))
    return sorted(found)


def files_named(value: object, below: str = f"{FOLDER}/") -> Iterator[str]:
    """Yield each string in nested arguments that is the path of a file below ``external/``, or below another folder."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from files_named(item, below)
    elif isinstance(value, str) and value.startswith(below) and os.path.isfile(value):  # noqa: PTH113 - Path raises an error for a very long text
        yield value


def needed_by(file: str, arguments: Mapping[str, object]) -> dict[str, str]:
    """Return path -> SHA-256 for a model's file, files that it imports from its folder, and files in its arguments."""
    return hashes([*code_beside(Path(file)), *files_named(arguments)])


def refuse_missing(key: str, path: str) -> None:
    """Raise InputError if a path is not a file.

    Args:
        key: the key in ``params.yaml``.
        path: its value.

    Raises:
        InputError: there is no such file. If the run uses a copy of the user's repository and only the original has the
            file, the message says how to add it.
    """
    if Path(path).is_file():
        return
    why = f"params.yaml: {key} = {path!r} is not a file"
    if workspace() != Path() and (workspace() / path).is_file():
        raise InputError(
            f"{why} in this copy of the repository, which holds only files that git or DVC track; "
            f"type `git add {path}`, or `dvc add`."
        )
    raise InputError(f"{why}; paths are relative to the repository.")


def refuse_changed(files: Mapping[str, str], folder: Path) -> None:
    """Raise InputError if a file has changed since a model was trained with it.

    Args:
        files: path -> SHA-256 at the time of training.
        folder: folder of the trained model, for the message.

    Raises:
        InputError: one of the files is missing or has changed.
    """
    for path, digest in files.items():
        if not Path(path).is_file():
            raise InputError(f"{path}, with which the model in {folder} was made, is missing; put it back.")
        if file_sha256(Path(path)) != digest:
            raise InputError(f"{path} has changed since the model in {folder} was made with it; train the model again.")


def names_in(path: Path) -> set[str] | None:
    """Return the names that a Python file defines or imports at its top level.

    The result is None if the names cannot be known without executing the file: it imports ``*`` or defines
    ``__getattr__``.

    Raises:
        InputError: the file is not valid Python.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise InputError(f"{path} is not valid Python (line {error.lineno}: {error.msg}).") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} is not valid Python ({error}).") from error
    names: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
            continue  # names inside a class or function are not at the top level
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting += ast.iter_child_nodes(node)
    return None if "*" in names or "__getattr__" in names else names


def _imported(path: Path) -> set[str]:
    """Return the first parts of the names of all modules that a file imports, at any place in the file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names}
