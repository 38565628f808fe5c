"""A comparison and a leaderboard as text, Markdown and JSON.

Names come from git and may contain any characters: Markdown is escaped, and text for a terminal has no control
characters.

Invariants (``tests/comparing/test_output.py``): hostile names cannot change the layout (``test_hostile_names``); the
JSON always has the same keys (``test_the_json_always_has_the_same_keys``).
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitsperdim.comparing.comparison import Comparison, Difference, Row
from bitsperdim.comparing.numbers import Scored
from bitsperdim.core import labels
from bitsperdim.core.files import rounded
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.estimators.noise import LEVEL
from bitsperdim.results.formatting import error_alone, plain, two_digits, with_error
from bitsperdim.results.formatting import markdown as cell

if TYPE_CHECKING:
    from bitsperdim.comparing.source import Source

SCHEMA = 2
WIDTH = 110  # width of a line of text
COLUMNS = ("model", "A, bits/dim", "B, bits/dim", "B - A, bits/dim", "z", "clear from", "B is")
WORDS = {
    "better": "better",
    "worse": "worse",
    "cannot tell": "cannot tell",
    "same": "the same",
    "refused": "not compared",
}
LEGEND = (
    "B - A is negative if B is better; ± is one standard error of the paired differences over the same test images. "
    "It includes the Monte Carlo noise, but not the spread over training seeds, so that a verdict is about these "
    f"weights. {labels.LEGEND}."
)
LEGEND_OF_SEEDS = (
    "B - A is negative if B is better; ± is one standard error. It includes the paired differences over the same test "
    "images, with the Monte Carlo noise, and the spread over the training seeds of a side with several seeds, so that "
    f"a verdict is about the method that was trained. {labels.LEGEND}."
)
TOGETHER = (
    ' A difference is clear from the |z| in the column "clear from": if none of the {n} differences were real, any of '
    "them would be called clear in 5 % of such comparisons."
)
UNPAIRED = (
    " Unpaired: the log-likelihoods of single images are missing for a side, so that ± is the root of the summed "
    "squares of both numbers' errors. Usually both models find the same images hard; then ± is too large and the "
    "verdict too cautious. Otherwise ± is too small, which cannot be detected here."
)
ALONE = "Only {side} has {models}."


def number(numbers: AnyMetrics) -> str:
    """Return a number as text, with its sign, its test-set error and its marks."""
    value, error = with_error(numbers.bpd, numbers.bpd_standard_error)
    return f"{numbers.sign} {value}" + (f" ± {error}" if error else "") + numbers.marks


def cells(row: Row) -> list[str]:
    """Return the cells of a row of the table."""
    difference = "" if row.bpd is None else "0" if row.verdict == "same" else plain(row.bpd)
    if row.bpd is not None and row.standard_error:
        value, error = with_error(row.bpd, row.standard_error)
        difference = f"{value} ± {error}"
    if row.error_is == "unpaired":
        difference += ", unpaired"
    z = "" if row.z is None else plain(row.z, 2)
    verdict = WORDS[row.verdict]
    if row.verdict in ("better", "worse") and not row.is_established:
        verdict = f"a {verdict} bound"
    limit = "" if row.z is None or row.limit is None else "no |z|" if math.isinf(row.limit) else plain(row.limit, 2)
    return [row.name, number(row.a.numbers), number(row.b.numbers), difference, z, limit, verdict]


def legend(found: Comparison) -> str:
    """Return the explanation of the signs, which depends on the seeds, the number of rows and the kinds of errors."""
    text = LEGEND_OF_SEEDS if any(row.noise and row.noise.has_seeds for row in found.rows) else LEGEND
    n_compared = max(row.n_compared for row in found.rows)
    if n_compared > 1:
        text += TOGETHER.format(n=n_compared)
    return text + (UNPAIRED if any(row.error_is == "unpaired" for row in found.rows) else "")


def noise_in_words(row: Row) -> str | None:
    """Return the sources of the error of a row; None if both sides have one seed, or if there is no error."""
    noise = row.noise
    if noise is None or not noise.has_seeds or row.verdict == "same":
        return None
    sides = [
        f"{side} {'unknown, one seed' if error is None else f'{two_digits(error)}, {scored.numbers.n_seeds} seeds'}"
        for side, error, scored in zip("AB", noise.seeds, (row.a, row.b), strict=True)
    ]
    return (
        f"test images {error_alone(noise.images)} (Monte Carlo {error_alone(row.monte_carlo_error)} of it), training "
        f"seeds {error_alone(noise.of_seeds)} ({'; '.join(sides)}), together {error_alone(noise.combined)}"
    )


def as_text(found: Comparison) -> str:
    """Return a comparison for a terminal."""
    lines = [f"A: {found.a.words}", f"B: {found.b.words}", "", *aligned([list(COLUMNS), *map(cells, found.rows)])]
    for title, entries in _sections(found):
        lines += ["", f"{title}:", *(f"  {who}: {what}" if who else f"  {what}" for who, what in entries)]
    return printable("\n".join([*lines, "", *textwrap.wrap(legend(found), WIDTH)]))


def as_markdown(found: Comparison) -> str:
    """Return a comparison for a pull request."""
    lines = [f"**A**: {cell(found.a.words)}; **B**: {cell(found.b.words)}", ""]
    lines += markdown_table(list(COLUMNS), [cells(row) for row in found.rows])
    for title, entries in _sections(found):
        lines += ["", f"{title}:", ""]
        lines += [f"- {cell(who)}: {cell(what)}" if who else f"- {cell(what)}" for who, what in entries]
    return printable("\n".join([*lines, "", cell(legend(found))]))


def as_json(found: Comparison) -> str:
    """Return a comparison as JSON, always with the same keys; infinity is ``Infinity``, an undefined number null."""
    content = {
        "schema": SCHEMA,
        "a": _source(found.a),
        "b": _source(found.b),
        "level": LEVEL,
        "models": [
            {
                "a": _scored(row.a),
                "b": _scored(row.b),
                "verdict": row.verdict,
                "established": row.is_established,
                "difference_bpd": row.bpd,
                "standard_error_bpd": row.standard_error,
                **_noise(row),
                "z": row.z,
                "error_is": row.error_is,
                "reason": row.reason,
                "notes": row.notes,
                "parameters": [_parameter(item) for item in row.parameters],
            }
            for row in found.rows
        ],
        "only_in_a": found.only_in_a,
        "only_in_b": found.only_in_b,
    }
    return json.dumps(rounded(content), indent=2, sort_keys=True, ensure_ascii=False, default=str)


def _noise(row: Row) -> dict[str, Any]:
    noise = row.noise
    return {
        "monte_carlo_error_bpd": row.monte_carlo_error,
        "standard_error_of_images_bpd": None if noise is None else noise.images,
        "standard_error_of_seeds_bpd": None if noise is None else dict(zip("ab", noise.seeds, strict=True)),
        "limit": row.limit,
        "n_compared": row.n_compared,
    }


def _source(source: Source) -> dict[str, Any]:
    changes = None if source.provenance is None else source.provenance.has_local_changes
    return {"name": source.name, "kind": source.kind, "commit": source.commit, "has_local_changes": changes}


def _scored(scored: Scored) -> dict[str, Any]:
    numbers = scored.numbers
    return {
        "model": scored.model,
        "kind": numbers.kind,
        "protocol": numbers.protocol,
        "test_sha256": numbers.test_sha256,
        "n_images": numbers.n_images,
        "n_distinct_images": numbers.n_distinct_images,
        "n_training_images": numbers.n_training_images,
        "n_near_training_images": numbers.n_near_training_images,
        "n_seeds": numbers.n_seeds,
        "n_samples": numbers.n_samples,
        "bpd": numbers.bpd,
        "bpd_standard_error": numbers.bpd_standard_error,
        "too_few_samples": numbers.is_flagged,
        "out_of_range": numbers.is_out_of_range,
        "seen_images": numbers.is_of_seen_images,
        "n_impossible_images": numbers.n_impossible_images,
    }


def _parameter(item: Difference) -> dict[str, Any]:
    """Return a parameter that differs; a side without the parameter has no key."""
    sides = {side: value for side, value, there in zip("ab", item.values, item.is_set, strict=True) if there}
    return {"key": item.key, **sides}


def _sections(found: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the sections below the table: title -> (models, sentence); equal sentences appear once."""
    reasons = [(row.name, row.reason) for row in found.rows if row.reason is not None]
    noise = [(row.name, words) for row in found.rows if (words := noise_in_words(row)) is not None]
    parameters = [(row.name, difference(item)) for row in found.rows for item in row.parameters]
    notes = [(row.name, note) for row in found.rows for note in row.notes]
    alone = [
        ("", ALONE.format(side=side, models=", ".join(models)))
        for side, models in (("A", found.only_in_a), ("B", found.only_in_b))
        if models
    ]
    everyone = [row.name for row in found.rows]
    sections = [
        ("Not compared", _grouped(reasons, [])),
        ("Noise of B - A, in bits/dim", _grouped(noise, everyone)),
        ("Parameters that differ", _grouped(parameters, everyone)),
        ("Notes", _grouped(notes, everyone) + alone),
    ]
    return [(title, entries) for title, entries in sections if entries]


def _grouped(entries: Sequence[tuple[str, str]], everyone: Sequence[str]) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for who, what in entries:
        groups.setdefault(what, []).append(who)
    return [("" if who == everyone else ", ".join(who), what) for what, who in groups.items()]


def difference(item: Difference) -> str:
    """Return the text for a parameter that differs."""
    before, after = (
        json.dumps(value, ensure_ascii=False, default=str) if there else "not set"
        for value, there in zip(item.values, item.is_set, strict=True)
    )
    return f"{item.key}: {before} -> {after}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns; the first row is a header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, its cells escaped."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return [*lines, *(f"| {' | '.join(cell(text) for text in row)} |" for row in rows)]


def printable(text: str) -> str:
    """Return text with control characters replaced, except for line ends."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
