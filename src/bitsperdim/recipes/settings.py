"""Settings ``-S KEY=VALUE`` of ``bitsperdim run`` and ``recipe``, checked before anything starts or is removed.

DVC's own code applies the settings, so that the validated parameters are those that would run.

Invariants (``tests/recipes/test_settings.py``): every mistake in a setting gives a sentence that names the setting; an
allowed setting gives the same parameters as DVC; a setting that a message suggests is allowed, and survives a shell.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim.core.errors import InputError, shown
from bitsperdim.preflight.agreement import validated
from bitsperdim.preflight.last_commit import refuse_itself
from bitsperdim.recipes.recipe import close, quoted, read_yaml

FORMS = "write KEY=VALUE, +KEY=VALUE to add a key, or ~KEY to remove one"


def applied(content: Mapping[str, Any], settings: Sequence[str], root: Path = Path()) -> dict[str, Any]:
    """Return the validated content of ``params.yaml`` after settings in the form of ``dvc exp run -S``.

    Args:
        content: content of ``params.yaml``.
        settings: the text after each ``-S``.
        root: folder of the repository, whose last commit may have another value than the content.

    Raises:
        InputError: a text is not a setting, means several values or changes another file, or a parameter is not
            allowed; if another way to write a setting is allowed, the message ends with it.
    """
    try:
        return _applied(content, settings)
    except InputError as error:
        refuse_itself(content, error, root)
        for setting in settings:
            if _is_allowed(content, [setting]):
                continue
            for other in _other_ways(setting):
                replaced = [other if each == setting else each for each in settings]
                if _is_allowed(content, [other]) or _is_allowed(content, replaced):
                    reason = getattr(error, "reason", str(error).removesuffix("."))
                    raise InputError(f"{reason}; type `-S {shlex.quote(other)}`.") from error
        raise


class _RefusedError(InputError):
    """A setting is refused for a reason; the advice is used if no other way to write the setting is allowed."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}{advice}.")
        self.reason = reason


def _applied(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    from dvc.utils.cli_parse import to_path_overrides  # imported here: DVC may be missing

    for setting in settings:
        _check_form(setting)
    of_files = to_path_overrides(settings)
    if other := set(of_files) - {"params.yaml"}:
        raise InputError(f"-S can only change params.yaml, not {shown(min(other))}.")
    result = _changed_by_dvc(content, of_files.get("params.yaml", []))
    try:
        validated(result)
    except InputError as error:
        raise InputError(f"{_named(settings)}: {error}" if settings else str(error)) from error
    return result


def _is_allowed(content: Mapping[str, Any], settings: Sequence[str]) -> bool:
    try:
        _applied(content, settings)
    except InputError:
        return False
    return True


def _other_ways(setting: str) -> Iterator[str]:
    """Yield possible meanings of a refused setting: with null, a list, a key that is added, or quoted text."""
    key, _, value = setting.partition("=")
    if value == "~" or value.startswith("~/"):  # a shell does not expand ~ after a `=`
        value = value.replace("~", str(Path.home()), 1)
    values = ["null"] if value.lower() == "none" else [value]
    if not value.startswith("["):
        values.append(f"[{value}]")
    if value.lower() not in ("", "null", "none", "true", "false"):
        values += [quoted(text, '"') for text in values if not text.startswith("[")]
    prefixes = [""] if key.startswith("+") else ["", "++"]
    yield from (f"{prefix}{key}={text}" for prefix in prefixes for text in values)


def _check_form(setting: str) -> None:
    """Refuse text that is not a setting, or means several values.

    Raises:
        InputError: the text is refused.
    """
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import HydraException

    ((_, own),) = to_path_overrides([setting]).items()
    try:
        (override,) = to_hydra_overrides(own)
    except (HydraException, RecursionError) as error:
        is_cut = setting.count("[") > setting.count("]")
        advice = "a value with spaces needs quotes: -S 'KEY=[FIRST, SECOND]'" if is_cut else FORMS
        raise _RefusedError(f"{_named([setting])} is not a setting", f"; {advice}") from error
    if override.is_sweep_override():
        reason = f"{_named([setting])} means several values"
        raise _RefusedError(reason, "; run a separate command for each value")


def _changed_by_dvc(content: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(content, file)
        try:
            apply_overrides(path, overrides)
        except Exception as error:  # DVC, Hydra, OmegaConf and YAML raise different exceptions
            reason, advice = _reason(error, content)
            raise _RefusedError(f"{_named(overrides)} cannot be applied: {reason}", advice) from error
        return read_yaml(path)


def _reason(error: Exception, content: Mapping[str, Any]) -> tuple[str, str]:
    """Return in one line why a setting cannot be applied, and advice; for an unknown key it names similar keys."""
    lines = str(error.__cause__ or error).splitlines() or [type(error).__name__]
    missing = re.match(r"Could not override '(.*)'", lines[0])
    keys = _keys(content)
    if missing and (key := missing[1]) not in keys:
        return f"there is no parameter {shown(key)}", f"{close(key, keys)}; write + before the key to add it"
    return lines[0].rstrip("."), ""


def _keys(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys of all parameters, joined by dots."""
    found = []
    for key, value in content.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += _keys(value, f"{prefix}{key}.")
    return found


def _named(settings: Sequence[str]) -> str:
    """Return settings as the user wrote them; long ones and unusual characters are in quotes."""
    is_plain = re.compile(r"[\w.,=~+-]{1,60}", re.ASCII).fullmatch
    return " ".join(f"-S {setting if is_plain(setting) else shown(setting)}" for setting in settings)
