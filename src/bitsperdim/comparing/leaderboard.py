"""Ranking of all results of commits, experiments and the workspace, separately for each protocol and its test images.

The board has a row for each model whose metrics a commit wrote or an experiment changed, for each model in the
workspace, and on request for the results of recipes. Equal numbers of one model, to the last stored digit, share one
row. The row is named after a recipe, otherwise after the newest commit, the newest experiment or the workspace
(:func:`merged`). Densities come last, without a rank.

:mod:`.ranking` decides which results are clearly apart, and what follows for the models. Do not choose a model by its
rank: the best of many models on a test set is partly the luckiest one. The text below each table says by how much.

Invariants (``tests/comparing/test_leaderboard.py``): ranks and ties agree with those by hand, also at the edge of the
interval (``test_ties.py``); a bound is never called worse; a result that is left out is named; no commit is credited
with a file that an earlier commit may have written.
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
from bitsperdim.comparing.source import WORKSPACE, Source, find, of_recipe
from bitsperdim.config.params import RESERVED
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import UNSHALLOW, NotARepositoryError, Repository, repository
from bitsperdim.core.labels import LEGEND as OF_SIGNS
from bitsperdim.core.labels import OUT_OF_RANGE, SEEN, TOO_FEW
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.core.stored import HASH_DIGITS
from bitsperdim.recipes.recipe import RESULTS
from bitsperdim.results.formatting import markdown as cell
from bitsperdim.results.formatting import two_digits, with_error

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "protocol",
    "test_sha256",
    "rank",
    "tied",
    "verdict",
    "model",
    "bpd",
    "bpd_standard_error",
    "kind",
    "n_samples",
    "n_seeds",
    "too_few_samples",
    "out_of_range",
    "seen_images",
    "n_impossible_images",
    "above_best_bpd",
    "above_best_standard_error",
    "error_is",
    "where",
    "commit",
    "date",
    "subject",
    "also",
)
SHOWN = (  # two results share one row if all of these are equal
    "kind",
    "protocol",
    "test_sha256",
    "n_images",
    "n_distinct_images",
    "n_training_images",
    "n_seeds",
    "n_samples",
    "bpd",
    "bpd_standard_error",
    "bpd_monte_carlo_error",
    "bpd_without_training_images",
    "bpd_by_seed",
    "nll_nats",
    "is_flagged",
    "n_impossible_images",
    "bpd_without_near_training_images",
)
HEADER = ("rank", "model", "bits/dim", "above the best", "error", "verdict", "where", "date", "subject")
LEGEND = (
    f"Smaller is better; {OF_SIGNS}, and its model may be better; {TOO_FEW} too few samples; {OUT_OF_RANGE} worse than "
    f"uniform coding, or below 0; {SEEN} test images that are also training images, or nearly. "
    "A rank with ~ is tied with the best: the two are not clearly apart when all pairs are tested together. "
    "The verdict is on models: a number clearly above the best is worse if it is exact; two exact numbers that are not "
    "clearly apart are tied; otherwise the verdict is open, because a bound may be loose. With one seed the verdict is "
    "about these weights, with several seeds about the method that was trained. "
    "The error of the difference is paired, image by image. It is unpaired, and usually too large, if DVC's cache "
    "lacks the log-likelihoods of the images. It is not needed if the difference is clear beyond any possible error. "
    "It includes the spread over training seeds of results with several seeds; for one seed this spread is unknown. "
    "These are test results: choose models by their validation results."
)


@dataclass(frozen=True)
class Board:
    """The ranked entries, sentences about results that were left out, and a summary for each protocol and test set."""

    entries: list[Entry]
    left_out: list[str]
    together: dict[tuple[str, str], Together] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """Return all entries as one table."""
        import pandas as pd

        return pd.DataFrame([_record(entry) for entry in self.entries], columns=list(COLUMNS))


def leaderboard(root: Path, cache: Cache, *, with_recipes: bool = False) -> Board:
    """Gather and rank all results.

    Args:
        root: folder of the repository.
        cache: DVC's cache.
        with_recipes: whether to include the results of recipes.

    Raises:
        InputError: there are no results, or no commits.
        GitError: git fails.
    """
    rows: dict[tuple[str, str], list[history.Change]] = {}
    entries, left_out = [], []
    here = None
    try:
        here = repository(root)
    except NotARepositoryError as error:
        left_out.append(str(error))
    if here is not None and here.is_shallow:
        left_out.append(f"this is a shallow clone, whose history is cut off: {UNSHALLOW}.")
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
            "There are no results yet: neither a commit nor an experiment nor the workspace has a file "
            "results/<model>/metrics.json."
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
    """Merge the entries with the same numbers of the same model into one, under the most informative name.

    Args:
        entries: the entries; those of commits are ordered from old to new.
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
    """Return a text that is equal for equal results, even if one of them lacks newer keys that are not shown."""
    return repr([getattr(numbers, name) for name in SHOWN])


def _kind(entry: Entry) -> int:
    """Return how informative the name of an entry is; 0 for the workspace."""
    return (WORKSPACE, "experiment", "commit", "recipe").index(entry.change.where.split()[0])


def _changes(here: Repository | None, source: Source, where: str) -> list[history.Change]:
    """Return the results of the workspace or a recipe in the same form as those that a commit wrote."""
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
    """Return the summary of all results of one protocol and its test images."""
    if together.why_unclear:
        return f"No difference is called clear: {together.why_unclear}."
    n_pairs = together.n * (together.n - 1) // 2
    apart = -float(ndtri(together.level / 2))
    pairs = "1 pair" if n_pairs == 1 else f"{n_pairs} pairs"
    text = (
        f"{together.n} results, {pairs}: two results are clearly apart from {apart:.2f} standard errors on. With this "
        f"limit, at most 5 % of boards of equally good models call any of them worse."
    )
    if together.gain is not None:
        text += (
            f" {together.n_contenders} results, including the best, are not clearly apart from the best: among as many "
            f"equally good models, the best would be expected to look {two_digits(together.gain)} bits/dim better than "
            f"it is."
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
