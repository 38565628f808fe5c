"""Parameter values with their defaults filled in.

Invariants (``tests/config/test_defaults.py``): leaving a key out gives the same result as writing its default; unknown
keys are not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import Section, TrainOverrides
from bitsperdim.config.params import Params


def in_force(section: Section) -> dict[str, Any]:
    """Return every value of a section, with defaults; of a model's changes to ``train``, return only those written."""
    if isinstance(section, TrainOverrides):
        return section.model_dump(exclude_unset=True)
    return {name: _in_force(getattr(section, name), value) for name, value in section.model_dump().items()}


def _in_force(value: object, dumped: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Return the values of a section or of a mapping of sections; return anything else as it was dumped."""
    if isinstance(value, Section):
        return in_force(value)
    if isinstance(value, Mapping):
        return {key: _in_force(each, dumped[key]) for key, each in value.items()}
    return dumped


def completed(content: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the content of a ``params.yaml``, perhaps from another commit, with defaults for the keys left out.

    The defaults are the present ones, even if they were different in that commit.

    Args:
        content: content of the file; it need not be valid.
        model: name of a model whose section is completed, too.
    """
    result = dict(content)
    for name, field in Params.model_fields.items():
        if name in content and isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            result[name] = _with_defaults(content[name], field.annotation)
    own = content.get(model)
    family = own.get("family") if isinstance(own, Mapping) else None
    if isinstance(family, str) and family in FAMILIES:
        result[model] = _with_defaults(own, FAMILIES[family])
    return result


def _with_defaults(content: Any, schema: type[Section]) -> Any:  # noqa: ANN401 - any YAML value
    if not isinstance(content, Mapping) or issubclass(schema, TrainOverrides):
        return content
    result = dict(content)
    for name, field in schema.model_fields.items():
        if name in content:
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                result[name] = _with_defaults(content[name], field.annotation)
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            result[name] = _in_force(default, default)
    return result
