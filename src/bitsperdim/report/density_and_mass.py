"""The charts of the study ``density_and_mass``, by the names that its template uses.

Exact or dequantized values are blue, estimates and wrong values are orange; every line is labelled. The charts show
tables of ``results/density_and_mass`` and compute nothing.

Invariants (``tests/report/test_study.py``): every chart has a text alternative that describes it
(``test_every_chart_says_what_it_shows``); charts also work for data with only one or two levels
(``test_few_levels_break_no_chart``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from bitsperdim.report.svg import BOUND, EXACT, INK, MUTED, PAPER, chart, to_svg
from bitsperdim.report.svg import label as _label
from bitsperdim.report.svg import name_y as _name_y
from bitsperdim.report.variants import differences
from bitsperdim.results.density_and_mass import Study
from bitsperdim.results.formatting import MINUS, count, plain, two_digits

if TYPE_CHECKING:  # matplotlib is imported only when something is drawn
    from matplotlib.axes import Axes

SIZE = (350.0, 250.0)
MARGINS = (46.0, 16.0, 28.0, 40.0)
MAX_TICKS = 6
DASHES = (3, 3)


def all_charts(study: Study) -> dict[str, Markup]:
    """Return all charts of the study, by name."""
    return {
        "hypotheses": hypotheses(study),
        "intervals": intervals(study),
        "levels": levels(study),
        "collapse": collapse(study),
        "floor": floor(study),
        "masses": masses(study),
        "by_level": by_level(study),
        "gap": gap(study),
        "coverage": coverage(study),
        "blocks": blocks(study),
        "price": price(study),
        "dequantizing": differences("study-dequantizing", study.ways, study.metrics.dequantizing.n_test_distinct),
    }


def hypotheses(study: Study) -> Markup:
    """Return the chart of both densities with the observation marked."""
    table, said = study.tables["hypotheses"], study.metrics.hypotheses
    with chart("study-hypotheses", *SIZE, MARGINS) as axes:
        axes.axvline(1, color=MUTED, linewidth=1.2, dashes=DASHES)
        for column, height, colour, name, place in (
            ("density_a", said.density_a, EXACT, "A", -1.15),
            ("density_b", said.density_b, BOUND, "B", 2.15),
        ):
            axes.plot(table["y"], table[column], color=colour)
            axes.plot(1, height, "o", color=colour, markersize=8, markerfacecolor=PAPER, markeredgewidth=2)
            _label(axes, plain(height), (1, height), (9, 2), colour)
            axes.text(place, 0.3, name, color=colour, weight="bold", ha="right" if name == "A" else "left", va="center")
        axes.set(ylim=(0, 0.47), xlabel="y, in standard deviations")
        _label(axes, "observed", (1, 0.445), (6, 0), MUTED)
        _name_y(axes, "density")
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(
            axes, f"Normal densities around 0 and 1; at 1 they are {plain(said.density_a)} and {plain(said.density_b)}."
        )


def intervals(study: Study) -> Markup:
    """Return the chart of the posterior against the width of the interval, from wide to narrow."""
    table, limit = study.tables["intervals"], study.metrics.hypotheses.posterior_b
    with chart("study-intervals", *SIZE, MARGINS) as axes:
        axes.set_xscale("log", base=2)
        axes.axhline(limit, color=EXACT, linewidth=1.4, dashes=DASHES)
        axes.plot(table["width"], table["posterior_b"], "o-", color=INK, markersize=4)
        _label(axes, f"ratio of densities: {plain(limit, 4)}", (table["width"][0], limit), (0, 6), EXACT)
        _label(axes, "prior: 0.5", (2.0, 0.5), (8, 2), MUTED)
        axes.set(ylim=(0.48, 0.66), xlabel="width of the interval (narrower to the right)")
        axes.set_xlim(1.25 * table["width"][0], 0.8 * table["width"][-1])
        ticks = [width for width in (16.0, 4.0, 1.0, 0.25, 1 / 16, 1 / 64, 1 / 256) if width >= table["width"][-1]]
        axes.set_xticks(ticks, [f"{tick:g}" if tick >= 0.25 else f"1/{round(1 / tick)}" for tick in ticks])
        _name_y(axes, "posterior of B")
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(axes, f"The posterior of B as the interval narrows, from 0.5 to {plain(limit, 4)}.")


def levels(study: Study) -> Markup:
    """Return the chart of the relative frequency of each level."""
    from matplotlib.ticker import MaxNLocator

    table, said = study.tables["levels"], study.metrics.levels
    with chart("study-levels", *SIZE, MARGINS) as axes:
        axes.bar(table["level"], table["probability"], 0.84, color=EXACT, alpha=0.6)
        axes.set_xlabel("level of a sub-pixel")
        _name_y(axes, "share of all sub-pixels")
        axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(axes, f"Shares of {count(said.n_levels)} levels; entropy {plain(said.entropy_bits)} bits.")


def collapse(study: Study) -> Markup:
    """Return the chart of both fits against the gradient step."""
    table, said = study.tables["collapse"], study.metrics.collapse
    with chart("study-collapse", *SIZE, MARGINS) as axes:
        axes.plot(table["step"], table["raw_bits"], color=BOUND)
        axes.plot(table["step"], table["dequantized_bits"], color=EXACT)
        last = float(table["step"][-1])
        low, high = min(said.raw_bits, 0.0), float(max(table["raw_bits"].max(), table["dequantized_bits"].max()))
        axes.set_ylim(low - 0.06 * (high - low), high + 0.16 * (high - low))
        _label(axes, f"on x + u: {plain(said.dequantized_bits)}", (last, said.dequantized_bits), (0, 7), EXACT, "right")
        middle = len(table["step"]) // 2
        _label(
            axes,
            f"on whole numbers:\n{plain(said.raw_bits, 1)}, and falling",
            (float(table["step"][middle]), float(table["raw_bits"][middle])),
            (-10, -40),
            BOUND,
            "right",
        )
        axes.axhline(0, color=MUTED, linewidth=1)
        _step_axis(axes, last)
        _name_y(axes, f"{MINUS}log₂ density, mean per sub-pixel")
        return to_svg(
            axes,
            f"Minus the mean log-density against the step: it ends at {plain(said.raw_bits, 1)} bits on whole numbers "
            f"and at {plain(said.dequantized_bits)} on dequantized ones.",
        )


def floor(study: Study) -> Markup:
    """Return the chart of the dequantized fit alone, which stays above the entropy."""
    table, said = study.tables["collapse"], study.metrics.collapse
    entropy, bits = study.metrics.levels.entropy_bits, table["dequantized_bits"]
    last = float(table["step"][-1])
    with chart("study-floor", *SIZE, MARGINS) as axes:
        reach = max(2.5 * (said.dequantized_bits - entropy), 0.05)
        axes.axhspan(entropy - reach, entropy, color=MUTED, alpha=0.14, linewidth=0)
        axes.axhline(entropy, color=INK, linewidth=1.6)
        axes.plot(table["step"], bits, color=EXACT)
        axes.plot(last, said.mass_bits, "D", color=BOUND, markersize=6)
        axes.set_ylim(entropy - 0.5 * reach, entropy + 1.5 * reach)
        _label(axes, f"entropy {plain(entropy)}: lower limit", (0, entropy), (4, -15), INK)
        _label(axes, f"{plain(said.dequantized_bits)}", (last, said.dequantized_bits), (0, 7), EXACT, "right")
        _step_axis(axes, last)
        _name_y(axes, "bits per sub-pixel")
        return to_svg(
            axes,
            f"The dequantized fit ends at {plain(said.dequantized_bits)} bits, its masses at {plain(said.mass_bits)}; "
            f"the entropy is {plain(entropy)}.",
        )


def masses(study: Study) -> Markup:
    """Return the chart of the density with the mass of each cell."""
    table, cells = study.tables["density"], study.tables["bound_by_level"]
    with chart("study-masses", *SIZE, MARGINS) as axes:
        axes.bar(cells["level"], cells["mass"], 1.0, align="edge", color=BOUND, alpha=0.28, edgecolor=PAPER)
        axes.plot(table["y"], table["density"], color=EXACT, linewidth=1.5)
        peak = int(np.argmax(table["density"]))
        top = float(table["density"][peak])
        _label(axes, "density p(y)", (float(table["y"][peak]), 0.94 * top), (8, 0), EXACT)
        largest = int(np.argmax(cells["mass"]))
        place = (float(cells["level"][largest]) + 1, float(cells["mass"][largest]))
        _label(axes, "mass Q(x):\nthe area", place, (4, 8), BOUND)
        axes.set(
            xlim=(0, float(cells["level"][-1]) + 1), ylim=(0, 1.06 * top), xlabel="y; the cell of level x is x to x + 1"
        )
        _name_y(axes, "density, mass per unit width")
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(axes, "A density with two narrow peaks and one broad hill, and the mass of each unit cell.")


def by_level(study: Study) -> Markup:
    """Return the chart of each level's mean log-density and log-mass."""
    cells, said = study.tables["bound_by_level"], study.metrics.bound
    with chart("study-by-level", *SIZE, MARGINS) as axes:
        axes.vlines(cells["level"], cells["mean_log_density"], cells["log_mass"], color=MUTED, linewidth=2)
        axes.plot(cells["level"], cells["log_mass"], "o", color=EXACT, markersize=8)
        hollow: Any = {"color": BOUND, "markersize": 8, "markerfacecolor": PAPER, "markeredgewidth": 2}
        axes.plot(cells["level"], cells["mean_log_density"], "o", **hollow)
        worst = int(np.argmax(cells["log_mass"] - cells["mean_log_density"]))
        level = float(cells["level"][worst])
        _label(axes, "log mass", (level, float(cells["log_mass"][worst])), (9, -1), EXACT)
        _label(axes, "mean log density", (level, float(cells["mean_log_density"][worst])), (9, -4), BOUND)
        axes.set(xlabel="level x")
        axes.margins(x=0.06, y=0.1)
        axes.set_xticks(cells["level"], [count(int(value)) for value in cells["level"]])
        _name_y(axes, "nats")
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(axes, f"For each of {said.n_levels} levels the mean log-density lies below the log-mass.")


