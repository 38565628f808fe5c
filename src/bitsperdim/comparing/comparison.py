r"""Comparison of two results on the same test images: the difference, its paired error, and the conclusion.

Let d_n = log P_b(x_n) - log P_a(x_n), where each is the mean over seeds. The difference B - A in bits/dim is
-mean(d) / (D ln 2), which is negative if B is better. Its standard error is that of the paired differences
(:mod:`bitsperdim.estimators.paired`); if a side has several seeds, it includes their noise
(:mod:`bitsperdim.estimators.noise`). z is the ratio of the two. A difference is clear if its confidence interval, which
misses in 5 % of cases, leaves out zero. The interval uses t quantiles if images or seeds are few. If several models are
compared, a clear difference between equal models occurs in 5 % of such comparisons, however many models there are
(:mod:`bitsperdim.estimators.multiple`).

**Bounds.** The number of a ``lower`` result is an upper bound of its model's negative log-likelihood: the model's own
number is equal or lower. A clear difference of numbers therefore holds for the models if, and only if, the worse number
is exact (:func:`is_established`):

============  ============  ==========================================================================================
lower number  worse number  conclusion
============  ============  ==========================================================================================
exact         exact         the models differ as the numbers do
bound         exact         the model of the bound is better: its own number is lower still
exact         bound         none: the bound may be loose
bound         bound         none about the models; the verdict is on the bounds, and its text says so
any           an estimate   none: its solver error is not negligible, so that it is no bound (also the other way round)
============  ============  ==========================================================================================

**Without the images.** If the log-likelihoods of single images are missing for a side, the difference is that of the
two numbers, its error is the root of the summed squares of both errors (:func:`unpaired`), and the output calls it
unpaired. If both models find the same images hard, as is usual, this error is too large and the verdict too cautious.
Otherwise the error is too small, which cannot be detected.

If a side has one seed, the error does not include the spread over its training seeds.

Invariants (``tests/comparing/test_comparison.py``): the formula, by hand (``test_it_is_the_formula_by_hand``); verdicts
just below and above the limit; every refusal has its reason; a bound never loses to an exact number; the table above
(``test_a_worse_number_makes_a_worse_model_only_where_it_is_exact``); without the images, the verdict uses both errors
(``test_without_the_images_the_difference_is_unpaired``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bitsperdim.comparing.numbers import Images, NoImagesError, Scored
from bitsperdim.comparing.origin import what_differs
from bitsperdim.core.errors import InputError
from bitsperdim.core.labels import OUT_OF_RANGE, SEEN, TOO_FEW
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.core.units import bits_per_dim
from bitsperdim.estimators.multiple import roots, step_down
from bitsperdim.estimators.noise import LEVEL, Noise, in_bits_per_dim, of_means, of_tables
from bitsperdim.estimators.paired import influences

if TYPE_CHECKING:
    from bitsperdim.comparing.source import Source

Verdict = Literal["better", "worse", "cannot tell", "same", "refused"]
ErrorKind = Literal["paired", "unpaired"]
PARTS = ("data set", "binarization", "shape", "levels", "test size", "what is given")  # parts of a protocol tag


@dataclass(frozen=True)
class Difference:
    """A parameter that differs; ``is_set`` is False for a side that does not have the parameter."""

    key: str
    values: tuple[Any, Any]
    is_set: tuple[bool, bool]


@dataclass(frozen=True)
class Row:
    """One row of a comparison: one model against another, or against itself in another source.

    Attributes:
        a: the first result.
        b: the second result.
        verdict: verdict on B.
        bpd: B - A in bits/dim, infinite if one number is; None: the comparison was refused or is undefined.
        noise: noise of ``bpd``, in bits/dim; None: ``bpd`` has no error.
        z: ratio of ``bpd`` to its standard error; None: there is no such ratio.
        error_is: whether the error comes from paired images, or from the two numbers alone; None: there is no error.
        reason: why the comparison was refused.
        notes: sentences for the reader.
        parameters: parameters that differ.
        level: how often the interval of the verdict misses: 5 % for one row, less if several rows are compared.
        n_compared: number of differences that are tested together.
    """

    a: Scored
    b: Scored
    verdict: Verdict
    bpd: float | None
    noise: Noise | None
    z: float | None
    error_is: ErrorKind | None
    reason: str | None
    notes: list[str]
    parameters: list[Difference]
    level: float = LEVEL
    n_compared: int = 1

    @property
    def name(self) -> str:
        """Name of the model, or of both models."""
        return self.a.model if self.a.model == self.b.model else f"{self.a.model} -> {self.b.model}"

    @property
    def is_established(self) -> bool:
        """Whether the verdict holds for the models, not only for their bounds."""
        return is_established(self.verdict, self.a.numbers, self.b.numbers)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference, in bits/dim: all of its known noise."""
        return None if self.noise is None else self.noise.combined

    @property
    def limit(self) -> float | None:
        """Number of standard errors from which a difference is clear; infinity: never; None: there is no error."""
        if self.noise is None:
            return None
        if self.noise.why_unclear(self.level) or math.isinf(self.noise.combined):
            return math.inf
        return self.noise.reach(self.level) / self.noise.combined if self.noise.combined > 0 else 0.0

    @property
    def monte_carlo_error(self) -> float:
        """Monte Carlo error of the difference in bits/dim, part of the noise of the images; infinity: unknown."""
        return math.hypot(self.a.numbers.bpd_monte_carlo_error, self.b.numbers.bpd_monte_carlo_error)


