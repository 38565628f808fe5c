"""The code that decides a result: a file, and all of this package that it imports, directly or not.

DVC's stages and checkpoints of unfinished work depend on hashes of it, so that an edit reruns what it can change, and
nothing else. Imports are read, not executed: what is imported by its name at run time is not followed. So the families
of models are found (:mod:`bitsperdim.config.families`), and a stage names the family that it needs besides; a new
family leaves the results of all others alone.

Comments, docstrings and empty lines decide nothing, and are left out. What is imported for types alone
(``if TYPE_CHECKING``) is not followed.

Invariants (``tests/core/test_code.py``): against what Python really imports (``test_it_is_what_python_imports``); an
edit of a comment or a docstring changes no hash, any other does (``test_what_changes_a_hash``).
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]  # the folder that holds the package, whatever links lead there
ROOM = 2  # parts of a path that name a room: bitsperdim/core


def needed(*starts: Path) -> list[Path]:
    """Return these files and all of the package that they import, in order.

    Args:
        starts: files of Python.
    """
    found: set[Path] = set()
    waiting = [start.resolve() for start in starts]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return sorted(found)


def file_of(module: str) -> Path:
    """Return the file of a module of this package, by its dotted name."""
    base = SOURCE.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def digest(files: Iterable[Path]) -> str:
    """Return the SHA-256 of what files do, and of their places."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{_place(path)} {_digest_of(path)}\n".encode())
    return whole.hexdigest()


def digest_of_bytes(files: Iterable[Path]) -> str:
    """Return the SHA-256 of files as they are, and of their places: where comments or pages matter."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{_place(path)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def digests_by_room(files: Iterable[Path]) -> dict[str, str]:
    """Return a hash for each room of the package, and for each file outside it, by its name."""
    rooms: dict[str, list[Path]] = {}
    for path in files:
        parts = Path(_place(path)).parts
        is_in_a_room = parts[0] == "bitsperdim" and len(parts) > ROOM
        rooms.setdefault(parts[1] if is_in_a_room else "/".join(parts), []).append(path)
    return {room: digest(paths) for room, paths in sorted(rooms.items())}


def _place(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix() if path.is_relative_to(SOURCE) else f"{path.parent.name}/{path.name}"


@cache
def _digest_of(path: Path) -> str:
    return hashlib.sha256("\n".join(what_it_does(path.read_text(encoding="utf-8"))).encode()).hexdigest()


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Return the files of the package that one file imports itself, with the packages that they lie in."""
    names: set[str] = set()
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files: set[Path] = set()
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            base = SOURCE.joinpath(*parts[:length])
            files |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return tuple(sorted(files))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Return all nodes below one, but for what is there for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from (other, *_executed(other))
            continue
        yield child
        yield from _executed(child)


def what_it_does(text: str) -> list[str]:
    """Return the lines of a source without comments, docstrings and empty lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
                continue
            if isinstance(first.value.value, str) and first.end_lineno is not None:
                lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return [line.rstrip() for line in lines if line.strip()]
