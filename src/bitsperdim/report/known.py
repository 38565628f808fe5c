"""The charts of the study ``known``, by the names that its template uses.

Exact values are blue, bounds are orange; every row is labelled with its name.

Invariants (``tests/report/test_known.py``): every chart has a text alternative that describes it
(``test_every_chart_says_what_it_shows``); a bar is as long as its interval (``test_a_bar_is_as_long_as_its_interval``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from bitsperdim.estimators.paired import INTERVAL
from bitsperdim.report.svg import BOUND, EXACT, INK, MUTED, PAPER, chart, shortened, to_svg
from bitsperdim.results.formatting import plain, with_error
from bitsperdim.results.known import ESTIMATORS, MODELS, EstimateRow, KnownTruths, SourceMetrics

if TYPE_CHECKING:  # matplotlib is imported only when something is drawn
    from matplotlib.axes import Axes

WIDTH, ROW = 350.0, 46.0
MARGINS = (12.0, 16.0, 30.0, 40.0)
BIAS_ROW, BIAS_MARGINS, BIAS_STEP = 60.0, (12.0, 16.0, 14.0, 40.0), 0.15
COLOURS = {"bound": BOUND, "jackknife": EXACT, "extrapolation": INK}
SHAPES = {"bound": "o", "jackknife": "s", "extrapolation": "D"}


def all_charts(study: KnownTruths) -> dict[str, Markup]:
    """Return all charts of the study, by name."""
    charts = {f"excess_{name}": excess(name, source) for name, source in study.metrics.excess.sources.items()}
    return {**charts, "bias": bias(study.most_samples)}


def excess(name: str, source: SourceMetrics) -> Markup:
    """Return the chart of each model's bits/dim above the truth, with intervals; an infinite excess is written out."""
    models = source.ranked
    independent = source.independent_bpd - source.truth_bpd
    finite = [model for _, model in models if math.isfinite(model.excess_bpd)]
    ends = [model.excess_bpd + INTERVAL * model.excess_bpd_standard_error for model in finite]
    starts = [model.excess_bpd - INTERVAL * model.excess_bpd_standard_error for model in finite]
    high, low = max([independent, *ends]), min([0.0, *starts])
    reach = (high - low) or 1.0
    left = low - 0.04 * reach
    with chart(f"known-excess-{name}", WIDTH, 74 + ROW * len(models), MARGINS) as axes:
        axes.grid(visible=False)
        axes.axvline(0, color=INK, linewidth=1.4)
        axes.axvline(independent, color=MUTED, linewidth=1.2, dashes=(3, 3))
        axes.set(xlim=(left, high + 0.06 * reach), ylim=(len(models) - 0.5, -0.8), yticks=[])
        for index, (model_name, model) in enumerate(models):
            value, error = model.excess_bpd, model.excess_bpd_standard_error
            words = f"{shortened(model_name, 20)} {model.sign}"
            if math.isfinite(value):
                _interval(axes, index, value, INTERVAL * error, model.kind == "exact")
                words = " ".join((words, " ± ".join(with_error(value, error))))
            else:
                words = f"{words} {plain(value)}: an image is impossible"
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
            axes.text(low + 0.01 * reach, index - 0.42, words, ha="left", va="center", bbox=box)
        axes.set_xlabel("bits/dim above the truth")
        axes.locator_params(axis="x", nbins=5)
        _above(axes, 0.0, f"truth {plain(source.truth_bpd)}", INK, "left")
        _above(axes, independent, "independent sub-pixels", MUTED, "right")
        parts = ", ".join(f"{model_name} {plain(model.excess_bpd)}" for model_name, model in models)
        return to_svg(axes, f"Bits per dimension above the truth, {plain(source.truth_bpd)}: {parts}.")


def bias(rows: Sequence[EstimateRow]) -> Markup:
    """Return the chart of the bias of each model's estimators at one K, with intervals."""
    numbers = [
        [(getattr(row, f"{name}_bias"), INTERVAL * getattr(row, f"{name}_bias_error")) for name in ESTIMATORS]
        for row in rows
    ]
    finite = [pair for three in numbers for pair in three if all(map(math.isfinite, pair))]
    low = min([0.0, *(value - error for value, error in finite)])
    high = max([0.0, *(value + error for value, error in finite)])
    reach = (high - low) or 1.0
    with chart("known-bias", WIDTH, 60 + BIAS_ROW * len(rows), BIAS_MARGINS) as axes:
        axes.grid(visible=False)
        axes.axvline(0, color=INK, linewidth=1.4)
        axes.set(xlim=(low - 0.05 * reach, high + 0.05 * reach), ylim=(len(rows) - 0.35, -0.75), yticks=[])
        for index, (row, three) in enumerate(zip(rows, numbers, strict=True)):
            for place, (name, (value, error)) in enumerate(zip(ESTIMATORS, three, strict=True)):
                y, colour = index + BIAS_STEP * (place - 0.5), COLOURS[name]
                axes.plot((value - error, value + error), (y, y), color=colour, linewidth=2)
                axes.plot(value, y, SHAPES[name], color=colour, markersize=5, markerfacecolor=PAPER)
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
            axes.text(low - 0.04 * reach, index - 0.4, MODELS[row.model], ha="left", va="center", bbox=box)
        axes.set_xlabel("nats above the known log P(x)")
        axes.locator_params(axis="x", nbins=5)
        parts = ", ".join(f"{MODELS[row.model]} {plain(row.bound_bias, 4)}" for row in rows)
        return to_svg(axes, f"Bias of the estimators at the largest K, in nats; bias of the bound: {parts}.")


def _interval(axes: Axes, y: float, value: float, error: float, is_exact: bool) -> None:
    """Draw a value with its interval: filled if it is exact, hollow if it is a bound."""
    colour = EXACT if is_exact else BOUND
    fill = colour if is_exact else PAPER
    axes.plot((value - error, value + error), (y, y), color=colour, linewidth=2.5)
    axes.plot(value, y, "o", color=colour, markersize=8, markerfacecolor=fill, markeredgewidth=2)


def _above(axes: Axes, x: float, text: str, colour: str, ha: str) -> None:
    """Write a text above a vertical line."""
    place: dict[str, object] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(text, (x, 1), (0, 10), color=colour, ha=ha, **place)  # type: ignore[arg-type]