def gap(study: Study) -> Markup:
    """Return the chart of the gap against K, with its errors and the leading order."""
    table, said = study.tables["bound_against_k"], study.metrics.bound
    sizes = table["n_samples"]
    with chart("study-gap", *SIZE, MARGINS) as axes:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")
        axes.plot(sizes, table["leading"], color=MUTED, linewidth=1.6, dashes=DASHES)
        bars: Any = {"color": BOUND, "linewidth": 2, "markersize": 5, "capsize": 0}
        axes.errorbar(sizes, table["gap"], 1.96 * table["gap_error"], fmt="o", **bars)
        axes.plot(1, said.gap_exact, "o", color=EXACT, markersize=11, markerfacecolor="none", markeredgewidth=1.6)
        middle = len(sizes) // 2
        place = (float(sizes[middle]), float(table["leading"][middle]))
        _label(axes, "CV² / 2K", place, (10, 6), MUTED)
        _label(axes, f"exact: {plain(said.gap_exact)}", (1, said.gap_exact), (18, 5), EXACT)
        _k_axis(axes, sizes)
        _name_y(axes, "gap to log Q(x), nats")
        last = plain(float(table["gap"][-1]), 5)
        label = f"The gap of the bound falls from {plain(said.gap_exact)} nats at K = 1 to {last} at the largest K."
        return to_svg(axes, label)


