"""Messages for mistakes in ``params.yaml``: one sentence with the key, its value and what is allowed.

Invariants (``tests/config/test_params.py``): every kind of mistake gives one sentence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from bitsperdim.config.families.base import Section
from bitsperdim.core.errors import InputError, shown

MAX_LISTED = 14  # largest number of names in a message


def sentence(error: ValidationError, schema: type[Section], prefix: str = "") -> str:
    """Turn the first of pydantic's errors into one sentence.

    Args:
        error: error of the validation.
        schema: schema of the validated section.
        prefix: keys that lead to the validated section, joined by dots.
    """
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    path = ".".join(key_shown(key) for key in ([*prefix.split("."), *keys] if prefix else keys))
    value = shown(first["input"])
    context = first.get("ctx", {})
    kind = first["type"]
    if kind == "missing":
        return f"params.yaml: {path} is missing{_of_what(schema, keys)}{'' if prefix else _for_dvc(schema, keys)}."
    if kind == "extra_forbidden":
        known = list(_fields(schema, keys[:-1]))
        return (
            f"params.yaml: {path} is not a known key{suggestion(keys[-1], known)} (its value is {value}); "
            f"allowed are {listed(known)}."
        )
    if isinstance(context.get("error"), InputError):  # its message is already a sentence
        return str(context["error"])
    allowed = _allowed(kind, context, first["msg"])
    if kind == "list_type":
        entry = first["input"]
        is_word = isinstance(entry, str) and entry.lower() != "none" and bool(re.fullmatch(r"[\w.-]{1,40}", entry))
        is_plain = is_word or (type(entry) is int and abs(entry) < 10**9)
        allowed += f": write [{entry}]" if is_plain else ", written [FIRST, SECOND]"
    if keys and type(None) in get_args(getattr(_fields(schema, keys[:-1]).get(keys[-1]), "annotation", None)):
        allowed += ", or null"
    return f"params.yaml: {path} = {value} is not allowed; it must be {allowed}."


def _allowed(kind: str, context: Mapping[str, Any], message: str) -> str:
    bounds = {
        "greater_than": ("gt", "above"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "below"),
        "less_than_equal": ("le", "at most"),
    }
    if kind in bounds:
        key, words = bounds[kind]
        return f"{words} {context[key]}"
    if kind == "multiple_of":
        return f"a multiple of {context['multiple_of']}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        return f"a list of {'at least' if kind == 'too_short' else 'at most'} {bound} entries"
    types = {
        "int_type": "an integer",
        "int_from_float": "an integer",
        "float_type": "a number",
        "string_type": "text",
        "string_unicode": "text without lone surrogates",
        "list_type": "a list",
        "bool_type": "true or false",
        "model_type": "a mapping of keys to values",
        "model_attributes_type": "a mapping of keys to values",
        "dict_type": "a mapping of keys to values",
        "finite_number": "a finite number",
    }
    return types.get(kind, message[:1].lower() + message[1:])


def _fields(schema: type[Section], keys: list[str]) -> Mapping[str, Any]:
    """Return the fields of the (nested) section that ``keys`` leads to."""
    for key in keys:
        if key.isdigit():  # the index of a list entry; the schema of the list's entries is already known
            continue
        annotation = schema.model_fields[key].annotation if key in schema.model_fields else None
        inner = [annotation, *get_args(annotation)]  # a section, a list of sections, or a section that may be null
        sections = [each for each in inner if isinstance(each, type) and issubclass(each, Section)]
        if not sections:
            return {}
        schema = sections[0]
    fields = dict(schema.model_fields)
    fields.pop("sections", None)
    return fields


def _of_what(schema: type[Section], keys: list[str]) -> str:
    known = _fields(schema, keys[:-1])
    field = known.get(keys[-1])
    annotation = getattr(field, "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"; it is a section with the keys {listed(annotation.model_fields)}"
    return f"; the keys there are {listed(known)}" if known else ""


def _for_dvc(schema: type[Section], keys: list[str]) -> str:
    """Return the end of the message for a required top-level key of ``params.yaml``, which DVC needs.

    A section whose own keys all have defaults may be written as ``{}``.
    """
    annotation = getattr(_fields(schema, keys[:-1]).get(keys[-1]), "annotation", None)
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    required = [name for name, field in _fields(schema, keys).items() if field.is_required()]
    return "; DVC needs this key" + (f", and `{keys[-1]}: {{}}` is enough" if is_section and not required else "")


def key_shown(name: str) -> str:
    """Return a key as a message shows it: in quotes if it has unusual characters."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) else shown(name)


def suggestion(word: str, known: list[str]) -> str:
    """Return a question after the known word that is most similar; an empty string if no word is similar."""
    word = word[:64]
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Return names as part of a sentence, at most :data:`MAX_LISTED` of them."""
    every = list(names)
    return ", ".join(every[:MAX_LISTED]) + (f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else "")
