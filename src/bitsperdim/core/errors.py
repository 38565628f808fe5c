"""The exception for mistakes in the user's input, and the short form in which its message shows a value.

A stage prints an :class:`InputError` as one sentence and exits with status 1. Any other exception is a bug and keeps
its traceback.

Invariants:

1. However large or strange a value is, its text in a message is short and computed quickly
   (``tests/test_fuzz.py::test_a_value_is_shown_in_a_few_printable_characters``).
2. A message is one line of printable characters, even if it quotes a strange file name or bytes of a file: no control
   character reaches the terminal (``tests/test_safety.py::test_a_sentence_is_printable``).
"""

from __future__ import annotations

import reprlib

SHOWN = 60  # characters


class InputError(ValueError):
    """The user's input cannot be used; the message names the key or file, the value, and what is allowed."""

    def __init__(self, sentence: str) -> None:
        """Store the message; characters that are not printable are replaced by their escape codes."""
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence))


class _Short(reprlib.Repr):
    """Shows only the first entries of a collection, since a few lines of YAML can stand for billions of entries."""

    def repr_int(self, x: int, level: int) -> str:
        """Return the number, or its length in bits if it is very long: Python refuses to print huge integers."""
        return repr(x) if x.bit_length() <= 4 * SHOWN else f"a whole number of {x.bit_length():,} bits"

    def repr_str(self, x: str, level: int) -> str:
        """Return the text in quotes, with escape codes for characters that are not printable."""
        return repr(x[:SHOWN])


_SHORT = _Short()
_SHORT.maxlevel = 3
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = _SHORT.maxother = SHOWN // 2


def shown(value: object) -> str:
    """Return the text of a value for a message: at most :data:`SHOWN` printable characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
