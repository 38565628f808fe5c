"""``-S KEY=VALUE`` of ``bitsperdim recipe``: looked at before anything is started or removed.

DVC's own code applies the settings, so that what is validated is what would be run.

Invariants (``tests/recipes/test_settings.py``): every mistake in a setting is a sentence that names it; what is allowed
gives the parameters that DVC would.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim.errors import InputError, shown
from bitsperdim.params import validate
from bitsperdim.recipes.recipe import close, read_yaml

FORMS = "write KEY=VALUE, +KEY=VALUE to add a key, or ~KEY to remove one"


def applied(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``params.yaml`` with settings as ``dvc exp run -S`` takes them, validated.

    Raises:
        InputError: one is no setting, stands for several values or changes another file, or a parameter is not
            allowed.
    """
    from dvc.utils.cli_parse import to_path_overrides  # imported here: DVC may be missing

    for setting in settings:
        _check_form(setting)
    of_files = to_path_overrides(settings)
    if other := set(of_files) - {"params.yaml"}:
        raise InputError(f"-S can only change params.yaml, not {shown(min(other))}.")
    result = _changed_by_dvc(content, of_files.get("params.yaml", []))
    try:
        validate(result)
    except InputError as error:
        raise InputError(f"{_named(settings)}: {error}") from error
    return result


def _check_form(setting: str) -> None:
    """Refuse what is no setting, or several.

    Raises:
        InputError: it is.
    """
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import HydraException

    ((_, own),) = to_path_overrides([setting]).items()
    try:
        (override,) = to_hydra_overrides(own)
    except (HydraException, RecursionError) as error:
        raise InputError(f"{_named([setting])} is not a setting; {FORMS}.") from error
    if override.is_sweep_override():
        raise InputError(f"{_named([setting])} stands for several values; give each to a command of its own.")


def _changed_by_dvc(content: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(content, file)
        try:
            apply_overrides(path, overrides)
        except Exception as error:  # DVC, Hydra, OmegaConf and YAML refuse in as many ways
            raise InputError(f"{_named(overrides)} cannot be applied: {_reason(error, content)}.") from error
        return read_yaml(path)


def _reason(error: Exception, content: Mapping[str, Any]) -> str:
    """Return why a setting cannot be applied, in one line; of a key that is not there, which ones are like it."""
    lines = str(error.__cause__ or error).splitlines() or [type(error).__name__]
    missing, keys = re.match(r"Could not override '(.*)'", lines[0]), _keys(content)
    if missing and (key := missing[1]) not in keys:
        return f"there is no parameter {shown(key)}{close(key, keys)}; + before it adds one"
    return lines[0].rstrip(".")


def _keys(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys of all parameters, with dots."""
    found = []
    for key, value in content.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += _keys(value, f"{prefix}{key}.")
    return found


def _named(settings: Sequence[str]) -> str:
    """Return settings as they were given, what is long or strange in quotes."""
    is_plain = re.compile(r"[\w.,=~+-]{1,60}", re.ASCII).fullmatch
    return " ".join(f"-S {setting if is_plain(setting) else shown(setting)}" for setting in settings)
