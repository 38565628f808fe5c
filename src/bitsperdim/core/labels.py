"""The text beside a likelihood: its relation sign, its kind in words, and a mark if it should not be believed.

The README, the report, the tables of the recipes, the comparison and the leaderboard use the same signs and marks. The
output of a stage is ASCII, since logs and terminals may have any encoding. There the signs are ``<=`` and ``+-``, and
every mark is ``(!)``, followed by the reasons in words.

Whether a number is worse than uniform coding follows from its protocol tag, which contains the number of levels L, so
results of versions without this check are marked as well. If test images are equal to training images
(:mod:`bitsperdim.data.repeated`) or nearly equal (:mod:`bitsperdim.data.near`), the text always says so; the number is
marked if they matter. :mod:`bitsperdim.core.metrics` decides which words and marks belong to a ``metrics.json``.

Invariants (``tests/core/test_labels.py``): each reason is tested with a number that has the mark and one that does not
(``test_each_reason_has_its_mark_and_its_words``); the output of a stage is ASCII (``test_a_sentence_is_ascii``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

SIGNS = {"exact": "=", "lower": "≤", "estimate": "≈", "density": "density"}
PUBLISHED_SIGNS = {"exact": SIGNS["exact"], "bound": SIGNS["lower"], "estimate": "≈"}
ASCII_SIGNS = {kind: sign.replace("≤", "<=").replace("≈", "~") for kind, sign in SIGNS.items()}
WORDS = {
    "exact": "exact",
    "lower": "an upper bound",
    "estimate": "an estimate, neither exact nor a bound, because of its solver error",
    "density": "a density, no likelihood: not to be ranked",
}
SAMPLED = ("lower", "estimate")  # kinds of numbers that depend on random samples
LEGEND = ", ".join(f"{SIGNS[kind]} {WORDS[kind]}" for kind in ("exact", "lower"))
TOLERATED_SHARE = 0.05  # largest share of images with a small ESS, with a heavy tail, or among the training images

COUNTED = (
    "test_distinct",
    "test_in_train",
    "test_in_validation",
    "validation_in_train",
)  # counts of equal images, see bitsperdim.data.repeated
ROUNDING_BPD = 1.5e-6  # a float32 log-mass is accurate to 1e-6, absolute in nats or relative (bitsperdim.likelihoods)
BY_CHANCE = 4  # a bound may be below 0 by chance by at most this number of Monte Carlo errors

TOO_FEW, OUT_OF_RANGE, SEEN = "†", "‡", "§"
MEANS = {
    TOO_FEW: "Too few samples: the bias of the bound may exceed its error, or more than 5 % of the images have an "
    "effective sample size below 10 or (judged from K = 1,000 on) weights with a heavy tail. More samples or a better "
    "proposal improve the bound.",
    OUT_OF_RANGE: "Worse than uniform coding, which needs log2 L bits/dim for L levels and no model; or below 0, which "
    "is impossible for a likelihood; or better than the truth, if the true distribution is known.",
    SEEN: "Test images are also training images, exactly or nearly: more than 5 % of them are, or the number moves by "
    "more than its standard error without them. The number measures in part what the model has memorized.",
}
ASCII_MARK = "(!)"


def n_levels(protocol: str) -> int | None:
    """Return L, the number of levels of a sub-pixel, from a protocol tag; None if the tag has no L."""
    match = re.search(r"/L(\d+)(?:/|$)", protocol)
    return int(match[1]) if match else None


def uniform_bpd(protocol: str) -> float:
    """Return log2 L, the bits per dimension of uniform coding, from a protocol tag; infinity if the tag has no L."""
    levels = n_levels(protocol)
    return math.inf if levels is None else math.log2(levels)


def is_out_of_range(kind: str, bpd: float, protocol: str) -> bool:
    """Return whether a finite number of bits exceeds uniform coding or is negative, by more than the rounding error.

    Args:
        kind: ``exact``, ``lower``, ``estimate`` or ``density``; a density may have any value.
        bpd: bits per dimension.
        protocol: protocol tag of the images.
    """
    room = ROUNDING_BPD * max(1.0, abs(bpd))
    return kind != "density" and math.isfinite(bpd) and not -room <= bpd <= uniform_bpd(protocol) + room


def meanings(text: str) -> list[str]:
    """Return, for each mark in a text, the mark and the sentence that explains it."""
    return [f"{mark} {words}" for mark, words in MEANS.items() if mark in text]


def range_reason(kind: str, bpd: float, protocol: str, monte_carlo_error: float | None = None) -> str | None:
    """Return in words why a number is out of range, or None if it is in range.

    Args:
        kind: ``exact``, ``lower``, ``estimate`` or ``density``.
        bpd: bits per dimension.
        protocol: protocol tag of the images.
        monte_carlo_error: Monte Carlo error of ``bpd``; None: unknown.
    """
    if not is_out_of_range(kind, bpd, protocol):
        return None
    if bpd >= 0:
        return f"worse than uniform coding, which needs {uniform_bpd(protocol):.4g} bits/dim"
    if kind == "exact":
        return "below 0 bits, which is impossible for a likelihood"
    if monte_carlo_error is None or not math.isfinite(monte_carlo_error):
        return "below 0 bits: a bound is above its model's true number on average, but may be below it by chance"
    if -bpd <= BY_CHANCE * monte_carlo_error:
        return (
            f"below 0 bits by chance: a bound is above its model's true number on average, and the Monte Carlo error "
            f"of this bound is {monte_carlo_error:.1g}"
        )
    return f"below 0 bits, which is impossible for a likelihood, by more than {BY_CHANCE} times its Monte Carlo error"


def doubts(
    kind: str, bpd: float, protocol: str, standard_error: float, monte_carlo_error: float | None = None
) -> list[str]:
    """Return the reasons, in ASCII words, why a number should not be believed, judged by its value and its errors.

    Args:
        kind: ``exact``, ``lower``, ``estimate`` or ``density``.
        bpd: bits per dimension.
        protocol: protocol tag of the images.
        standard_error: standard error of ``bpd`` over test images.
        monte_carlo_error: Monte Carlo error of ``bpd``; None: unknown.
    """
    reason = range_reason(kind, bpd, protocol, monte_carlo_error)
    is_large = math.isfinite(standard_error) and standard_error > abs(bpd)
    return ([reason] if reason else []) + (["its standard error is larger than the number"] if is_large else [])


def too_few(n_samples: int, what: Sequence[str] = ()) -> str:
    """Return in ASCII words that there are too few samples, with the symptoms in ``what``, if any are known."""
    if n_samples == 1:
        return "K = 1, so neither its bias nor its Monte Carlo error can be estimated"
    return f"too few samples: {' and '.join(what)}" if what else "too few samples"


def number(kind: str, bpd: float, why: Sequence[str], standard_error: float | None = None) -> str:
    """Return a number in ASCII with its relation sign, its standard error if it is given, and its mark.

    Args:
        kind: ``exact``, ``lower``, ``estimate`` or ``density``.
        bpd: bits per dimension.
        why: the reasons why the number should not be believed; empty: there are no doubts.
        standard_error: standard error of ``bpd``; infinite: unknown.
    """
    shown = ""
    if standard_error is not None and math.isfinite(bpd):  # an infinite number has no standard error
        shown = f" +- {standard_error:.4f}" if math.isfinite(standard_error) else " +- unknown"
    return f"{ASCII_SIGNS[kind]} {bpd:z.4f}{shown} bits/dim" + (f" {ASCII_MARK}" if why else "")


def because(why: Sequence[str]) -> str:
    """Return the mark and the reasons, to end a sentence with; empty if there are no reasons."""
    return f". {ASCII_MARK} Not to be believed as it stands: {'; '.join(why)}" if why else ""


def of_validation(kind: str, bpd: float, nats: float, protocol: str, n_samples: int) -> str:
    """Return the text, in ASCII, with which training reports the validation result; its error is not estimated.

    Args:
        kind: ``exact``, ``lower``, ``estimate`` or ``density``.
        bpd: bits per dimension.
        nats: mean of -log P(x) over images, nats per image.
        protocol: protocol tag of the images.
        n_samples: K of the bound.
    """
    reason = range_reason(kind, bpd, protocol)
    why = [] if reason is None else [reason]
    k = f", K = {n_samples}" if kind in SAMPLED else ""
    text = f"{number(kind, bpd, why)} ({nats:z.2f} nats), {WORDS[kind]}{k}"
    return f"{text}, its error not estimated{because(why)}"


def same_in_words(counts: Mapping[str, int], n_images: Mapping[str, int]) -> list[str]:
    """Return a sentence for each kind of equal images that :func:`bitsperdim.data.repeated.counted` found.

    Args:
        counts: its counts; also ``test_near_train`` of :mod:`bitsperdim.data.near` if near copies were counted.
        n_images: number of images in each split.
    """
    n_test, n_validation = n_images["test"], n_images["validation"]
    found = []
    if (n_distinct := counts["test_distinct"]) < n_test:
        verb = "is" if n_distinct == 1 else "are"
        found.append(f"{n_distinct:,} of the {n_test:,} test images {verb} distinct: standard errors count copies once")
    if counts["test_in_train"]:
        found.append(
            f"{counts['test_in_train']:,} of the {n_test:,} test images are training images too: on these, a model is "
            f"tested on images that it was trained on"
        )
    if counts.get("test_near_train"):
        found.append(
            f"{counts['test_near_train']:,} of the {n_test:,} test images are nearly training images, for example "
            f"shifted by a pixel or with another contrast: on these, a model may do well because it has memorized them"
        )
    if counts["test_in_validation"]:
        found.append(
            f"{counts['test_in_validation']:,} of the {n_test:,} test images are validation images too, and these "
            f"choose the weights that are tested"
        )
    if counts["validation_in_train"]:
        found.append(
            f"{counts['validation_in_train']:,} of the {n_validation:,} validation images are training images too: "
            f"they do not show when a model begins to overfit"
        )
    return found
