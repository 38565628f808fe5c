"""JSON files of results with a schema: they are checked when they are written and when they are read.

A file that is written has exactly the keys of its schema, with the right types. A file that is read may come from
another version: keys that the schema does not have are ignored.

Invariants (``tests/core/test_metrics.py``): writing refuses a key that is missing, unknown or of the wrong type
(``test_what_is_not_the_definition_is_not_written``); reading ignores unknown keys, and refuses any other mistake in a
file with one sentence (``test_a_file_is_read_or_refused_in_one_sentence``).
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
HASH_DIGITS = 12  # number of digits of a SHA-256 that are shown


class Stored(BaseModel):
    """The schema of a file, or of a part of a file; None stands for a key that is left out.

    The constructor raises pydantic's ``ValidationError`` if a key is missing, unknown or of the wrong type.
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
        """Parse and check the bytes of a file.

        Args:
            content: bytes of the file.
            place: name of the file for messages.

        Raises:
            InputError: the file is damaged, or not of the kind that a stage writes.
        """
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is damaged: it is not JSON.") from error
        return cls.of(parsed, place)

    @classmethod
    def of(cls, content: object, place: str) -> Self:
        """Check parsed JSON; ``place`` and the errors are as in :meth:`read`."""
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
        """Return the content to write: all keys whose value is not None."""
        return self.model_dump(exclude_none=True)

    def write(self, path: Path) -> None:
        """Write the file with sorted keys and floats of nine significant digits.

        Raises:
            ValueError: a number is NaN.
        """
        write_json(path, self.as_record())


class OfImages(Stored):
    """A file with results for test images."""

    protocol: str  # numbers with the same tag may be compared: data set/binarization/HxWxC/L.../test.../given-...
    test_sha256: str  # SHA-256 of the array of the test images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image, read from the protocol tag.

        Raises:
            InputError: the tag has no shape.
        """
        match = re.match(r"[^/]*/[^/]*/(\d+)x(\d+)x(\d+)(?:/|$)", self.protocol)
        if match is None:
            raise InputError(f"The protocol {self.protocol!r} has no image shape (data/binarization/HxWxC/...).")
        height, width, channels = (int(size) for size in match.groups())
        return channels, height, width

    @property
    def short_hash(self) -> str:
        """The first digits of the SHA-256 of the test images."""
        return self.test_sha256[:HASH_DIGITS]
