"""Formatting of numbers and text in the report and in Markdown: rounded to their error, infinite as ∞, escaped.

Rounding is only for display. The report's table sorts by the unrounded number of ``metrics.json``, and shows it when
the pointer is over a cell (:func:`machine`).

Invariants (``tests/report/test_report.py``): errors have two significant digits, and values as many decimals as their
errors (``test_numbers_are_rounded_to_their_error``); no text breaks out of a Markdown cell
(``test_no_text_breaks_out_of_a_markdown_cell``).
"""

from __future__ import annotations

import base64
import math
import re

from markupsafe import escape

from bitsperdim.core.labels import meanings

MINUS = "\N{MINUS SIGN}"
MAX_DECIMALS = 8  # files hold nine significant digits


def with_error(value: float, error: float) -> tuple[str, str]:
    """Return a value and its error as text: the error with two significant digits, the value with as many decimals.

    An infinite value has no error. An infinite error is ``unknown``, because there was only one image or one sample.
    """
    if not math.isfinite(value):
        return plain(value), ""
    if not math.isfinite(error):
        return plain(value), "unknown"
    if error == 0:
        return plain(value), "0"
    decimals = _decimals(error)
    return _signed(f"{value:z.{decimals}f}"), f"{error:.{decimals}f}"


def error_alone(error: float) -> str:
    """Return an error with two significant digits, or ``unknown`` if it is infinite."""
    return two_digits(error) if math.isfinite(error) else "unknown"


def two_digits(value: float) -> str:
    """Return an error, a bias or a spread with two significant digits; large values have no decimals."""
    if not math.isfinite(value) or value == 0:
        return plain(value)
    if abs(value) < 10.0**-MAX_DECIMALS:
        return _signed(f"{value:.1e}")
    return _signed(f"{value:,.{_decimals(abs(value))}f}")


def four_digits(value: float) -> str:
    """Return a number without an error: with four decimals, or with two significant digits if it is below 0.001."""
    return plain(value, 4) if abs(value) >= 1e-3 or value == 0 else two_digits(value)


def plain(value: float, decimals: int = 3) -> str:
    """Return a number with a fixed number of decimals, ∞ for an infinite one, and 0 for zero."""
    if math.isinf(value):
        return _signed("∞" if value > 0 else "-∞")
    return "0" if value == 0 else _signed(f"{value:z,.{decimals}f}")


def count(value: int) -> str:
    """Return an integer with thousands separators."""
    return _signed(f"{value:,d}")


def machine(value: float) -> str:
    """Return a number as JavaScript reads it, with all of its digits."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def markdown(value: object) -> str:
    """Escape a value for a cell of a Markdown table: HTML, the characters of Markdown, line ends."""
    text = str(escape(re.sub(r"\s+", " ", str(value))))
    for character in "\\`*|":
        text = text.replace(character, "\\" + character)
    return text.replace("](", "]\\(")  # a link


def explained(text: str) -> str:
    """Return Markdown with a paragraph for each mark that occurs in it, which says what the mark means."""
    return "\n".join([text, *(f"{sentence}\n" for sentence in meanings(text))])


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _decimals(error: float) -> int:
    """Return the decimals that show two significant digits of ``error`` > 0."""
    exponent = int(f"{error:.1e}".split("e")[1])  # exponent of the rounded number: 0.0998 is shown as 0.10
    return min(max(0, 1 - exponent), MAX_DECIMALS)


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
