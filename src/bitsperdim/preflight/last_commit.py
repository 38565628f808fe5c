"""The origin of a refused value of ``params.yaml``: option ``-S`` of DVC writes a value into the file before its check.

Invariant (``tests/preflight/test_preflight.py::test_a_value_that_is_not_of_the_last_commit_is_named``): if git cannot
answer, the message stays unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.git import repository
from bitsperdim.preflight.agreement import validated

NAMED = re.compile(r"params\.yaml: ([\w-]+(?:\.[\w-]+)*) ")  # the key in a message about params.yaml
ABSENT = object()


def with_origin(error: InputError, folder: Path = Path()) -> InputError:
    """Return the error; if the last commit has another value for its key, the message says so.

    Args:
        error: error about a value in ``params.yaml``.
        folder: folder of ``params.yaml``.
    """
    named = NAMED.match(str(error))
    try:
        committed = repository(folder).ask("show", "HEAD:./params.yaml").decode("utf-8")
        contents = [committed, (folder / "params.yaml").read_text(encoding="utf-8")]
        before, now = (_at(named[1], YAML(typ="safe").load(content)) for content in contents) if named else (None, None)
    except (OSError, ValueError, YAMLError):  # git's errors are subclasses of ValueError
        return error
    if before == now:
        return error
    had = "does not have this key" if before is ABSENT else f"has {shown(before)}"
    return InputError(f"{error} The last commit {had}: if an earlier -S wrote this value, `bitsperdim back` undoes it.")


def refuse_itself(content: Mapping[str, Any], error: InputError, folder: Path = Path()) -> None:
    """Raise InputError if ``params.yaml`` itself, without the changes, has the mistake that was found with the changes.

    Args:
        content: content of ``params.yaml``, without the changes.
        error: error that was raised with the changes.
        folder: folder of ``params.yaml``.

    Raises:
        InputError: the file has the same mistake, so the message does not blame a change.
    """
    try:
        validated(content)
    except InputError as own:
        if str(error).endswith(str(own)):
            raise with_origin(own, folder) from error


def _at(key: str, content: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Return the value at a dotted key; for an entry of a list, return the list."""
    for part in key.split("."):
        if not isinstance(content, Mapping):
            break
        content = content.get(part, ABSENT)
    return content
