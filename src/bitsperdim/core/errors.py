"""The one exception that a user is meant to see, and how a value stands in its sentence.

A stage prints an :class:`InputError` as one sentence and exits with status 1; any other exception
is a bug and keeps its traceback.

Invariants:

1. However large or strange a value, what is shown of it is short and found in no time
   (``tests/test_fuzz.py::test_a_value_is_shown_in_a_few_printable_characters``).
2. A sentence is one line of printable characters, whatever name of a file or bytes of it stand there: nothing in it
   moves a terminal's cursor (``tests/test_safety.py::test_a_sentence_is_printable``).
"""

from __future__ import annotations

import reprlib

SHOWN = 60  # characters


class InputError(ValueError):
    """What the user gave cannot be used: one sentence with the key, the value and what is allowed."""

    def __init__(self, sentence: str) -> None:
        """Take the sentence; characters that cannot be printed become their codes."""
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence))


class _Short(reprlib.Repr):
    """Looks at the first entries alone: a few lines of YAML can stand for a list of billions."""

    def repr_int(self, x: int, level: int) -> str:
        """Return the number; of one that Python will not write out, how long it is."""
        return repr(x) if x.bit_length() <= 4 * SHOWN else f"a whole number of {x.bit_length():,} bits"

    def repr_str(self, x: str, level: int) -> str:
        """Return the text in quotes, what cannot be printed as its code."""
        return repr(x[:SHOWN])


_SHORT = _Short()
_SHORT.maxlevel = 3
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = _SHORT.maxother = SHOWN // 2


def shown(value: object) -> str:
    """Return a value as a message shows it: at most :data:`SHOWN` printable characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
