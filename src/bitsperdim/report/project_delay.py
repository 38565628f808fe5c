"""The charts of the study ``project_delay``, by the names that its template uses.

Exact values are blue, random estimates are orange; every line is labelled. The charts show tables of
``results/project_delay`` and compute only the ends of intervals.

Invariants (``tests/report/test_delay.py``): every chart has a text alternative that describes it
(``test_every_chart_says_what_it_shows``); charts also work for estimates without a late draw or with infinite
variance, and never draw such an estimate as a zero (``test_what_is_unknown_breaks_no_chart``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from bitsperdim.estimators.paired import INTERVAL
from bitsperdim.report.svg import BOUND, EXACT, INK, MUTED, PAPER, chart, shortened, to_svg
from bitsperdim.results.formatting import count, plain, two_digits
from bitsperdim.results.project_delay import SUPERSCRIPTS, Delay, ProposalMetrics

if TYPE_CHECKING:  # matplotlib is imported only when something is drawn
    from matplotlib.axes import Axes

SIZE = (350.0, 250.0)
MARGINS = (46.0, 16.0, 28.0, 40.0)
SMALL = (350.0, 200.0)
ROW = 46.0
DASHES = (3, 3)
REACH = 4.0  # estimates are drawn from a quarter to four times the exact probability


def all_charts(delay: Delay) -> dict[str, Markup]:
    """Return all charts of the study, by name; the names of the charts of estimates end with the proposal's key."""
    return {
        "plan": plan(delay),
        "density": density(delay),
        "tail": tail(delay),
        **{f"estimates_{key}": estimates(delay, key, item) for key, item in delay.proposals},
        "reduction": reduction(delay),
        "coverage": coverage(delay),
        "durations": durations(delay),
    }


def plan(delay: Delay) -> Markup:
    """Return the chart of the tasks at their mean durations, as bars over time."""
    tasks = delay.metrics.tasks
    end = max(task.finish for task in tasks)
    with chart("delay-plan", 350.0, 270.0, (30.0, 78.0, 28.0, 40.0)) as axes:
        axes.grid(visible=False)
        for row, task in enumerate(tasks):
            colour = BOUND if task.is_critical else EXACT
            axes.barh(row, task.mean, 0.56, left=task.start, color=colour, alpha=0.75)
            waits = f"after {', '.join(map(str, task.waits_for))}" if task.waits_for else ""
            _label(axes, waits, (task.finish, row), (5, -4), MUTED)
        axes.set(ylim=(len(tasks) - 0.4, -0.6), xlim=(0, end), xlabel="time, at the mean durations")
        axes.set_yticks(range(len(tasks)), [str(task.task) for task in tasks])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
        axes.annotate("task", (0, 1), (-22, 10), xycoords="axes fraction", textcoords="offset points", color=MUTED)
        path = ", ".join(str(task.task) for task in delay.critical)
        return to_svg(axes, f"The plan of {len(tasks)} tasks; the critical path {path} ends at {plain(end, 1)}.")


def density(delay: Delay) -> Markup:
    """Return the chart of the density of T, with the tail shaded."""
    table, said = delay.tables["distribution"], delay.metrics
    late = table["t"] >= said.deadline - 1e-9
    with chart("delay-density", *SIZE, MARGINS) as axes:
        axes.plot(table["t"], table["density"], color=EXACT)
        axes.fill_between(table["t"][late], table["density"][late], color=BOUND, linewidth=0)
        axes.axvspan(said.deadline, float(table["t"][-1]), color=BOUND, alpha=0.13, linewidth=0)
        axes.axvline(said.exact.mean, color=MUTED, linewidth=1.2, dashes=DASHES)
        top = float(table["density"].max())
        _label(axes, f"mean {plain(said.exact.mean, 1)}", (said.exact.mean, 1.03 * top), (6, 0), MUTED)
        _label(axes, f"late: {said.deadline:g} or more", (said.deadline, 0.62 * top), (-6, 0), BOUND, "right")
        axes.set(ylim=(0, 1.12 * top), xlim=(0, float(table["t"][-1])), xlabel="T, duration of the project")
        _name_y(axes, "density of T")
        axes.locator_params(axis="y", nbins=5)
        return to_svg(axes, f"The density of T, around {plain(said.exact.mean, 1)}; the tail is too thin to be seen.")


