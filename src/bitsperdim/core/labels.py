"""What is written beside a likelihood: its relation sign, what it is, and a mark where it is not to be believed.

The same in the README, the report, the tables of the recipes, the comparison and the leaderboard. What a stage prints
is ASCII, since it is read in logs and terminals of any encoding: there the signs are ``<=`` and ``+-``, and either mark
is ``(!)``, with the reasons in words behind it.

Whether a number is worse than uniform coding follows from its protocol tag, which holds the number of levels L:
results that were written before anybody asked are marked as well. Of test images that are training images too
(:mod:`bitsperdim.data.repeated`) a number tells always, and is marked where they matter (:func:`is_of_seen_images`).

Invariants (``tests/core/test_labels.py``): each reason has a number with the mark and one without
(``test_each_reason_has_its_mark_and_its_words``); what a stage prints is ASCII (``test_a_sentence_is_ascii``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

SIGNS = {"exact": "=", "lower": "≤", "density": "density"}
PUBLISHED_SIGNS = {"exact": "=", "bound": "≤", "estimate": "≈"}
WORDS = {"exact": "exact", "lower": "an upper bound", "density": "a density, not a likelihood: not to be ranked"}
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
    "which no likelihood is.",
    SEEN: "Test images are training images too: more than 5 % of them, or without them the number moves by more than "
    "its standard error. It says in part how well the model remembers.",
}
ASCII_SIGNS = {"exact": "=", "lower": "<=", "density": "density, not a likelihood,"}
ASCII_WORDS = {"exact": "exact", "lower": "an upper bound", "density": "a density"}
ASCII_MARK = "(!)"


def uniform_bpd(protocol: str) -> float:
    """Return log2 L, the bits per dimension of uniform coding, by a protocol tag; infinite where it names no L."""
    match = re.search(r"/L(\d+)(?:/|$)", protocol)
    return math.log2(int(match[1])) if match else math.inf


def is_out_of_range(kind: str, bpd: float, protocol: str) -> bool:
    """Return whether a finite number of bits is more than uniform coding needs, or negative, by more than rounding.

    Args:
        kind: ``exact``, ``lower`` or ``density``; a density has any value.
        bpd: bits per dimension.
        protocol: tag of the images.
    """
    room = ROUNDING_BPD * max(1.0, abs(bpd))
    return kind != "density" and math.isfinite(bpd) and not -room <= bpd <= uniform_bpd(protocol) + room


def is_of_seen_images(metrics: Mapping[str, Any]) -> bool:
    """Return whether test images that are training images too matter to a number.

    They do where they are more than 5 % of all, or where the number of the others is more than its standard error away.

    Args:
        metrics: a ``metrics.json``; of one from before anybody looked it is not known, and False.
    """
    if not (n_seen := metrics.get("n_training_images")):
        return False
    others = metrics.get("bpd_without_training_images")
    moves = abs(metrics["bpd"] - others) if others is not None and math.isfinite(others) else 0.0
    return bool(n_seen > TOLERATED_SHARE * metrics["n_images"] or moves > metrics["bpd_standard_error"])


def marks(metrics: Mapping[str, Any]) -> str:
    """Return the marks that stand behind a number; empty where there is nothing to say.

    Args:
        metrics: a ``metrics.json``: ``kind``, ``bpd``, ``bpd_standard_error``, ``protocol``, ``too_few_samples``,
            ``n_images`` and what it says of training images.
    """
    out_of_range = is_out_of_range(metrics["kind"], metrics["bpd"], metrics["protocol"])
    found = ((TOO_FEW, metrics["too_few_samples"]), (OUT_OF_RANGE, out_of_range), (SEEN, is_of_seen_images(metrics)))
    return "".join(mark for mark, is_there in found if is_there)


def seen_in_words(metrics: Mapping[str, Any]) -> str | None:
    """Return in words how many of the test images are training images too; None where none is, or nobody looked."""
    if not (n_seen := metrics.get("n_training_images")):
        return None
    text = f"{n_seen:,} of the {metrics['n_images']:,} test images are training images too"
    others = metrics.get("bpd_without_training_images")
    return text if others is None else f"{text}, and without them it is {others:.4f} bits/dim"


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


def reasons(metrics: Mapping[str, Any]) -> list[str]:
    """Return in words, ASCII, why the number of a ``metrics.json`` is not to be believed as it stands."""
    found = []
    if metrics.get("n_impossible_images"):
        found.append(f"{metrics['n_impossible_images']} of {metrics['n_images']} test images have probability 0")
    noise = metrics.get("bpd_monte_carlo_error")
    out_of_range = range_reason(metrics["kind"], metrics["bpd"], metrics["protocol"], noise)
    if out_of_range:
        found.append(out_of_range)
    if math.isfinite(metrics["bpd_standard_error"]) and metrics["bpd_standard_error"] > abs(metrics["bpd"]):
        found.append("its standard error is larger than the number")
    if is_of_seen_images(metrics):
        found.append(str(seen_in_words(metrics)))
    if not metrics["too_few_samples"]:
        return found
    if metrics["n_samples"] == 1:
        return [*found, "K = 1, which tells neither its bias nor its Monte Carlo error"]
    few = []
    if metrics.get("bias_exceeds_standard_error"):
        few.append(f"its bias, about {metrics['log_p_bias_nats']:.2g} nats, exceeds its standard error")
    if (share := metrics.get("ess_below_10_share", 0.0)) > TOLERATED_SHARE:
        few.append(f"{100 * share:.3g} % of the test images have an effective sample size below 10")
    of_images = "" if len(few) and "images" in few[-1] else " of the test images"
    if (share := metrics.get("pareto_k_high_share", 0.0)) > TOLERATED_SHARE:
        few.append(f"{100 * share:.3g} %{of_images} have weights with a heavy tail")
    return [*found, f"too few samples: {' and '.join(few)}" if few else "too few samples"]


def number(metrics: Mapping[str, Any], why: Sequence[str]) -> str:
    """Return a number in ASCII, with its sign, its standard error where there is a key for it, and its mark."""
    error, shown = metrics.get("bpd_standard_error"), ""
    if error is not None and math.isfinite(metrics["bpd"]):  # an infinite number has none
        shown = f" +- {error:.4f}" if math.isfinite(error) else " +- unknown"
    return f"{ASCII_SIGNS[metrics['kind']]} {metrics['bpd']:z.4f}{shown} bits/dim" + (f" {ASCII_MARK}" if why else "")


def because(why: Sequence[str]) -> str:
    """Return the reasons behind their mark, to end a sentence; empty where there are none."""
    return f". {ASCII_MARK} Not to be believed as it stands: {'; '.join(why)}" if why else ""


def sentence(metrics: Mapping[str, Any]) -> str:
    """Return what a ``metrics.json`` says of a model's likelihood, in ASCII: the number, its errors, what it is, K."""
    why = reasons(metrics)
    text = f"{number(metrics, why)} ({metrics['nll_nats']:z.2f} nats), {ASCII_WORDS[metrics['kind']]}"
    if metrics["kind"] == "lower":
        noise = metrics["bpd_monte_carlo_error"]
        text += f", Monte Carlo error {f'{noise:.1g}' if math.isfinite(noise) else 'unknown'}"
    text += f", K = {metrics['n_samples']}"
    if metrics["n_seeds"] > 1:
        text += f", the mean of {metrics['n_seeds']} seeds, which spread by {metrics['bpd_seed_spread']:.4f}"
    n_distinct = metrics.get("n_distinct_images") or metrics["n_images"]
    if n_distinct < metrics["n_images"]:
        verb = "is" if n_distinct == 1 else "are"
        text += f"; of {metrics['n_images']:,} test images {n_distinct:,} {verb} distinct"
    if metrics["kind"] == "exact" and -ROUNDING_BPD <= metrics["bpd"] < 0:
        text += "; below 0 by no more than float32 rounds, so 0"
    if (seen := seen_in_words(metrics)) and seen not in why:
        text += f"; {seen}"
    return text + because(why)


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
    text = f"{number({'kind': kind, 'bpd': bpd}, why)} ({nats:z.2f} nats), {ASCII_WORDS[kind]}{k}"
    return f"{text}, its error not estimated{because(why)}"


def same_in_words(counts: Mapping[str, int], n_images: Mapping[str, int]) -> list[str]:
    """Return a sentence for each thing that :func:`bitsperdim.data.repeated.counted` found to be the same.

    Args:
        counts: what was found.
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
