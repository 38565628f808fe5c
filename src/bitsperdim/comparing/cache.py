"""What DVC keeps beside git: which file a commit means (``dvc.lock``), the parameters that made it, and its cache.

``dvc.lock`` names every output by the MD5 of its content, under which it lies in the cache. Of a lock of a thousand
lines only the few that are asked for are parsed.

Invariants (``tests/comparing/test_source.py``): a file is given as a whole, with the MD5 that was asked for, or not at
all (``test_a_damaged_file_of_the_cache_is_noticed``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitsperdim.core.errors import InputError
from bitsperdim.core.git import repository


class Cache:
    """DVC's cache of one repository; DVC is imported when it is first asked for."""

    def __init__(self, root: Path) -> None:
        """Remember where."""
        self.root = root

    @cached_property
    def _store(self) -> Any:  # noqa: ANN401 - DVC has no types
        if importlib.util.find_spec("dvc") is None or not (self.root / ".dvc").is_dir():
            return None
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            with Repo(str(self.root)) as repo:
                return repo.cache.local, bool(repo.config.get("remote"))
        except (DvcException, OSError):
            return None

    def read(self, md5: str) -> bytes | None:
        """Return the file of this content, or None where the cache has none.

        Raises:
            InputError: it is there, but damaged.
        """
        if self._store is None:
            return None
        path = Path(self._store[0].oid_to_path(md5))
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise InputError(f"DVC's cache holds a damaged file under {md5}; remove it, and pull or run it again.")
        return content

    def has(self, md5: str) -> bool:
        """Return whether a file, or every file of a folder, of this content is there; none of it is verified."""
        if self._store is None or not md5:
            return False
        path = Path(self._store[0].oid_to_path(md5))
        if not path.is_file():
            return False
        inner = json.loads(path.read_bytes()) if md5.endswith(".dir") else []
        return all(Path(self._store[0].oid_to_path(entry["md5"])).is_file() for entry in inner)

    def fetch(self, path: str, revision: str) -> bytes | None:
        """Return a file of a revision from a remote of DVC, or None where there is no such thing."""
        if self._store is None or not self._store[1]:
            return None
        import dvc.api

        try:
            path = f"{repository(self.root).prefix}{path}"  # of a revision DVC wants the path from the top
            content: bytes = dvc.api.read(path, repo=str(self.root), rev=revision, mode="rb")
        except Exception:  # a remote fails in as many ways as there are kinds of them
            return None
        return content


def md5_of(lock: str, path: str) -> str | None:
    """Return the MD5 that a ``dvc.lock`` has for a file or folder, which ends in ``.dir``, or None."""
    found = re.search(
        rf"^ *- path: {re.escape(path)}\n +hash: md5\n +md5: ([0-9a-f]{{32}}(?:\.dir)?)$", lock, re.MULTILINE
    )
    return found[1] if found else None


def locked_params(lock: str, model: str) -> dict[str, Any]:
    """Return the parameters with which ``dvc.lock`` says that a model's numbers were made: section -> content."""
    params: dict[str, Any] = {}
    for stage in ("dequantize", f"train@{model}", f"evaluate@{model}"):
        block = re.search(rf"^  {re.escape(stage)}:\n(?:    .*\n|\n)+", f"{lock}\n", re.MULTILINE)
        if block:
            content = parse(block[0])
            stored = content.get(stage) if isinstance(content, Mapping) else None
            own = stored.get("params") if isinstance(stored, Mapping) else None
            found = own.get("params.yaml") if isinstance(own, Mapping) else None
            params |= found if isinstance(found, Mapping) else {}
    return params


def parse(text: str) -> object:
    """Return what YAML says, or None where it is none."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError):
        return None
