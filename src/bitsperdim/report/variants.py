"""The chart for one flow that was dequantized in several ways: paired differences with confidence intervals.

Invariants (``tests/report/test_ways.py``): the chart distinguishes better, worse and undecided
(``test_the_chart_tells_better_from_worse_and_from_neither``); a difference whose error is unknown is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bitsperdim.estimators.intervals import standard_errors
from bitsperdim.report.svg import BOUND, EXACT, INK, MUTED, PAPER, chart, shortened, to_svg
from bitsperdim.results.formatting import plain, with_error
from bitsperdim.results.variants import Way


def differences(name: str, ways: Sequence[Way], n_distinct: int) -> Markup:
    """Return the chart of paired differences from the reference, with simultaneous 95 % confidence intervals.

    The reference is the line at zero.

    Args:
        name: name of the chart.
        ways: ways of dequantizing; exactly one is the reference.
        n_distinct: number of distinct test images.
    """
    drawn = [way for way in ways if way.is_finite]
    interval = standard_errors(n_distinct, max(1, len(drawn)))
    reference = next(way.name for way in ways if way.difference is None)
    row = 54.0
    height = 66.0 + row * max(1, len(drawn))
    with chart(name, 350.0, height, (12.0, 16.0, 26.0, 40.0)) as axes:
        axes.grid(visible=False)
        axes.axvline(0, color=INK, linewidth=1.2)
        reach = max([abs(way.difference or 0) + interval * (way.difference_error or 0) for way in drawn], default=0.0)
        axes.set(xlim=(-1.15 * (reach or 1), 1.15 * (reach or 1)), ylim=(max(1, len(drawn)) - 0.4, -0.75), yticks=[])
        for index, way in enumerate(drawn):
            value, error = way.difference or 0.0, interval * (way.difference_error or 0.0)
            colour = BOUND if value - error > 0 else EXACT if value + error < 0 else MUTED
            axes.plot((value - error, value + error), (index, index), color=colour, linewidth=2.5)
            axes.plot(value, index, "o", color=colour, markersize=8, markerfacecolor=PAPER, markeredgewidth=2)
            shown, deviation = with_error(value, way.difference_error or 0.0)
            text = f"{shortened(way.name, 24)} {'+' if value > 0 else ''}{shown} ± {deviation}"
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
            axes.text(-1.13 * (reach or 1), index - 0.38, text, ha="left", va="center", bbox=box)
        axes.set_xlabel("bits/dim above the reference")
        axes.locator_params(axis="x", nbins=5)
        axes.annotate(
            f"0: {shortened(reference, 24)}",
            (0, 1),
            (0, 10),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=MUTED,
            ha="center",
        )
        parts = ", ".join(f"{way.name} {plain(way.difference or 0.0)}" for way in drawn)
        return to_svg(axes, f"Bits per dimension above those of {reference}, paired image by image: {parts}.")