def tail(delay: Delay) -> Markup:
    """Return the chart of P(T >= t) on a logarithmic axis, with the late part shaded."""
    table, said = delay.tables["distribution"], delay.metrics
    late = table["t"] >= said.deadline - 1e-9
    floor = float(table["tail"][-1])
    with chart("delay-tail", *SIZE, MARGINS) as axes:
        axes.set_yscale("log")
        axes.plot(table["t"], table["tail"], color=EXACT)
        axes.fill_between(table["t"][late], table["tail"][late], floor / 3, color=BOUND, alpha=0.28, linewidth=0)
        axes.plot(said.deadline, said.exact.probability, "o", color=BOUND, markersize=8, markerfacecolor=PAPER)
        text = f"P(T ≥ {said.deadline:g}) = {plain(delay.in_units(said.exact.probability), 4)} · {delay.unit}"
        _label(axes, text, (float(table["t"][-1]), said.exact.probability), (0, 62), BOUND, "right")
        axes.set(ylim=(floor / 3, 3), xlim=(0, float(table["t"][-1])), xlabel="t")
        _few_powers(axes)
        _name_y(axes, "P(T ≥ t)")
        return to_svg(axes, f"The probability of T ≥ t falls from 1 to {floor:.1e}; at {said.deadline:g} it is {text}.")


def estimates(delay: Delay, key: str, item: ProposalMetrics) -> Markup:
    """Return the chart of one proposal's estimates with their estimated error bars, and the band of exact errors."""
    rows, probability = delay.of_proposals["estimates"][key], delay.metrics.exact.probability
    low, high = probability / REACH, probability * REACH
    with chart(f"delay-estimates-{key}", *SMALL, (46.0, 16.0, 26.0, 38.0)) as axes:
        axes.set(xscale="log", yscale="log")
        sizes = np.array([row["n_samples"] for row in rows])
        exact = np.array([row["exact_error"] for row in rows])
        if np.isfinite(exact).all():
            band = (np.maximum(probability - INTERVAL * exact, low), np.minimum(probability + INTERVAL * exact, high))
            axes.fill_between(sizes, *band, color=EXACT, alpha=0.16, linewidth=0)
        axes.axhline(probability, color=EXACT, linewidth=1.6)
        for row in rows:
            n, value, error = row["n_samples"], row["probability"], row["standard_error"]
            if not row["n_late"]:
                axes.plot(n, low * 1.2, "x", color=BOUND, markersize=7, markeredgewidth=2)
                continue
            ends = np.clip((value - INTERVAL * error, value + INTERVAL * error), low, high)
            axes.plot((n, n), ends, color=BOUND, linewidth=2)
            inside = float(np.clip(value, low * 1.07, high / 1.07))
            marker = "o" if inside == value else "v" if value < inside else "^"
            axes.plot(n, inside, marker, color=BOUND, markersize=5)
        if not rows[0]["n_late"]:
            _label(axes, "no draw is late", (rows[0]["n_samples"], low * 1.2), (-4, 9), BOUND)
        axes.set(ylim=(low, high), xlim=(sizes[0] / 1.6, sizes[-1] * 1.6), xlabel="n, draws")
        _sizes(axes, sizes)
        ticks = [probability / 2, probability, 2 * probability]
        axes.set_yticks(ticks, ["P / 2", "P", "2 P"])
        axes.yaxis.set_minor_locator(_fixed([]))
        last = f"{plain(delay.in_units(item.probability))} ± {two_digits(delay.in_units(item.standard_error))}"
        said = f"the last is {last} times {delay.unit}" if item.n_late else "the last has no late draw"
        return to_svg(axes, f"Estimates against n, durations drawn with {item.label}: {said}.")


def reduction(delay: Delay) -> Markup:
    """Return the chart of variance reductions: exact values as bars, measured values as diamonds."""
    listed = delay.proposals
    shown = [value for _, item in listed for value in (item.variance_reduction, item.variance_reduction_exact) if value]
    low, high = min(0.3, 0.5 * min(shown)), 6 * max(shown)
    with chart("delay-reduction", 350.0, 66.0 + ROW * len(listed), (12.0, 16.0, 26.0, 40.0)) as axes:
        axes.grid(visible=False)
        axes.set_xscale("log")
        for row, (_, item) in enumerate(listed):
            axes.text(low, row - 0.26, shortened(item.label, 40), va="bottom", ha="left")
            exact = item.variance_reduction_exact
            text = plain(exact, 0)
            if item.variance_is_infinite:
                _label(axes, "none: infinite variance", (low, row), (2, -4), BOUND)
            else:
                axes.barh(row, exact - low, 0.36, left=low, color=EXACT, alpha=0.6)
            if item.n_late and not item.variance_is_infinite:
                axes.plot(item.variance_reduction, row, "D", color=BOUND, markersize=6)
                _label(axes, text, (max(exact, item.variance_reduction), row), (9, -4), EXACT)
        axes.set(
            yticks=[], ylim=(len(listed) - 0.5, -0.8), xlim=(low, high), xlabel="worth of one draw, in naive draws"
        )
        _few_powers(axes, "x")
        parts = "; ".join(f"{item.label} {plain(item.variance_reduction_exact, 0)}" for _, item in listed)
        return to_svg(axes, f"Exact variance reduction: {parts}.")


