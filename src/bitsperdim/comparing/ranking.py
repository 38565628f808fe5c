"""Ranking of the results of one protocol and its test images, and a test of which of them are clearly apart.

**Ties.** A row is tied with the best of its protocol unless the two are clearly apart when all pairs are tested
together (:mod:`bitsperdim.estimators.multiple`): if all models are equally good, at most 5 % of boards call any
difference clear. If the log-likelihoods of both results are in DVC's cache, the error is that of the paired
differences. Otherwise it is the root of the summed squares of the two test-set errors, which is usually too large, and
the row says ``unpaired``. Several seeds of a side add their noise (:mod:`bitsperdim.estimators.noise`). A paired error
cannot be larger than the *sum* of the two errors. So if both sides have one seed, and the difference would be clear
even with that sum as its error, no data are read, and the row says ``not needed``.

**Verdicts.** Ranks and ties are about numbers. A verdict is about models, by the rule of ``compare``
(:mod:`.comparison`): a number clearly above the best means a ``worse`` model if it is exact, whatever the kind of the
best number. Two exact numbers that are not clearly apart are ``tied``. In all other cases the verdict is ``open``,
because a bound may be loose.

Invariants (``tests/comparing/test_ties.py``): ties at the limits of all these rules agree with those by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitsperdim.comparing import history
from bitsperdim.comparing.cache import Cache, md5_of
from bitsperdim.comparing.comparison import is_established, unpaired
from bitsperdim.comparing.numbers import Images, Scored, read_images
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import Repository
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.core.units import bits_per_dim
from bitsperdim.estimators.multiple import AllPairs, Side
from bitsperdim.estimators.noise import (
    LEVEL,
    in_bits_per_dim,
    of_tables,
    reach,
    seeds_of_means,
    seeds_of_table,
    why_unclear,
)
from bitsperdim.estimators.paired import influences


@dataclass
class Entry:
    """A result, its source, and the fields that :func:`rank` fills in.

    Attributes:
        change: the metrics file and its source.
        numbers: the metrics.
        also: other sources with the same numbers.
        scored: the result, if it comes from the workspace or a recipe; None: from a commit or an experiment.
        rank: rank within the protocol; None: not ranked, as it is a density.
        tied: whether it is tied with the best.
        verdict: verdict on the model.
        above: difference from the best, bits/dim.
        error: standard error of ``above``, bits/dim.
        error_is: how the error was computed.
    """

    change: history.Change
    numbers: AnyMetrics
    also: list[str]
    scored: Scored | None = None
    rank: int | None = None
    tied: bool = False
    verdict: Literal["", "tied", "worse", "open"] = ""
    above: float | None = None
    error: float | None = None
    error_is: str = ""


@dataclass(frozen=True)
class Together:
    """Joint summary of all results of one protocol and its test images.

    Attributes:
        n: number of results that were compared with each other.
        level: error level of each pair, chosen so that all pairs together are wrong in 5 % of cases.
        n_contenders: number of results that are not clearly apart from the best, including the best.
        gain: how much better than it is the best of the contenders would be expected to look if all were equally good,
            bits/dim; None: there is one contender, or the log-likelihoods of a contender are missing.
        why_unclear: why no difference is called clear; None: differences can be clear.
    """

    n: int
    level: float
    n_contenders: int
    gain: float | None
    why_unclear: str | None


class Reader:
    """Reads the log-likelihoods of single images from DVC's cache, each file once."""

    def __init__(self, here: Repository | None, cache: Cache) -> None:
        """Store the git repository, if there is one, and the cache."""
        self.here, self.cache = here, cache
        self.locks: dict[str, str] = {}
        self.known: dict[tuple[str, str, str], Images | None] = {}
        self.damaged: list[str] = []

    def images(self, entry: Entry) -> Images | None:
        """Return the log-likelihoods of the test images, or None if they are not in the cache."""
        change = entry.change
        key = change.model, change.blob, change.where
        if key not in self.known:
            try:
                self.known[key] = entry.scored.images() if entry.scored else self._read(change, entry.numbers)
            except InputError as error:
                self.damaged.append(f"{change.model}, {change.where}: {error}")
                self.known[key] = None
        return self.known[key]

    def _read(self, change: history.Change, numbers: AnyMetrics) -> Images | None:
        if self.here is None:
            return None
        if change.commit not in self.locks:
            name = f"{change.commit}:./dvc.lock"
            lock = self.here.read([name])[name] or b""
            self.locks[change.commit] = lock.decode("utf-8", "replace")
        path = f"results/{change.model}/per_image.csv"
        md5 = md5_of(self.locks[change.commit], path)
        content = self.cache.read(md5) if md5 else None
        return None if content is None else read_images(content, numbers, path)


