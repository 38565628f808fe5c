"""The README's generated sections about studies and a comparison, as Markdown from committed files.

The numbers of ``project_delay`` and of the constructed networks are those of the committed run. The numbers of the
trained networks come from training with the full budget, in ``docs/universal_resnet.json``, which also has the essay's.

Invariants (``tests/readme/test_readme.py``): every number is that of the files, each in its row
(``test_the_delay_says_what_its_files_say``, ``test_the_networks_are_those_of_their_files``); the comparison is what the
command prints (``test_the_comparison_is_what_the_command_prints``).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from bitsperdim.comparing import commands
from bitsperdim.results.formatting import count, plain, two_digits
from bitsperdim.results.project_delay import SUPERSCRIPTS, DelayMetrics, ProposalMetrics
from bitsperdim.results.reading import read_rows, read_stored
from bitsperdim.results.universal_resnet import ERRORS, NETS, PREDICATES, ResnetMetrics, ScoreMetrics

COMPARED = ("mnist-8bit-dequantization:flow_uniform", "mnist-8bit-dequantization:flow_iw")
ROLES = {"mistake": ": a mistake", "yardstick": " (a yardstick: it needs the answer)", "method": ""}
TIMES = "\N{MULTIPLICATION SIGN}"
FULL_BUDGET = Path("docs") / "universal_resnet.json"


def comparison(root: Path) -> str:
    """Return a comparison as the command prints it, and the error that would follow from the two errors alone."""
    found = json.loads(commands.compare(root, *COMPARED, None, "json"))["models"][0]
    text = commands.compare(root, *COMPARED, None, "text")
    alone = math.hypot(found["a"]["bpd_standard_error"], found["b"]["bpd_standard_error"])
    return (
        f"```console\n$ bitsperdim compare {' '.join(COMPARED)}\n{text}\n```\n\n"
        f"From the errors of the two numbers alone, the error of the difference would be ± {two_digits(alone)}, which "
        f"is {alone / found['standard_error_bpd']:.0f} times as large.\n"
    )


def delay(root: Path) -> str:
    """Return the table of each proposal's variance reduction in the study ``project_delay``, measured and exact."""
    metrics = read_stored(root / "results" / "project_delay" / "metrics.json", DelayMetrics)
    exact = metrics.exact
    mantissa, exponent = f"{exact.probability:.4e}".split("e")
    text = (
        f"According to a Markov chain with {exact.n_states} states, they take {metrics.deadline:g} or longer with "
        f"probability {mantissa} {TIMES} 10{str(int(exponent)).translate(SUPERSCRIPTS)}. The chain also gives the "
        f"exact variance of every proposal.\n\n"
        f"| durations drawn with | variance reduction, measured on {count(metrics.n_samples)} draws | exact | "
        f"error bar too short by a factor of |\n| --- | --- | --- | --- |\n"
    )
    for item in sorted(metrics.proposals.values(), key=_order):
        true = "none: infinite variance" if item.variance_is_infinite else _ratio(item.variance_reduction_exact)
        short = "no bar is valid" if item.variance_is_infinite else f"{item.error_factor:.1f}"
        text += f"| {item.label}{ROLES[item.role]} | {_ratio(item.variance_reduction)} | {true} | {short} |\n"
    methods = [item for item in metrics.proposals.values() if item.role == "method"]
    looks = max(methods, key=lambda item: item.variance_reduction)
    best = max(methods, key=lambda item: item.variance_reduction_exact)
    if looks != best:
        text += (
            f"\nSo the proposal that looks best ({looks.label}) is not the best ({best.label}), and its error bar is "
            f"{looks.error_factor:.1f} times too short: the large weights that dominate its variance do not occur "
            f"among {count(metrics.n_samples)} draws.\n"
        )
    return text


def _order(item: ProposalMetrics) -> tuple[bool, bool, float]:
    """Return the sort key: methods first, then the mistake, then the yardstick, each by increasing reduction."""
    return item.role == "yardstick", item.role == "mistake", item.variance_reduction


def _ratio(value: float) -> str:
    return plain(value, 0) if value >= 10 else plain(value, 1)


def disc(root: Path) -> str:
    """Return the table of errors of the networks constructed for the unit disc: those of the run, and the largest."""
    rows = read_rows(root / "results" / "universal_resnet" / "constructed.csv", "function", ("join", "cells", *ERRORS))
    errors = {(int(row["cells"]), bool(row["join"])): row for row in rows if row["function"] == "disc"}
    largest = read_stored(root / FULL_BUDGET, ResnetMetrics).constructed
    for name, join in (("disc", False), ("disc_joined", True)):
        errors[largest[name].cells, join] = dict(largest[name])
    text = "| the unit disc on [-2, 2]² | blocks | L1 error | classified correctly |\n| --- | --- | --- | --- |\n"
    for (cells, join), row in sorted(errors.items()):
        words = f"{cells} {TIMES} {cells} cells" + (", equal levels joined" if join else "")
        share = f"{100 * float(row['close_share']):.2f} %"
        text += f"| {words} | {count(int(row['n_blocks']))} | {float(row['l1']):.4f} | {share} |\n"
    return text


def networks(root: Path) -> str:
    """Return the table of accuracies found by training, beside those that the essay reports."""
    metrics = read_stored(root / FULL_BUDGET, ResnetMetrics)
    heads = " | ".join(f"{name} | essay" for name in PREDICATES)
    text = f"| network | {heads} |\n|{' --- |' * (1 + 2 * len(PREDICATES))}\n"
    for name, words in NETS.items():
        cells = [cell for score in metrics.accuracy[name].scores for cell in (_ours(score), _essay(score))]
        text += f"| {words} | {' | '.join(cells)} |\n"
    shares = " | | ".join(f"{metrics.majority[name]:.1f}" for name in PREDICATES)
    best = max(net.hard.fresh_mean for net in metrics.accuracy.values())
    return (
        f"{text}| *always the larger class* | {shares} | |\n\n"
        f"Values are percentages of the {metrics.n_points} training points that are classified correctly: mean and "
        f"spread of {metrics.n_seeds} training runs of {count(metrics.n_steps)} steps from different starts. A good "
        f"fit does not mean generalization: on new points of `hard`, no network is right more often than "
        f"{best:.1f} %.\n"
    )


def _ours(score: ScoreMetrics) -> str:
    return f"{score.mean:.1f} ± {score.spread:.1f}"


def _essay(score: ScoreMetrics) -> str:
    return f"{score.essay_mean:.0f}" + ("" if score.essay_spread is None else f" ± {score.essay_spread:.0f}")
