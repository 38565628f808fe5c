"""Files of the user that decide a result, beside the package: what they hash to, and which others they import.

A model from elsewhere is a file of Python below ``external/``. It may import others that lie in its folder, and its
arguments may name files there. Nothing here executes them: imports and names are read.

Invariants (``tests/core/test_foreign.py``): what a file imports from its folder is found, directly or not
(``test_what_is_imported_is_found``); a name that it does not define is known before anything is executed
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

FOLDER = "external"  # of the repository; DVC watches it


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return path -> SHA-256 of those files that are there, in order."""
    return {path.as_posix(): file_sha256(path) for path in sorted({Path(each) for each in paths}) if path.is_file()}


def code_beside(path: Path) -> list[Path]:
    """Return a file of Python and all that it imports from its own folder, directly or not, in order.

    Of a package in the folder these are all its files. What is not Python imports nothing.
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
            waiting += [base.with_name(f"{name}.py"), *(sorted(base.rglob("*.py")) if base.is_dir() else ())]
    return sorted(found)


def files_named(value: object, below: str = f"{FOLDER}/") -> Iterator[str]:
    """Yield the text in arguments that names a file below ``external/``, or below another folder."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from files_named(item, below)
    elif isinstance(value, str) and value.startswith(below) and os.path.isfile(value):  # noqa: PTH113 - no name of a file may be too long
        yield value


def needed_by(file: str, arguments: Mapping[str, object]) -> dict[str, str]:
    """Return the hashes of a model's file, of what it imports from its folder and of files that its arguments name."""
    return hashes([*code_beside(Path(file)), *files_named(arguments)])


def refuse_missing(key: str, path: str) -> None:
    """Refuse a path at which there is no file.

    Args:
        key: of ``params.yaml``.
        path: its value.

    Raises:
        InputError: there is none; where the user's own workspace has one and this is a copy of it, it says so.
    """
    if Path(path).is_file():
        return
    why = f"params.yaml: {key} = {path!r} is not a file"
    if workspace() != Path() and (workspace() / path).is_file():
        raise InputError(f"{why} of this copy, which holds what git and DVC know; type `git add {path}`, or `dvc add`.")
    raise InputError(f"{why}; paths are relative to the repository.")


def refuse_changed(files: Mapping[str, str], folder: Path) -> None:
    """Refuse files that are no longer those with which a model was trained.

    Args:
        files: path -> SHA-256 at that time.
        folder: of the trained model, for the message.

    Raises:
        InputError: one of them is gone or has changed.
    """
    for path, digest in files.items():
        if not Path(path).is_file():
            raise InputError(f"{path} is not there, of which the model in {folder} was made; put it back.")
        if file_sha256(Path(path)) != digest:
            raise InputError(f"{path} has changed since the model in {folder} was made of it; train it again.")


def names_in(path: Path) -> set[str] | None:
    """Return the names that a file of Python defines or imports at its top level; None: it imports some by ``*``.

    Raises:
        InputError: it is not Python.
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
            continue  # what is in it is not of the top level
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting += ast.iter_child_nodes(node)
    return None if "*" in names or "__getattr__" in names else names


def _imported(path: Path) -> set[str]:
    """Return the first parts of the names of the modules that a file imports, anywhere in it."""
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
