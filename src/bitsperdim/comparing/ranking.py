"""The results of one protocol and its test images in order, and which of them are clearly apart.

**Ties.** A row is tied with the best of its protocol unless the two are clearly apart when all pairs are looked at
(:mod:`bitsperdim.estimators.multiple`): of boards on which all are equally good at most 5 % call anything clear. The
error is that of paired differences where both have their log-likelihoods in DVC's cache, else the root of the summed
squares of the two test-set errors, which is too large as a rule, and the row says ``unpaired``. Several seeds of a side
add their noise (:mod:`bitsperdim.estimators.noise`). Where both have one and the difference exceeds what any number of
pairs on the board would need of the
*sum* of the two errors, no data are read: a paired error cannot be larger than that (``not needed``).

**Verdicts.** A rank and a tie are of numbers, a verdict is of models, by the rule of ``compare`` (:mod:`.comparison`):
a number that is clearly above makes a ``worse`` model if it is exact, whatever the best is. Two exact numbers that are
not clearly apart are ``tied``. All else is ``open``: a bound may be loose.

Invariants (``tests/comparing/test_ties.py``): ties at the edges of all these, by hand.
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
    """A result and where it came from; what is filled in when it is ranked.

    Attributes:
        also: where the same numbers are.
        scored: of a result that is no commit's or experiment's.
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
    """What is said of all results of one protocol and its test images.

    Attributes:
        n: how many numbers were held against each other.
        level: at which each pair was, so that all together are wrong in 5 % of cases.
        n_contenders: how many are not clearly apart from the best, it included.
        gain: by how much the best of so many would be expected to look better than it is if they were equally good,
            bits/dim; None: there is one contender, or the images of one are not known.
        why_unclear: why nothing is called clear; None where something may be.
    """

    n: int
    level: float
    n_contenders: int
    gain: float | None
    why_unclear: str | None


class Reader:
    """What is known of single images, from DVC's cache, each read once."""

    def __init__(self, here: Repository | None, cache: Cache) -> None:
        """Read through a cache for a repository, if there is one."""
        self.here, self.cache = here, cache
        self.locks: dict[str, str] = {}
        self.known: dict[tuple[str, str, str], Images | None] = {}
        self.damaged: list[str] = []

    def images(self, entry: Entry) -> Images | None:
        """Return what is known of every test image, or None where the cache has nothing."""
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
    """Rank the results of one protocol; equal numbers have the same rank; densities come last, without one."""
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
    """Hold finite numbers, the best first, against each other, and fill in what comes of it."""
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
        if entry.above <= 0:  # what the images say counts
            entry.tied = True
    contenders = [index for index in range(len(entries)) if not clear[0, index]]
    are_known = len(contenders) > 1 and all(images[index] is not None for index in contenders)
    gain = pairs.gain_of_choosing(contenders) if are_known else None
    return Together(len(entries), level, len(contenders), gain, why_unclear(level, n_distinct, None))


def _is_far(entry: Entry, best: Entry, n: int) -> bool:
    """Return whether a number is further above the best of n than any paired error of any pair allows."""
    numbers, others = entry.numbers, best.numbers
    if not numbers.n_seeds == others.n_seeds == 1:
        return False
    n_distinct = min(item.n_distinct_images or item.n_images for item in (numbers, others))
    most = (numbers.bpd_standard_error + others.bpd_standard_error) ** 2
    each = LEVEL / (n * (n - 1) / 2)  # Bonferroni: no step asks for more
    is_beyond = numbers.bpd - others.bpd > float(reach(each, most, n_distinct, 0.0, 0.0, math.inf))
    return is_beyond and why_unclear(LEVEL, n_distinct, None) is None


def _side(numbers: AnyMetrics, images: Images | None, same_as: np.ndarray | None) -> Side:
    """Return a number as one of several, in bits/dim."""
    shape = numbers.image_shape
    if images is None:
        means = np.array(numbers.bpd_of_seeds)
        return Side(numbers.bpd, numbers.bpd_standard_error, None, seeds_of_means(means))
    bpd = bits_per_dim(images.log_p, shape)
    mean = bpd.mean(0)
    return Side(float(mean.mean()), numbers.bpd_standard_error, influences(mean, same_as), seeds_of_table(bpd))
