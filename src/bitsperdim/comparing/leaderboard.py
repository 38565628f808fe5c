"""Every result of commits, experiments and the workspace, ranked within a protocol and its test images.

A commit is there for each model whose metrics it wrote, an experiment for each whose metrics it changed, and the
workspace for all; recipes come in where they are asked for. Equal numbers of one model, to the last digit that is kept,
are one row: under a recipe, else the newest commit, else the newest experiment, else the workspace (:func:`merged`).
Densities stand below, without a rank.

**Ties.** A row is tied with the best of its protocol where the 95 % interval of their difference holds zero. The error
is that of paired differences where both have their log-likelihoods in DVC's cache, else the root of the summed squares
of the two test-set errors, which is too large as a rule, and the row says ``unpaired``. Several seeds of a side add
their noise (:mod:`.noise`). Where both have one and the difference exceeds 1.96 times the *sum* of the two errors no
data are needed: a paired error cannot be larger than that (``not needed``).

**Verdicts.** A rank and a tie are of numbers, a verdict is of models, by the rule of ``compare`` (:mod:`.comparison`):
a number beyond the interval makes a ``worse`` model if it is exact, whatever the best is. Two exact numbers within it
are ``tied``. All else is ``open``: a bound may be loose. Nor is a rank a way to choose a model: the best of many on a
test set is in part the luckiest.

Invariants (``tests/comparing/test_leaderboard.py``): ranks and ties against those by hand, at the edge of the interval
too (``test_ties.py``); a bound is never called worse; nothing is left out without being named; no commit is credited
with what an earlier one may have written.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bitsperdim.compare import INTERVAL, paired_difference
from bitsperdim.comparing import history
from bitsperdim.comparing.cache import Cache, md5_of
from bitsperdim.comparing.comparison import is_established, unpaired
from bitsperdim.comparing.noise import in_bits_per_dim, of_tables
from bitsperdim.comparing.numbers import Numbers, Scored, read_log_p, read_numbers
from bitsperdim.comparing.output import WIDTH, aligned, markdown_table, number, printable
from bitsperdim.comparing.source import RESULTS, WORKSPACE, Source, find, of_recipe
from bitsperdim.errors import InputError
from bitsperdim.git import UNSHALLOW, NotARepositoryError, Repository, repository
from bitsperdim.params import RESERVED
from bitsperdim.report.formatting import markdown as cell
from bitsperdim.report.formatting import with_error
from bitsperdim.units import bits_per_dim

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("protocol", "test_sha256", "rank", "tied", "verdict", "model", "bpd", "bpd_standard_error", "kind", "n_samples"),
    *("n_seeds", "too_few_samples", "out_of_range", "n_impossible_images"),
    *("above_best_bpd", "above_best_standard_error", "error_is"),
    *("where", "commit", "date", "subject", "also"),
)
HEADER = ("rank", "model", "bits/dim", "above the best", "error", "verdict", "where", "date", "subject")
LEGEND = (
    "Smaller is better; = exact, ≤ an upper bound, which its model may be better than; † too few samples; ‡ "
    "worse than uniform coding, or below 0. A rank with "
    "~ is tied with the best: the 95 % interval of the difference of the numbers holds zero. The verdict is on models: "
    "beyond the interval an exact number is worse, within it two exact ones are tied; else it is open, for a bound may "
    "be loose. The error of the difference is paired, image by image; unpaired where DVC's cache lacks the "
    "log-likelihoods of the images, then as a rule too large; not needed where the difference is beyond any. It holds "
    "the spread over training seeds of results with several, and of one seed nobody knows it. These are test results: "
    "choose models by their validation."
)


@dataclass
class Entry:
    """A result and where it came from; what is filled in when it is ranked.

    Attributes:
        also: where the same numbers are.
        scored: of a result that is no commit's or experiment's.
    """

    change: history.Change
    numbers: Numbers
    also: list[str]
    scored: Scored | None = None
    rank: int | None = None
    tied: bool = False
    verdict: Literal["", "tied", "worse", "open"] = ""
    above: float | None = None
    error: float | None = None
    error_is: str = ""


@dataclass(frozen=True)
class Board:
    """The ranked entries, and sentences on what was left out."""

    entries: list[Entry]
    left_out: list[str]

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
            numbers = read_numbers(contents[blob] or b"", place)
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
    reader = _Reader(here, cache)
    ranked = [entry for _, group in sorted(groups.items()) for entry in rank(group, reader)]
    return Board(ranked, left_out + reader.damaged)


def merged(entries: list[Entry]) -> list[Entry]:
    """Return one entry for all that have the same numbers of the same model, under the most telling name.

    Args:
        entries: of commits the oldest first.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.change.model, entry.numbers.as_text), []).append(entry)
    found = []
    for group in groups.values():
        first = max(reversed(group), key=lambda entry: (_kind(entry), entry.change.seconds or 0))
        also = dict.fromkeys(entry.change.where for entry in group if _kind(entry))
        found.append(replace(first, also=[where for where in also if where != first.change.where]))
    return found


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