def rank(group: list[Entry], reader: Reader) -> tuple[list[Entry], Together | None]:
    """Rank the results of one protocol; equal numbers have the same rank; densities come last, without a rank."""
    likelihoods = sorted((item for item in group if item.numbers.kind != "density"), key=lambda item: item.numbers.bpd)
    finite = [item for item in likelihoods if math.isfinite(item.numbers.bpd)]
    together = _hold_together(finite, reader) if len(finite) > 1 else None
    for index, entry in enumerate(likelihoods):
        before = likelihoods[index - 1]
        entry.rank = before.rank if index and before.numbers.bpd == entry.numbers.bpd else index + 1
        if index:
            if not math.isfinite(entry.numbers.bpd):
                entry.above, entry.error_is = (math.inf if finite else None), "none"
            entry.verdict = _verdict(entry, likelihoods[0])
    return likelihoods + [item for item in group if item.numbers.kind == "density"], together


def _verdict(entry: Entry, best: Entry) -> Literal["tied", "worse", "open"]:
    if entry.tied:
        return "tied" if entry.numbers.kind == best.numbers.kind == "exact" else "open"
    both_are_infinite = math.isinf(best.numbers.bpd)
    return "worse" if is_established("worse", best.numbers, entry.numbers) and not both_are_infinite else "open"


def _hold_together(entries: Sequence[Entry], reader: Reader) -> Together:
    """Compare all finite numbers, the best first, with each other, and fill in the entries."""
    best = entries[0]
    far = [_is_far(entry, best, len(entries)) for entry in entries]
    needed = [not is_far or index == 0 for index, is_far in enumerate(far)]
    images = [reader.images(entry) if wanted else None for entry, wanted in zip(entries, needed, strict=True)]
    same_as = next((item.same_as for item in images if item and item.same_as is not None), None)
    n_distinct = min(
        [entry.numbers.n_distinct_images or entry.numbers.n_images for entry in entries]
        + [item.n_distinct for item in images if item]
    )
    sides = [_side(entry.numbers, item, same_as) for entry, item in zip(entries, images, strict=True)]
    pairs = AllPairs(sides, n_distinct)
    level, clear = pairs.judged()
    for index, entry in enumerate(entries[1:], start=1):
        first, mine = images[0], images[index]
        entry.above = sides[index].mean - sides[0].mean
        entry.tied = not clear[0, index]
        if far[index]:
            entry.above, entry.tied, entry.error_is = entry.numbers.bpd - best.numbers.bpd, False, "not needed"
        elif first is None or mine is None:
            entry.above = entry.numbers.bpd - best.numbers.bpd
            entry.error, entry.error_is = unpaired(best.numbers, entry.numbers).combined, "unpaired"
        else:
            noise = of_tables(first.log_p, mine.log_p, same_as)
            entry.error, entry.error_is = in_bits_per_dim(noise, entry.numbers.image_shape).combined, "paired"
        if entry.above <= 0:  # by the images it is not worse than the best
            entry.tied = True
    contenders = [index for index in range(len(entries)) if not clear[0, index]]
    are_known = len(contenders) > 1 and all(images[index] is not None for index in contenders)
    gain = pairs.gain_of_choosing(contenders) if are_known else None
    return Together(len(entries), level, len(contenders), gain, why_unclear(level, n_distinct, None))


def _is_far(entry: Entry, best: Entry, n: int) -> bool:
    """Return whether a number is so far above the best of n that no paired error could make the two a tie."""
    numbers, others = entry.numbers, best.numbers
    if not numbers.n_seeds == others.n_seeds == 1:
        return False
    n_distinct = min(item.n_distinct_images or item.n_images for item in (numbers, others))
    most = (numbers.bpd_standard_error + others.bpd_standard_error) ** 2
    each = LEVEL / (n * (n - 1) / 2)  # Bonferroni: no step of the procedure needs a smaller level
    is_beyond = numbers.bpd - others.bpd > float(reach(each, most, n_distinct, 0.0, 0.0, math.inf))
    return is_beyond and why_unclear(LEVEL, n_distinct, None) is None


def _side(numbers: AnyMetrics, images: Images | None, same_as: np.ndarray | None) -> Side:
    """Return a result in the form that the joint test of all pairs needs, in bits/dim."""
    shape = numbers.image_shape
    if images is None:
        means = np.array(numbers.bpd_of_seeds)
        return Side(numbers.bpd, numbers.bpd_standard_error, None, seeds_of_means(means))
    bpd = bits_per_dim(images.log_p, shape)
    mean = bpd.mean(0)
    return Side(float(mean.mean()), numbers.bpd_standard_error, influences(mean, same_as), seeds_of_table(bpd))
