"""What is written beside a likelihood: its relation sign, what it is, and a mark where it is not to be believed.

The same in the README, the report, the tables of the recipes, the comparison and the leaderboard. What a stage prints
is ASCII, since it is read in logs and terminals of any encoding: there the signs are ``<=`` and ``+-``, and either mark
is ``(!)``, with the reasons in words behind it.

Whether a number is worse than uniform coding follows from its protocol tag, which holds the number of levels L:
results that were written before anybody asked are marked as well. Of test images that are training images too
(:mod:`bitsperdim.data.repeated`), or nearly (:mod:`bitsperdim.data.near`), a number tells always, and is marked where
they matter. Which of these words and
marks stand beside a ``metrics.json`` is in :mod:`bitsperdim.core.metrics`.

Invariants (``tests/core/test_labels.py``): each reason has a number with the mark and one without
(``test_each_reason_has_its_mark_and_its_words``); what a stage prints is ASCII (``test_a_sentence_is_ascii``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

SIGNS = {"exact": "=", "lower": "≤", "density": "density"}
PUBLISHED_SIGNS = {"exact": SIGNS["exact"], "bound": SIGNS["lower"], "estimate": "≈"}
ASCII_SIGNS = {kind: sign.replace("≤", "<=") for kind, sign in SIGNS.items()}
WORDS = {"exact": "exact", "lower": "an upper bound", "density": "a density, no likelihood: not to be ranked"}
LEGEND = ", ".join(f"{SIGNS[kind]} {WORDS[kind]}" for kind in ("exact", "lower"))
TOLERATED_SHARE = 0.05  # of images with a small ESS, with a heavy tail, or that were trained on

COUNTED = (
    "test_distinct",
    "test_in_train",
    "test_in_validation",
    "validation_in_train",
)  # what is the same: bitsperdim.data.repeated
ROUNDING_BPD = 1.5e-6  # a log-mass of float32 is right to 1e-6 nats, or of its size (bitsperdim.likelihoods)
BY_CHANCE = 4  # Monte Carlo errors

TOO_FEW, OUT_OF_RANGE, SEEN = "†", "‡", "§"
MEANS = {
    TOO_FEW: "Too few samples: the bias of the bound may exceed its error, or more than 5 % of the images have an "
    "effective sample size below 10 or (judged from K = 1,000 on) weights with a heavy tail. With more samples, or a "
    "better proposal, the bound gets better.",
    OUT_OF_RANGE: "Worse than uniform coding, which needs log2 L bits/dim for L levels and no model; or below 0, "
    "which no likelihood is; or better than the truth, where that is known.",
    SEEN: "Test images are training images too, or nearly: more than 5 % of them, or without them the number moves by "
    "more than its standard error. It says in part how well the model remembers.",
}
ASCII_MARK = "(!)"


def n_levels(protocol: str) -> int | None:
    """Return L, the number of levels of a sub-pixel, by a protocol tag; None where it names none."""
    match = re.search(r"/L(\d+)(?:/|$)", protocol)
    return int(match[1]) if match else None


def uniform_bpd(protocol: str) -> float:
    """Return log2 L, the bits per dimension of uniform coding, by a protocol tag; infinite where it names no L."""
    levels = n_levels(protocol)
    return math.inf if levels is None else math.log2(levels)


def is_out_of_range(kind: str, bpd: float, protocol: str) -> bool:
    """Return whether a finite number of bits is more than uniform coding needs, or negative, by more than rounding.

    Args:
        kind: ``exact``, ``lower`` or ``density``; a density has any value.
        bpd: bits per dimension.
        protocol: tag of the images.
    """
    room = ROUNDING_BPD * max(1.0, abs(bpd))
    return kind != "density" and math.isfinite(bpd) and not -room <= bpd <= uniform_bpd(protocol) + room


def meanings(text: str) -> list[str]:
    """Return a sentence for each mark that is in a text, which it begins with."""
    return [f"{mark} {words}" for mark, words in MEANS.items() if mark in text]


def range_reason(kind: str, bpd: float, protocol: str, monte_carlo_error: float | None = None) -> str | None:
    """Return in words how a number is out of range, or None where it is not.

    Args:
        kind: as of :func:`is_out_of_range`, and so are the next two.
        bpd: bits per dimension.
        protocol: tag of the images.
        monte_carlo_error: of ``bpd``; None: unknown.
    """
    if not is_out_of_range(kind, bpd, protocol):
        return None
    if bpd >= 0:
        return f"worse than uniform coding, which needs {uniform_bpd(protocol):.4g} bits/dim"
    if kind == "exact":
        return "fewer than 0 bits, which no likelihood needs"
    if monte_carlo_error is None or not math.isfinite(monte_carlo_error):
        return "below 0 bits: a bound is above its model's number on average, and by chance below it"
    if -bpd <= BY_CHANCE * monte_carlo_error:
        return (
            f"below 0 bits by chance: a bound is above its model's number on average, and the Monte Carlo error of "
            f"this one is {monte_carlo_error:.1g}"
        )
    return f"fewer than 0 bits, which no likelihood needs, by more than {BY_CHANCE} of its Monte Carlo errors"


def doubts(
    kind: str, bpd: float, protocol: str, standard_error: float, monte_carlo_error: float | None = None
) -> list[str]:
    """Return in words, ASCII, why a number is not to be believed by itself and its errors.

    Args:
        kind: as of :func:`is_out_of_range`, and so are the next two.
        bpd: bits per dimension.
        protocol: tag of the images.
        standard_error: of ``bpd``, over test images.
        monte_carlo_error: of ``bpd``; None: unknown.
    """
    reason = range_reason(kind, bpd, protocol, monte_carlo_error)
    is_large = math.isfinite(standard_error) and standard_error > abs(bpd)
    return ([reason] if reason else []) + (["its standard error is larger than the number"] if is_large else [])


def too_few(n_samples: int, what: Sequence[str] = ()) -> str:
    """Return in words, ASCII, that there are too few samples, and by what, where that is known."""
    if n_samples == 1:
        return "K = 1, which tells neither its bias nor its Monte Carlo error"
    return f"too few samples: {' and '.join(what)}" if what else "too few samples"


def number(kind: str, bpd: float, why: Sequence[str], standard_error: float | None = None) -> str:
    """Return a number in ASCII, with its sign, its standard error where it is given, and its mark.

    Args:
        kind: as of :func:`is_out_of_range`.
        bpd: bits per dimension.
        why: it is not to be believed; empty: it is.
        standard_error: of ``bpd``; infinite: unknown.
    """
    shown = ""
    if standard_error is not None and math.isfinite(bpd):  # an infinite number has none
        shown = f" +- {standard_error:.4f}" if math.isfinite(standard_error) else " +- unknown"
    return f"{ASCII_SIGNS[kind]} {bpd:z.4f}{shown} bits/dim" + (f" {ASCII_MARK}" if why else "")


def because(why: Sequence[str]) -> str:
    """Return the reasons behind their mark, to end a sentence; empty where there are none."""
    return f". {ASCII_MARK} Not to be believed as it stands: {'; '.join(why)}" if why else ""


def of_validation(kind: str, bpd: float, nats: float, protocol: str, n_samples: int) -> str:
    """Return what a training says of the validation images, in ASCII; the error of that number is not estimated.

    Args:
        kind: as of :func:`is_out_of_range`.
        bpd: bits per dimension.
        nats: per image, the mean.
        protocol: tag of the images.
        n_samples: K of the bound.
    """
    reason = range_reason(kind, bpd, protocol)
    why = [] if reason is None else [reason]
    k = f", K = {n_samples}" if kind == "lower" else ""
    text = f"{number(kind, bpd, why)} ({nats:z.2f} nats), {WORDS[kind]}{k}"
    return f"{text}, its error not estimated{because(why)}"


def same_in_words(counts: Mapping[str, int], n_images: Mapping[str, int]) -> list[str]:
    """Return a sentence for each thing that :func:`bitsperdim.data.repeated.counted` found to be the same.

    Args:
        counts: what was found, and of :mod:`bitsperdim.data.near` ``test_near_train`` where anybody looked.
        n_images: of each split.
    """
    n_test, n_validation = n_images["test"], n_images["validation"]
    found = []
    if (n_distinct := counts["test_distinct"]) < n_test:
        verb = "is" if n_distinct == 1 else "are"
        found.append(
            f"{n_distinct:,} of the {n_test:,} test images {verb} distinct: errors over test images count those"
        )
    if counts["test_in_train"]:
        found.append(
            f"{counts['test_in_train']:,} of the {n_test:,} test images are training images too: on these a model is "
            f"scored on what it was trained on"
        )
    if counts.get("test_near_train"):
        found.append(
            f"{counts['test_near_train']:,} of the {n_test:,} test images are nearly training images, such as shifted "
            f"by a pixel or of another contrast: on these a model may do well because it remembers"
        )
    if counts["test_in_validation"]:
        found.append(
            f"{counts['test_in_validation']:,} of the {n_test:,} test images are validation images too, by which the "
            f"weights are chosen that are scored"
        )
    if counts["validation_in_train"]:
        found.append(
            f"{counts['validation_in_train']:,} of the {n_validation:,} validation images are training images too: "
            f"they do not show where a model begins to remember"
        )
    return found
