"""Where a refused value of ``params.yaml`` comes from: ``-S`` writes into the file also what is then refused.

Invariant (``tests/preflight/test_preflight.py::test_a_value_that_is_not_of_the_last_commit_is_named``): where git
cannot tell, the sentence stays as it is.
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

NAMED = re.compile(r"params\.yaml: ([\w-]+(?:\.[\w-]+)*) ")  # the key in a sentence on params.yaml
ABSENT = object()


def with_origin(error: InputError, folder: Path = Path()) -> InputError:
    """Return the error, with what the last commit has where ``params.yaml`` in this folder has another value."""
    named = NAMED.match(str(error))
    try:
        committed = repository(folder).ask("show", "HEAD:./params.yaml").decode("utf-8")
        contents = [committed, (folder / "params.yaml").read_text(encoding="utf-8")]
        before, now = (_at(named[1], YAML(typ="safe").load(content)) for content in contents) if named else (None, None)
    except (OSError, ValueError, YAMLError):  # git's errors are of values too
        return error
    if before == now:
        return error
    had = "does not have it" if before is ABSENT else f"has {shown(before)}"
    return InputError(f"{error} The last commit {had}: if an earlier -S left this, `bitsperdim back` goes back.")


def refuse_itself(content: Mapping[str, Any], error: InputError, folder: Path = Path()) -> None:
    """Refuse the content of ``params.yaml`` where what has been refused with changes of it is its own mistake.

    Raises:
        InputError: it is; no change is blamed.
    """
    try:
        validated(content)
    except InputError as own:
        if str(error).endswith(str(own)):
            raise with_origin(own, folder) from error


def _at(key: str, content: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Return what stands at a key with dots; of an entry of a list, the list."""
    for part in key.split("."):
        if not isinstance(content, Mapping):
            break
        content = content.get(part, ABSENT)
    return content