def coverage(delay: Delay) -> Markup:
    """Return the chart of the coverage of the intervals, one row for each proposal and one ring for each n."""
    listed = delay.proposals
    with chart("delay-coverage", 350.0, 66.0 + ROW * len(listed), (12.0, 20.0, 26.0, 40.0)) as axes:
        axes.grid(visible=False)
        axes.axvline(95, color=EXACT, linewidth=1.4, dashes=DASHES)
        for row, (key, item) in enumerate(listed):
            axes.text(0, row - 0.26, shortened(item.label, 40), va="bottom", ha="left")
            axes.plot((0, 100), (row, row), color=MUTED, linewidth=0.8, alpha=0.6)
            held = delay.of_proposals["coverage"][key]
            for place, one in enumerate(held):
                style: Any = {"color": BOUND, "markersize": 4.5 + 2.5 * place, "markerfacecolor": PAPER}
                axes.plot(100 * one["coverage"], row, "o", markeredgewidth=2, **style)
        axes.set(yticks=[], ylim=(len(listed) - 0.5, -0.8), xlim=(-2, 102), xlabel="% of intervals that contain P")
        axes.annotate(
            "nominal: 95",
            (95, 1),
            (0, 10),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=EXACT,
            ha="center",
        )
        last = count(delay.replicate_sizes[-1])
        parts = "; ".join(
            f"{item.label} {plain(100 * delay.of_proposals['coverage'][key][-1]['coverage'], 0)}"
            for key, item in listed
        )
        return to_svg(axes, f"Percentage of nominal 95 % intervals that contain P, at n = {last}: {parts}.")


def durations(delay: Delay) -> Markup:
    """Return the chart of four mean durations of each task.

    These are its true mean, its mean given a delay, and the means of the cross-entropy method and of least variance.
    """
    table = delay.tables["durations"]
    with chart("delay-durations", 350.0, 66.0 + ROW * 5, MARGINS) as axes:
        axes.set_yscale("log")
        axes.vlines(table["task"], table["mean"], table["given_delay"], color=MUTED, linewidth=2)
        axes.plot(table["task"], table["mean"], "_", color=INK, markersize=13, markeredgewidth=2.5)
        axes.plot(table["task"], table["given_delay"], "o", color=EXACT, markersize=9)
        style: Any = {"markerfacecolor": PAPER, "markeredgewidth": 1.8}
        axes.plot(table["task"], table["cross_entropy"], "o", color=BOUND, markersize=5, **style)
        axes.plot(table["task"], table["least_variance"], "D", color=INK, markersize=4)
        axes.set_xticks(table["task"], [count(int(task)) for task in table["task"]])
        axes.margins(x=0.06, y=0.12)
        axes.set_xlabel("task")
        axes.yaxis.set_major_locator(_fixed([2, 5, 10, 20, 50]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(_fixed([]))
        _name_y(axes, "mean duration")
        longest = int(np.argmax(table["given_delay"] / table["mean"]))
        task, before, after = (float(table[name][longest]) for name in ("task", "mean", "given_delay"))
        return to_svg(
            axes,
            f"Mean duration of each task; given a delay, task {task:g} takes {plain(after, 1)} instead of {before:g}.",
        )


def _label(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], colour: str = INK, ha: str = "left"
) -> None:
    """Write a text beside a point."""
    style: Any = {"textcoords": "offset points", "color": colour, "ha": ha, "va": "baseline"}
    axes.annotate(text, at, shift, **style)


def _fixed(ticks: list[float]) -> Any:  # noqa: ANN401 - a matplotlib locator; matplotlib is imported late
    from matplotlib.ticker import FixedLocator

    return FixedLocator(ticks)


def _powers(value: float, _: object = None) -> str:
    """Return a power of ten as text: 1 to 10,000 written out, all others as powers such as 10⁻⁴."""
    exponent = round(float(np.log10(value)))
    return f"{10**exponent:,d}" if 0 <= exponent <= 4 else "10" + str(exponent).translate(SUPERSCRIPTS)


def _few_powers(axes: Axes, which: str = "y") -> None:
    from matplotlib.ticker import LogLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(_powers)
    axis.set_minor_locator(_fixed([]))


def _sizes(axes: Axes, sizes: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator

    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(lambda value, _: count(round(value)))
    axes.xaxis.set_minor_locator(_fixed([]))
    if np.log10(sizes[-1] / sizes[0]) < 1:
        axes.set_xticks(sizes, [count(int(size)) for size in sizes])


def _name_y(axes: Axes, name: str) -> None:
    """Write the name of the y axis horizontally above the axis."""
    axes.annotate(name, (0, 1), (-38, 10), xycoords="axes fraction", textcoords="offset points", color=MUTED)
