"""Reading the section of a model with the schema of its family.

Invariant (``tests/config/test_params.py``): every kind of mistake gives one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import FamilySection
from bitsperdim.config.sentences import listed, sentence
from bitsperdim.core.errors import InputError, shown


def family_section(place: str, value: object) -> FamilySection:
    """Read the section of a model.

    Args:
        place: the section's keys in ``params.yaml``, joined by dots.
        value: content of the section.

    Raises:
        InputError: one sentence naming the key, its value and what is allowed.
    """
    if not isinstance(value, Mapping) or "family" not in value:
        raise InputError(
            f"params.yaml: {place} = {shown(value)} is not allowed; it must be the section of a model, with a key "
            f"'family'."
        )
    family = value["family"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"params.yaml: {place}.family = {shown(family)} is not a family; choose {listed(FAMILIES)}.")
    try:
        return FAMILIES[family].model_validate(dict(value))
    except ValidationError as error:
        raise InputError(sentence(error, FAMILIES[family], prefix=place)) from error
