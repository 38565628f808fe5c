"""A JSON file of results with a schema: written whole, and read as a whole or refused in one sentence.

What is written has the keys of its schema, of their types, and no others. A file that is read may be of another
version: keys that the schema does not know are let be.

Invariants (``tests/core/test_metrics.py``): a key that is missing, unknown or of another type is refused when it is
written (``test_what_is_not_the_definition_is_not_written``); unknown keys of a file are let be, and whatever else is
wrong with it is one sentence (``test_a_file_is_read_or_refused_in_one_sentence``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_json

A_FILE = "a file that is read"
HASH_DIGITS = 12  # that are shown of a SHA-256


class Stored(BaseModel):
    """The schema of a file, or of a part of one; None stands for a key that is left out.

    Building one raises pydantic's ``ValidationError`` where a key is missing, unknown or of another type.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _let_others_be(cls, content: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any JSON value
        if info.context == A_FILE and isinstance(content, Mapping):
            return {key: value for key, value in content.items() if key in cls.model_fields}
        return content

    @classmethod
    def read(cls, content: bytes, place: str) -> Self:
        """Read the bytes of a file.

        Args:
            content: of the file.
            place: what the file is called in a sentence.

        Raises:
            InputError: it is damaged, or not what a stage writes.
        """
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is damaged: it is not JSON.") from error
        return cls.of(parsed, place)

    @classmethod
    def of(cls, content: object, place: str) -> Self:
        """Read what JSON has been parsed to, with the arguments and errors of :meth:`read`."""
        try:
            found = cls.model_validate(content, context=A_FILE)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"{place}: {key} is not what a stage writes there ({first['msg']}).") from error
        for key, value in found:
            if isinstance(value, float) and math.isnan(value):
                raise InputError(f"{place}: {key} is not a number (NaN).")
        return found

    def as_record(self) -> dict[str, Any]:
        """Return what is written: the keys that apply."""
        return self.model_dump(exclude_none=True)

    def write(self, path: Path) -> None:
        """Write the file: keys in order, floats with nine significant digits.

        Raises:
            ValueError: a number is NaN.
        """
        write_json(path, self.as_record())


class OfImages(Stored):
    """A file that is about test images."""

    protocol: str  # the tag under which numbers may be compared: data set/binarization/HxWxC/L.../test.../given-...
    test_sha256: str  # of the array of the test images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the protocol tag has it.

        Raises:
            InputError: it has none.
        """
        match = re.match(r"[^/]*/[^/]*/(\d+)x(\d+)x(\d+)(?:/|$)", self.protocol)
        if match is None:
            raise InputError(f"The protocol {self.protocol!r} names no shape of images (data/binarization/HxWxC/...).")
        height, width, channels = (int(size) for size in match.groups())
        return channels, height, width

    @property
    def short_hash(self) -> str:
        """The first digits of the SHA-256 of the test images."""
        return self.test_sha256[:HASH_DIGITS]
