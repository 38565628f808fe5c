"""Every result of commits, experiments and the workspace, ranked within a protocol and its test images.

A commit is there for each model whose metrics it wrote, an experiment for each whose metrics it changed, and the
workspace for all; recipes come in where they are asked for. Equal numbers of one model, to the last digit that is kept,
are one row: under a recipe, else the newest commit, else the newest experiment, else the workspace (:func:`merged`).
Densities stand below, without a rank.

Which are clearly apart, and what follows of it for the models: :mod:`.ranking`. A rank is not a way to choose a model:
the best of many on a test set is in part the luckiest, and below each table stands by how much.

Invariants (``tests/comparing/test_leaderboard.py``): ranks and ties against those by hand, at the edge of the interval
too (``test_ties.py``); a bound is never called worse; nothing is left out without being named; no commit is credited
with what an earlier one may have written.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.special import ndtri

from bitsperdim.comparing import history
from bitsperdim.comparing.cache import Cache
from bitsperdim.comparing.output import WIDTH, aligned, markdown_table, number, printable
from bitsperdim.comparing.ranking import Entry, Reader, Together, rank
from bitsperdim.comparing.source import RESULTS, WORKSPACE, Source, find, of_recipe
from bitsperdim.config.params import RESERVED
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import UNSHALLOW, NotARepositoryError, Repository, repository
from bitsperdim.core.labels import LEGEND as OF_SIGNS
from bitsperdim.core.labels import OUT_OF_RANGE, SEEN, TOO_FEW
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.core.stored import HASH_DIGITS
from bitsperdim.results.formatting import markdown as cell
from bitsperdim.results.formatting import two_digits, with_error

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("protocol", "test_sha256", "rank", "tied", "verdict", "model", "bpd", "bpd_standard_error", "kind", "n_samples"),
    *("n_seeds", "too_few_samples", "out_of_range", "seen_images", "n_impossible_images"),
    *("above_best_bpd", "above_best_standard_error", "error_is"),
    *("where", "commit", "date", "subject", "also"),
)
SHOWN = (  # of two results that are one row all of these are equal
    *("kind", "protocol", "test_sha256", "n_images", "n_distinct_images", "n_training_images", "n_seeds", "n_samples"),
    *("bpd", "bpd_standard_error", "bpd_monte_carlo_error", "bpd_without_training_images", "bpd_by_seed", "nll_nats"),
    *("is_flagged", "n_impossible_images", "bpd_without_near_training_images"),
)
HEADER = ("rank", "model", "bits/dim", "above the best", "error", "verdict", "where", "date", "subject")
LEGEND = (
    f"Smaller is better; {OF_SIGNS}, which its model may be better than; {TOO_FEW} too few samples; {OUT_OF_RANGE} "
    f"worse than uniform coding, or below 0; {SEEN} test images are training images too, or nearly. "
    "A rank with ~ is tied with "
    "the best: the two are not clearly apart, where the differences of all pairs are looked at together. The verdict "
    "is on models: a number that is clearly above is worse if it is exact, and two exact ones that are not clearly "
    "apart are tied; else it is open, for a bound may be loose. With one seed it is about these weights, with several "
    "about the method that was trained. The error of the difference is paired, image by image; unpaired where DVC's "
    "cache lacks the log-likelihoods of the images, then as a rule too large; not needed where the difference is "
    "beyond any. It holds the spread over training seeds of results with several, and of one seed nobody knows it. "
    "These are test results: choose models by their validation."
)


@dataclass(frozen=True)
class Board:
    """The ranked entries, sentences on what was left out, and what is said of each protocol and its test images."""

    entries: list[Entry]
    left_out: list[str]
    together: dict[tuple[str, str], Together] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """Return all as one table."""
        import pandas as pd

        return pd.DataFrame([_record(entry) for entry in self.entries], columns=list(COLUMNS))


def leaderboard(root: Path, cache: Cache, *, with_recipes: bool = False) -> Board:
    """Gather and rank all results.

    Args:
        root: of the repository.
        cache: of DVC.
        with_recipes: whether the results of recipes are among them.

    Raises:
        InputError: there are no results, or no commits.
        GitError: git cannot tell.
    """
    rows: dict[tuple[str, str], list[history.Change]] = {}
    entries, left_out = [], []
    here = None
    try:
        here = repository(root)
    except NotARepositoryError as error:
        left_out.append(str(error))
    if here is not None and here.is_shallow:
        left_out.append(f"this is a shallow clone, in which history is cut: {UNSHALLOW}.")
    for change in history.changes(here) if here else ():
        if change.model not in RESERVED:
            rows.setdefault((change.model, change.blob), []).append(change)
    contents = here.read([blob for _, blob in rows]) if here else {}
    for (model, blob), found in rows.items():
        place = f"results/{model}/metrics.json of {found[0].where}"
        try:
            numbers = AnyMetrics.read(contents[blob] or b"", place)
            _ = numbers.image_shape
        except InputError as error:
            left_out.append(str(error))
            continue
        entries += [Entry(change, numbers, []) for change in found]
    sources = [find(root, WORKSPACE, cache)]
    for path in sorted((root / RESULTS).glob("*.json")) if with_recipes else []:
        try:
            sources.append(of_recipe(root, path.stem))
        except InputError as error:
            left_out.append(str(error))
    for source in sources:
        where = "workspace" if source.kind == "workspace" else f"recipe {source.name}"
        for change in _changes(here, source, where):
            if (change.model, change.blob) in rows:
                continue
            try:
                scored = source.read(change.model)
                _ = scored.numbers.image_shape
            except InputError as error:
                left_out.append(str(error))
                continue
            entries.append(Entry(change, scored.numbers, [], scored))
    if not entries:
        raise InputError(
            "There are no results yet: no commit, no experiment and not the workspace has results/<model>/metrics.json."
        )
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in merged(entries):
        groups.setdefault((entry.numbers.protocol, entry.numbers.test_sha256), []).append(entry)
    reader = Reader(here, cache)
    ranked: list[Entry] = []
    together = {}
    for key, group in sorted(groups.items()):
        in_order, said = rank(group, reader)
        ranked += in_order
        if said is not None:
            together[key] = said
    return Board(ranked, left_out + reader.damaged, together)


def merged(entries: list[Entry]) -> list[Entry]:
    """Return one entry for all that have the same numbers of the same model, under the most telling name.

    Args:
        entries: of commits the oldest first.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.change.model, _what_is_shown(entry.numbers)), []).append(entry)
    found = []
    for group in groups.values():
        first = max(reversed(group), key=lambda entry: (_kind(entry), entry.change.seconds or 0))
        also = dict.fromkeys(entry.change.where for entry in group if _kind(entry))
        found.append(replace(first, also=[where for where in also if where != first.change.where]))
    return found