def rank(group: list[Entry], reader: _Reader) -> list[Entry]:
    """Rank the results of one protocol; equal numbers have the same rank; densities come last, without one."""
    likelihoods = sorted((item for item in group if item.numbers.kind != "density"), key=lambda item: item.numbers.bpd)
    for index, entry in enumerate(likelihoods):
        before = likelihoods[index - 1]
        entry.rank = before.rank if index and before.numbers.bpd == entry.numbers.bpd else index + 1
        if index:
            _hold_against(entry, likelihoods[0], reader)
            entry.verdict = _verdict(entry, likelihoods[0])
    return likelihoods + [item for item in group if item.numbers.kind == "density"]


def _verdict(entry: Entry, best: Entry) -> Literal["tied", "worse", "open"]:
    if entry.tied:
        return "tied" if entry.numbers.kind == best.numbers.kind == "exact" else "open"
    both_are_infinite = math.isinf(best.numbers.bpd)
    return "worse" if is_established("worse", best.numbers, entry.numbers) and not both_are_infinite else "open"


def _hold_against(entry: Entry, best: Entry, reader: _Reader) -> None:
    mine, other = entry.numbers, best.numbers
    if not (math.isfinite(mine.bpd) and math.isfinite(other.bpd)):
        entry.above, entry.error_is = (math.inf, "none") if math.isfinite(other.bpd) else (None, "none")
        return
    errors = mine.bpd_standard_error, other.bpd_standard_error
    entry.above = mine.bpd - other.bpd
    if mine.n_seeds == other.n_seeds == 1 and entry.above > INTERVAL * sum(errors):
        entry.error_is = "not needed"
        return
    log_p = reader.log_p(entry), reader.log_p(best)
    if log_p[0] is None or log_p[1] is None:
        noise, entry.error_is = unpaired(other, mine), "unpaired"
    else:
        noise = in_bits_per_dim(of_tables(log_p[0], log_p[1]), mine.image_shape)
        nats = paired_difference(log_p[0].mean(0), log_p[1].mean(0)).nats
        entry.above, entry.error_is = bits_per_dim(nats, mine.image_shape), "paired"
    entry.error = noise.combined
    entry.tied = entry.above < noise.limit * noise.combined or entry.above == 0


class _Reader:
    """Log-likelihoods from DVC's cache, each read once."""

    def __init__(self, here: Repository | None, cache: Cache) -> None:
        self.here, self.cache = here, cache
        self.locks: dict[str, str] = {}
        self.known: dict[tuple[str, str, str], np.ndarray | None] = {}
        self.damaged: list[str] = []

    def log_p(self, entry: Entry) -> np.ndarray | None:
        """Return log P(x) of every test image, (seeds, N) nats, or None where the cache has none."""
        change = entry.change
        key = change.model, change.blob, change.where
        if key not in self.known:
            try:
                self.known[key] = entry.scored.log_p() if entry.scored else self._read(change, entry.numbers)
            except InputError as error:
                self.damaged.append(f"{change.model}, {change.where}: {error}")
                self.known[key] = None
        return self.known[key]

    def _read(self, change: history.Change, numbers: Numbers) -> np.ndarray | None:
        if self.here is None:
            return None
        if change.commit not in self.locks:
            name = f"{change.commit}:./dvc.lock"
            lock = self.here.read([name])[name] or b""
            self.locks[change.commit] = lock.decode("utf-8", "replace")
        path = f"results/{change.model}/per_image.csv"
        md5 = md5_of(self.locks[change.commit], path)
        content = self.cache.read(md5) if md5 else None
        return None if content is None else read_log_p(content, numbers, path)


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


def _groups(board: Board) -> list[tuple[str, list[list[str]]]]:
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for entry in board.entries:
        groups.setdefault((entry.numbers.protocol, entry.numbers.test_sha256), []).append(_cells(entry))
    return [(f"{protocol}, test images {digest[:12]}", rows) for (protocol, digest), rows in groups.items()]


def as_text(board: Board) -> str:
    """Return a leaderboard for a terminal: one table for each protocol."""
    lines = []
    for title, rows in _groups(board):
        lines += [title, *aligned([list(HEADER), *rows]), ""]
    lines += [f"Left out: {sentence}" for sentence in board.left_out]
    return printable("\n".join([*lines, *textwrap.wrap(LEGEND, WIDTH)]))


def as_markdown(board: Board) -> str:
    """Return a leaderboard as Markdown."""
    lines: list[str] = []
    for title, rows in _groups(board):
        lines += [f"**{cell(title)}**", "", *markdown_table(HEADER, rows), ""]
    lines += [f"- Left out: {cell(sentence)}" for sentence in board.left_out]
    return printable("\n".join([*lines, *([""] if board.left_out else []), str(cell(LEGEND))]))
