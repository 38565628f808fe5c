"""The code that a result depends on: a file, and all modules of this package that it imports, directly or indirectly.

DVC's stages and the checkpoints of unfinished work depend on hashes of this code, so that an edit reruns only the
stages whose results it can change. Imports are read from the source, not executed. Modules that are imported by name
at run time are therefore not followed. The families of models are imported in this way
(:mod:`bitsperdim.config.families`), so a stage names the families that it needs, and a new family does not invalidate
the results of the others.

The hashes ignore comments, docstrings and empty lines. Imports for type checking (``if TYPE_CHECKING``) are not
followed.

Invariants (``tests/core/test_code.py``): the files are those that Python really imports
(``test_it_is_what_python_imports``); an edit of a comment or a docstring changes no hash, any other edit does
(``test_what_changes_a_hash``).
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]  # the folder that holds the package, with symbolic links resolved
ROOM = 2  # number of path parts that name a room: bitsperdim/core


def needed(*starts: Path) -> list[Path]:
    """Return these files and all modules of the package that they import, sorted by path.

    Args:
        starts: Python files.
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
    """Return the SHA-256 of the paths of files and of their code without comments and docstrings."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{_place(path)} {_digest_of(path)}\n".encode())
    return whole.hexdigest()


def digest_of_bytes(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the paths of files and of all their bytes, for files whose comments or text matter."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{_place(path)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def digests_by_room(files: Iterable[Path]) -> dict[str, str]:
    """Return a hash for each room of the package, and for each file outside the rooms, by name."""
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
    """Return the files of the package that one file imports directly, and the ``__init__.py`` files above them."""
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
    """Yield all nodes below a node, except those that are only for type checking."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from (other, *_executed(other))
            continue
        yield child
        yield from _executed(child)


def what_it_does(text: str) -> list[str]:
    """Return the lines of a source text without comments, docstrings and empty lines."""
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
