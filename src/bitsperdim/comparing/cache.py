"""Reading DVC's data: its cache, and the hashes and parameters in ``dvc.lock``.

``dvc.lock`` names every output by the MD5 of its content, which is also its name in the cache. Only the few needed
lines of a long lock are parsed.

Invariants (``tests/comparing/test_source.py``): a file is returned complete and with the requested MD5, or not at all
(``test_a_damaged_file_of_the_cache_is_noticed``).
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
    """DVC's cache of one repository; DVC is imported at the first use."""

    def __init__(self, root: Path) -> None:
        """Store the folder of the repository."""
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
        """Return the content with this MD5, or None if the cache does not have it.

        Raises:
            InputError: the file in the cache is damaged.
        """
        if self._store is None:
            return None
        path = Path(self._store[0].oid_to_path(md5))
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise InputError(
                f"The file {path} in DVC's cache is damaged; remove it, then run `dvc pull` or `dvc repro`."
            )
        return content

    def has(self, md5: str) -> bool:
        """Return whether the cache has this file, or all files of this folder; their contents are not verified."""
        if self._store is None or not md5:
            return False
        path = Path(self._store[0].oid_to_path(md5))
        if not path.is_file():
            return False
        inner = json.loads(path.read_bytes()) if md5.endswith(".dir") else []
        return all(Path(self._store[0].oid_to_path(entry["md5"])).is_file() for entry in inner)

    def fetch(self, path: str, revision: str) -> bytes | None:
        """Return a file of a revision from a DVC remote, or None if there is no such remote or file."""
        if self._store is None or not self._store[1]:
            return None
        import dvc.api

        try:
            path = f"{repository(self.root).prefix}{path}"  # for a revision DVC expects a path from the top
            content: bytes = dvc.api.read(path, repo=str(self.root), rev=revision, mode="rb")
        except Exception:  # remotes of different kinds raise different exceptions
            return None
        return content


def md5_of(lock: str, path: str) -> str | None:
    """Return the MD5 of a file or folder in a ``dvc.lock``, or None; the MD5 of a folder ends in ``.dir``."""
    found = re.search(
        rf"^ *- path: {re.escape(path)}\n +hash: md5\n +md5: ([0-9a-f]{{32}}(?:\.dir)?)$", lock, re.MULTILINE
    )
    return found[1] if found else None


def locked_params(lock: str, model: str) -> dict[str, Any]:
    """Return the parameters that made a model's numbers according to ``dvc.lock``: section -> content."""
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
    """Return the content of a YAML text, or None if it is not valid YAML."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError):
        return None