def _what_is_shown(numbers: AnyMetrics) -> str:
    """Return a text that is equal for equal results, also where one lacks a later key of which nothing is shown."""
    return repr([getattr(numbers, name) for name in SHOWN])


def _kind(entry: Entry) -> int:
    """Return how telling its name is; 0 for the workspace."""
    return (WORKSPACE, "experiment", "commit", "recipe").index(entry.change.where.split()[0])


def _changes(here: Repository | None, source: Source, where: str) -> list[history.Change]:
    """Return the results of the workspace or a recipe as if they had been written by a commit."""
    paths = [f"results/{model}/metrics.json" for model in source.models] if source.kind == "workspace" else []
    blobs = history.objects_of(here, paths) if here else {}
    origin = source.provenance
    subject = "" if origin is None or origin.is_a_commit else origin.words
    return [
        history.Change(model, blobs.get(f"results/{model}/metrics.json", ""), source.commit or "", where, None, subject)
        for model in source.models
    ]


def _record(entry: Entry) -> dict[str, Any]:
    change, numbers = entry.change, entry.numbers
    return {
        "protocol": numbers.protocol,
        "test_sha256": numbers.test_sha256,
        "rank": entry.rank,
        "tied": entry.tied,
        "verdict": entry.verdict,
        "model": change.model,
        "bpd": numbers.bpd,
        "bpd_standard_error": numbers.bpd_standard_error,
        "kind": numbers.kind,
        "n_samples": numbers.n_samples,
        "n_seeds": numbers.n_seeds,
        "too_few_samples": numbers.is_flagged,
        "out_of_range": numbers.is_out_of_range,
        "seen_images": numbers.is_of_seen_images,
        "n_impossible_images": numbers.n_impossible_images,
        "above_best_bpd": entry.above,
        "above_best_standard_error": entry.error,
        "error_is": entry.error_is,
        "where": change.where,
        "commit": change.commit if change.writer_is_known else "",
        "date": _date(change),
        "subject": change.subject,
        "also": ", ".join(entry.also),
    }