@dataclass(frozen=True)
class Comparison:
    """A comparison of two sources, with one row per model, and the models that only one source has."""

    a: Source
    b: Source
    rows: list[Row]
    only_in_a: list[str]
    only_in_b: list[str]


def compare(
    a: Source, b: Source, pair: tuple[str | None, str | None] = (None, None), models: list[str] | None = None
) -> Comparison:
    """Compare two sources.

    Args:
        a: the first source.
        b: the second source.
        pair: a model of A and a model of B; if only one is given, it is used on both sides; if none is given, all
            models with the same name are compared.
        models: compare only these models; None: all.

    Raises:
        InputError: a model is missing, or nothing can be compared.
    """
    shared = [model for model in a.models if model in b.models]
    names = [(model, model) for model in shared]
    only_in_a = [model for model in a.models if model not in shared]
    only_in_b = [model for model in b.models if model not in shared]
    first, second = pair[0] or pair[1], pair[1] or pair[0]
    if first is not None and second is not None:
        names = [(first, second)]
        only_in_a, only_in_b = [], []
    elif models is not None:
        names = [(model, model) for model in models]
        only_in_a, only_in_b = [], []
    for index, source in enumerate((a, b)):
        for name in names:
            if name[index] not in source.models:
                there = ", ".join(source.models) or "none"
                raise InputError(f"There is no model {name[index]!r} in {source.words}; its models are {there}.")
    if not names:
        raise InputError(
            f"No model is in both: {a.words} has {', '.join(a.models) or 'none'}, {b.words} has "
            f"{', '.join(b.models) or 'none'}; to compare two different models, write A:MODEL B:MODEL."
        )
    rows = rows_of([(a.read(first), b.read(second)) for first, second in names])
    if all(item.verdict == "refused" for item in rows):
        reasons: dict[str, list[str]] = {}
        for item in rows:
            reasons.setdefault(item.reason or "", []).append(item.name)
        raise InputError(" ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()))
    return Comparison(a, b, rows, only_in_a, only_in_b)


@dataclass(frozen=True)
class Measured:
    """A compared pair, before its verdict.

    Attributes:
        a: the first result.
        b: the second result.
        reason: why the comparison is refused; None: it is not refused.
        bpd: B - A in bits/dim, infinite if one number is; None: the comparison was refused or is undefined.
        noise: noise of ``bpd``, in bits/dim; None: ``bpd`` has no error.
        parts: contribution of each distinct image to the difference, (C,); None: not known.
        missing: sentences about missing log-likelihoods.
        notes: other sentences.
    """

    a: Scored
    b: Scored
    reason: str | None = None
    bpd: float | None = None
    noise: Noise | None = None
    parts: np.ndarray | None = None
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether every image has the same number on both sides."""
        return self.noise is not None and self.bpd == self.noise.images == 0

    @property
    def is_doubtful(self) -> bool:
        """Whether a test is needed: the error is finite, and some image has another number."""
        return self.noise is not None and not self.is_same and math.isfinite(self.noise.combined)

    def is_clear_at(self, level: float) -> bool:
        """Return whether the confidence interval with this error level leaves out zero, and can be trusted."""
        if self.noise is None or self.bpd is None:
            return False
        return abs(self.bpd) >= self.noise.reach(level) and self.noise.why_unclear(level) is None


def rows_of(pairs: Sequence[tuple[Scored, Scored]]) -> list[Row]:
    """Compare results pair by pair, with a correction for testing all pairs together
    (:mod:`bitsperdim.estimators.multiple`).
    """
    found = [measured(a, b) for a, b in pairs]
    doubtful = [item for item in found if item.is_doubtful]
    level, _ = step_down(
        _directions(doubtful), lambda level: np.array([item.is_clear_at(level) for item in doubtful], dtype=bool)
    )
    return [judged(item, level, len(doubtful)) for item in found]


def _directions(doubtful: Sequence[Measured]) -> np.ndarray:
    """Return the weights of independent normal numbers in each difference.

    Differences on other test images share none of these numbers.
    """
    covariance = np.diag([item.noise.combined**2 for item in doubtful if item.noise is not None])
    for i, one in enumerate(doubtful):
        for j, other in enumerate(doubtful[:i]):
            alike = one.a.numbers.test_sha256 == other.a.numbers.test_sha256
            if alike and one.parts is not None and other.parts is not None and len(one.parts) == len(other.parts):
                n = max(2, len(one.parts))
                covariance[i, j] = covariance[j, i] = n / (n - 1) * float(one.parts @ other.parts)
    return roots(covariance)


def measured(a: Scored, b: Scored) -> Measured:
    """Return the difference of two results on the same test images with its noise, or why they are not compared."""
    reason = refusal(a.numbers, b.numbers)
    images: list[Images] = []
    missing: list[str] = []
    if reason is None:
        try:
            for scored in (a, b):
                try:
                    images.append(scored.images())
                except NoImagesError as error:
                    missing.append(str(error))
        except InputError as damaged:
            reason = str(damaged)
    if reason is None and missing and (lacking := without_errors(a.numbers, b.numbers)):
        reason = f"{lacking}, and {missing[0]}"
    if reason is not None:
        return Measured(a, b, reason)
    impossible: list[int | str] = [int(np.isneginf(item.log_p).any(0).sum()) for item in images]
    if missing:
        each = (a.numbers, b.numbers)
        impossible = [(item.n_impossible_images or "some") if math.isinf(item.bpd) else 0 for item in each]
    if any(impossible):
        who = [f"{side} gives {n} test images no mass" for side, n in zip("AB", impossible, strict=True) if n]
        both = all(impossible)
        bpd = None if both else math.inf if impossible[1] else -math.inf
        infinite = "both numbers are" if both else "its number is"
        note = f"{' and '.join(who)}: {infinite} infinite, and the difference has no error."
        return Measured(a, b, None, bpd, missing=missing, notes=[note])
    if missing:
        return Measured(a, b, None, b.numbers.bpd - a.numbers.bpd, unpaired(a.numbers, b.numbers), missing=missing)
    same_as = next((item.same_as for item in images if item.same_as is not None), None)
    shape = a.numbers.image_shape
    noise = in_bits_per_dim(of_tables(images[0].log_p, images[1].log_p, same_as), shape)
    difference = bits_per_dim(images[1].log_p.mean(0) - images[0].log_p.mean(0), shape)
    return Measured(a, b, None, float(difference.mean()), noise, influences(difference, same_as))


def judged(pair: Measured, level: float = LEVEL, n_compared: int = 1) -> Row:
    """Return the verdict on a pair.

    Args:
        pair: the compared pair.
        level: error level of this pair's interval.
        n_compared: number of pairs that are tested together.
    """
    a, b, bpd, noise = pair.a, pair.b, pair.bpd, pair.noise
    parameters = differing(a, b)
    if pair.reason is not None:
        return Row(a, b, "refused", None, None, None, None, pair.reason, [], parameters)
    verdict: Verdict = "cannot tell"
    notes, z = list(pair.notes), None
    if noise is None:
        verdict = "cannot tell" if bpd is None else "worse" if bpd > 0 else "better"
    elif pair.is_same:
        verdict = "same"
    elif bpd is not None:
        z = bpd / noise.combined if noise.combined > 0 else math.copysign(math.inf, bpd)
        notes += of_seeds(bpd, noise, level)
        if pair.is_clear_at(level):
            verdict = "worse" if z > 0 else "better"
        elif why := noise.why_unclear(level):
            notes.append(f"No verdict: {why}.")
        elif pair.is_clear_at(LEVEL):
            notes.append(
                f"This difference would be clear if it were the only one. But {n_compared} differences are tested, and "
                f"among so many one lies outside its 95 % interval by chance too often."
            )
    verdict, limits = limited(verdict, a.numbers, b.numbers)
    notes += limits
    notes += [f"Unpaired: {sentence}" for sentence in dict.fromkeys(pair.missing)]
    error_is: ErrorKind | None = None if noise is None else "unpaired" if pair.missing else "paired"
    if verdict != "same" and bpd != 0 and a.model == b.model:  # two different models have different code anyway
        notes += what_differs(a.origin, b.origin, has_parameters=bool(parameters))
    notes += [f"{side}: {note}" for side, scored in (("A", a), ("B", b)) for note in scored.notes]
    flagged = [side for side, scored in (("A", a), ("B", b)) if scored.numbers.is_flagged]
    if flagged:
        notes.append(
            f"{' and '.join(flagged)} {'have' if len(flagged) > 1 else 'has'} too few samples ({TOO_FEW}): bias and "
            f"Monte Carlo error of the bound cannot be believed; raise evaluate.n_samples."
        )
    declared = [side for side, scored in (("A", a), ("B", b)) if scored.numbers.verified is False]
    if declared:
        notes.append(f"{' and '.join(declared)}: the kind of the number is declared by the model, not verified.")
    for side, scored in (("A", a), ("B", b)):
        if scored.numbers.range_reason:
            notes.append(f"{side}'s number is {scored.numbers.range_reason} ({OUT_OF_RANGE}).")
    seen: dict[str, list[str]] = {}
    for side, scored in (("A", a), ("B", b)):
        if words := scored.numbers.seen_in_words:
            seen.setdefault(f"{words}{f' ({SEEN})' if scored.numbers.is_of_seen_images else ''}", []).append(side)
    notes += [f"{' and '.join(sides)}: {words}." for words, sides in seen.items()]
    return Row(a, b, verdict, bpd, noise, z, error_is, None, notes, parameters, level, n_compared)


def refusal(a: AnyMetrics, b: AnyMetrics) -> str | None:
    """Return why two numbers are not comparable, in one sentence, or None if they are."""
    for side, numbers in (("A", a), ("B", b)):
        if numbers.kind == "density":
            return f"{side} is a density evaluated at integers, not a likelihood, so it cannot be compared."
    if a.protocol != b.protocol:
        first, second = a.protocol.split("/"), b.protocol.split("/")
        if len(first) == len(second) == len(PARTS):
            what = [
                f"{name} ({one} and {other})"
                for name, one, other in zip(PARTS, first, second, strict=True)
                if one != other
            ]
            return f"the protocols differ in {', '.join(what)}: {a.protocol} and {b.protocol}."
        return f"the protocols differ: {a.protocol} and {b.protocol}."
    if a.test_sha256 != b.test_sha256:
        return (
            f"the protocol is the same, but the test images differ (SHA-256 {a.short_hash} and "
            f"{b.short_hash}): another split, another draw of the binarization, or other files."
        )
    return None


def without_errors(a: AnyMetrics, b: AnyMetrics) -> str | None:
    """Return in a few words which number has no error; None if both have one, or if a number is infinite."""
    if math.isinf(a.bpd) or math.isinf(b.bpd):
        return None
    for side, numbers in (("A", a), ("B", b)):
        if not math.isfinite(numbers.bpd_standard_error):
            return f"{side}'s number has no standard error"
        seeds = [value for value in numbers.bpd_of_seeds if math.isfinite(value)]
        if max(1, len(seeds)) != numbers.n_seeds:
            return f"{side} lacks the numbers of its {numbers.n_seeds} seeds"
    return None


def unpaired(a: AnyMetrics, b: AnyMetrics) -> Noise:
    """Return the noise of B - A in bits/dim, computed from the errors of the two numbers alone."""
    n_distinct = min(numbers.n_distinct_images or numbers.n_images for numbers in (a, b))
    images = math.hypot(a.bpd_standard_error, b.bpd_standard_error) if n_distinct > 1 else math.inf
    means = [np.array(numbers.bpd_of_seeds) for numbers in (a, b)]
    return of_means(images, n_distinct, means[0], means[1])


def of_seeds(bpd: float, noise: Noise, level: float) -> list[str]:
    """Return sentences about the effect of training seeds on a verdict; none if both sides have one seed."""
    if not noise.has_seeds:
        return []
    notes = []
    if replace(noise, seeds=(None, None), gamma=0.0).reach(level) <= abs(bpd) < noise.reach(level):
        notes.append(
            "The difference is clear beyond the noise of the test images, but not beyond the noise of the training "
            "seeds: with other seeds it may have the other sign."
        )
    for side in noise.unknown:
        notes.append(f"{side} has one seed: its seed noise is unknown, and the verdict ignores it.")
    return notes


def is_established(verdict: Verdict, a: AnyMetrics, b: AnyMetrics) -> bool:
    """Return whether a verdict on B's number holds for the models.

    It does only if the worse number is exact, and the better one is exact or a bound.
    """
    if verdict not in ("better", "worse"):
        return False
    worse, better = (a, b) if verdict == "better" else (b, a)
    return worse.kind == "exact" and better.kind in ("exact", "lower")


def limited(verdict: Verdict, a: AnyMetrics, b: AnyMetrics) -> tuple[Verdict, list[str]]:
    """Return the verdict on B after its restriction for bounds, and sentences that explain the restriction."""
    if verdict == "same" or (a.kind, b.kind) == ("exact", "exact"):
        return verdict, []
    estimates = [side for side, numbers in (("A", a), ("B", b)) if numbers.kind == "estimate"]
    if estimates:
        return "cannot tell", [
            f"{' and '.join(estimates)}: an estimate: its solver error is not negligible beside its Monte Carlo error. "
            f"It is no bound, so nothing follows for the models. More steps make it a bound."
        ]
    if a.kind == b.kind == "lower":
        notes = ["Both numbers are upper bounds: the verdict is on the bounds, and each of them may be loose."]
        if a.n_samples != b.n_samples:
            notes.append(
                f"The bounds have K = {a.n_samples} and {b.n_samples}: more samples alone make a bound better."
            )
        return verdict, notes
    exact, bound = ("A", "B") if a.kind == "exact" else ("B", "A")
    rule = (
        f"{exact} is exact, and {bound} is an upper bound of its negative log-likelihood. So the only possible "
        f"conclusion is that {bound} is better, if its bound is clearly below {exact}'s number"
    )
    if verdict == "cannot tell":
        return verdict, [f"{rule}. Here it is not."]
    if is_established(verdict, a, b):
        return verdict, [f"{rule}, as it is here."]
    return "cannot tell", [f"{rule}. Here it is above, and the bound may be loose."]


def differing(a: Scored, b: Scored) -> list[Difference]:
    """Return the parameters that differ; the own sections of two models are compared with each other."""
    first, second = _renamed(a, b.model), _renamed(b, a.model)
    found = []
    for key in sorted({*first, *second}):
        values, is_set = (first.get(key), second.get(key)), (key in first, key in second)
        if values[0] != values[1] or is_set[0] != is_set[1]:
            found.append(Difference(key, values, is_set))
    return found


def _renamed(scored: Scored, other: str) -> Mapping[str, Any]:
    """Return the parameters, with a common name for the own sections of both models."""
    if scored.model == other:
        return scored.params
    common, own = "|".join(sorted((scored.model, other))), f"{scored.model}."
    return {
        f"{common}.{key.removeprefix(own)}" if key.startswith(own) else key: value
        for key, value in scored.params.items()
    }