def coverage(study: Study) -> Markup:
    """Return the chart of the coverage of the estimated 95 % intervals against K."""
    table = study.tables["bound_against_k"]
    known = table["n_samples"] > 1
    sizes, share = table["n_samples"][known], 100 * table["coverage"][known]
    with chart("study-coverage", *SIZE, MARGINS) as axes:
        axes.set_xscale("log", base=2)
        axes.axhline(95, color=EXACT, linewidth=1.4, dashes=DASHES)
        error = 196 * table["coverage_error"][known]
        axes.errorbar(sizes, share, error, fmt="o-", color=BOUND, linewidth=1.6, markersize=5)
        axes.set_ylim(min(45.0, float(share.min()) - 5), 103)
        _label(axes, "nominal: 95 %", (float(sizes[0]), 95), (-4, 5), EXACT)
        _label(axes, f"{two_digits(float(share[0]))} %", (float(sizes[0]), float(share[0])), (9, -4), BOUND)
        _k_axis(axes, sizes)
        _name_y(axes, "coverage of the intervals, %")
        ends = f"{two_digits(float(share[0]))} % at K = {count(int(sizes[0]))}"
        last = f"{two_digits(float(share[-1]))} % at the largest K"
        return to_svg(axes, f"Coverage of nominal 95 % intervals: {ends}, {last}.")