def _date(change: history.Change) -> str:
    return "" if change.seconds is None else datetime.fromtimestamp(change.seconds, UTC).strftime("%Y-%m-%d")


def _cells(entry: Entry) -> list[str]:
    above = ""
    if entry.above is not None:
        value, error = with_error(
            entry.above, entry.error if entry.error is not None else entry.numbers.bpd_standard_error
        )
        above = value + (f" ± {error}" if entry.error is not None else "")
    where = entry.change.where + (f" and {len(entry.also)} more" if entry.also else "")
    rank_text = "" if entry.rank is None else f"{entry.rank}{' ~' if entry.tied else ''}"
    subject = entry.change.subject
    subject = subject if len(subject) <= 40 else f"{subject[:39]}…"
    return [
        rank_text,
        entry.change.model,
        number(entry.numbers),
        above,
        entry.error_is,
        entry.verdict,
        where,
        _date(entry.change),
        subject,
    ]


def in_words(together: Together) -> str:
    """Return what is said of all results of one protocol and its test images."""
    if together.why_unclear:
        return f"Nothing is called clear: {together.why_unclear}."
    n_pairs = together.n * (together.n - 1) // 2
    apart, pairs = -float(ndtri(together.level / 2)), "1 pair" if n_pairs == 1 else f"{n_pairs} pairs"
    text = (
        f"{together.n} results, {pairs}: clearly apart from {apart:.2f} standard errors on, so that at most 5 % of "
        f"boards of equally good models call any of them worse."
    )
    if together.gain is not None:
        text += (
            f" {together.n_contenders} are not clearly apart from the best, it included: the best of as many equally "
            f"good models would be expected to look {two_digits(together.gain)} bits/dim better than it is."
        )
    return text


def _groups(board: Board) -> list[tuple[str, list[list[str]], str]]:
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for entry in board.entries:
        groups.setdefault((entry.numbers.protocol, entry.numbers.test_sha256), []).append(_cells(entry))
    said = {key: in_words(together) for key, together in board.together.items()}
    return [(f"{key[0]}, test images {key[1][:HASH_DIGITS]}", rows, said.get(key, "")) for key, rows in groups.items()]


def as_text(board: Board) -> str:
    """Return a leaderboard for a terminal: one table for each protocol."""
    lines = []
    for title, rows, said in _groups(board):
        lines += [title, *aligned([list(HEADER), *rows]), *textwrap.wrap(said, WIDTH), ""]
    lines += [f"Left out: {sentence}" for sentence in board.left_out]
    return printable("\n".join([*lines, *textwrap.wrap(LEGEND, WIDTH)]))


def as_markdown(board: Board) -> str:
    """Return a leaderboard as Markdown."""
    lines: list[str] = []
    for title, rows, said in _groups(board):
        lines += [f"**{cell(title)}**", "", *markdown_table(HEADER, rows), "", *([cell(said), ""] if said else [])]
    lines += [f"- Left out: {cell(sentence)}" for sentence in board.left_out]
    return printable("\n".join([*lines, *([""] if board.left_out else []), cell(LEGEND)]))