def blocks(study: Study) -> Markup:
    """Return the chart of the mean word length per symbol against the block size."""
    table, entropy = study.tables["blocks"], study.metrics.levels.entropy_bits
    with chart("study-blocks", *SIZE, MARGINS) as axes:
        axes.axhline(entropy, color=INK, linewidth=1.6)
        for column, colour, name, shift in (
            ("shannon_bits", BOUND, "Shannon", 4),
            ("huffman_bits", EXACT, "Huffman", 5),
        ):
            axes.plot(table["block"], table[column], "o-", color=colour, markersize=6)
            place = (float(table["block"][0]), float(table[column][0]))
            _label(axes, f"{name} {plain(place[1])}", place, (8, shift), colour)
        highest = max(float(table["shannon_bits"].max()), entropy + 0.1)
        reach = highest - entropy
        _label(axes, f"entropy {plain(entropy)}", (float(table["block"][0]), entropy), (8, -15), INK)
        axes.set_ylim(entropy - 0.25 * reach, highest + 0.15 * reach)
        axes.set_xticks(table["block"], [count(int(value)) for value in table["block"]])
        axes.margins(x=0.08)
        axes.set_xlabel("symbols in a block")
        _name_y(axes, "bits per symbol")
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(axes, f"Mean word lengths per symbol fall towards the entropy of {plain(entropy)} bits.")


def price(study: Study) -> Markup:
    """Return the chart of each code's entropy and divergence as one bar, with the measured length of a message."""
    entropy, codes = study.metrics.levels.entropy_bits, study.codes
    with chart("study-price", *SIZE, (12.0, 46.0, 28.0, 40.0)) as axes:
        axes.grid(visible=False)
        for index, (name, code) in enumerate(codes):
            axes.barh(index, entropy, 0.34, color=EXACT, alpha=0.6)
            axes.barh(index, code.divergence_bits, 0.34, left=entropy, color=BOUND, alpha=0.6)
            axes.plot(code.message_bits, index, "D", color=INK, markersize=5)
            axes.text(0, index - 0.3, name, va="bottom", ha="left")
            _label(axes, plain(code.message_bits, 2), (max(code.message_bits, code.cross_entropy_bits), index), (9, -4))
        axes.axvline(entropy, color=INK, linewidth=1, dashes=DASHES)
        axes.set(yticks=[], ylim=(len(codes) - 0.6, -0.75), xlabel="bits per symbol")
        axes.set_xlim(0, 1.02 * max(*(code.cross_entropy_bits for _, code in codes), entropy + 0.1))
        axes.locator_params(axis="x", nbins=MAX_TICKS)
        axes.annotate(
            "code made for", (0, 1), (0, 10), xycoords="axes fraction", textcoords="offset points", color=MUTED
        )
        parts = ", ".join(f"{name} {plain(code.cross_entropy_bits)}" for name, code in codes)
        return to_svg(axes, f"Bits per symbol of codes made for: {parts}; the entropy is {plain(entropy)}.")


def _step_axis(axes: Axes, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.set_xlabel("gradient step")
    axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
    axes.locator_params(axis="y", nbins=MAX_TICKS)


def _k_axis(axes: Axes, sizes: np.ndarray) -> None:
    largest = int(math.log2(sizes[-1]))
    ticks = [2**power for power in range(0, largest + 1, math.ceil((largest + 1) / MAX_TICKS))]
    axes.set_xticks(ticks, [count(tick) for tick in ticks])
    axes.set_xlabel("K, samples of the noise")
