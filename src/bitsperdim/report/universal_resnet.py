"""The charts of the study ``universal_resnet``, by the names that its template uses.

Blue marks what a network classifies as inside, and constructed networks; orange marks trained networks. The charts
show tables and arrays of ``results/universal_resnet`` and compute nothing.

Invariants (``tests/report/test_resnet.py``): every chart has a text alternative that describes it
(``test_every_chart_says_what_it_shows``); the same results give the same drawing
(``test_a_rerun_is_byte_identical``); charts also work for a network that gives the same answer everywhere
(``test_regions_of_one_side_break_no_chart``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from bitsperdim.report.svg import BOUND, EXACT, INK, MUTED, PAPER, chart, label, name_y, to_svg
from bitsperdim.results.formatting import MINUS, count, plain
from bitsperdim.results.universal_resnet import (
    BALL_KINDS,
    DEPTHS,
    DRAWN,
    FUNCTIONS,
    NETS,
    PREDICATES,
    RINGS,
    ResnetStudy,
)

if TYPE_CHECKING:  # matplotlib is imported only when something is drawn
    from matplotlib.axes import Axes

SIZE = (350.0, 250.0)
MARGINS = (46.0, 16.0, 28.0, 40.0)
SQUARE = (58.0, 58.0, 8.0, 8.0)  # margins that make the axes of a chart of SIZE square
PANEL, PANEL_MARGIN = 190.0, 3.0
PERCENT = "\N{NO-BREAK SPACE}%"
DASHES = (3, 3)
INSIDE = 0.30  # opacity of a filled region
MAX_TICKS = 6
HEIGHTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def all_charts(study: ResnetStudy) -> dict[str, Markup]:
    """Return all charts of the study, by name."""
    return {
        "steps": _target(study),
        "staircase": _stream(study, "staircase", "coordinate 1", "The staircase: one level for each cell."),
        "half": _stream(study, "half", "coordinate 1", "Half of the levels have been moved to their final places."),
        "moved": _stream(study, "moved", "coordinate 1", "All levels have been moved; the ramps overshoot."),
        "network": _network(study),
        "levels": _levels(study),
        "disc": _disc(study),
        **{f"errors_{name}": _errors(study, name) for name in FUNCTIONS},
    }


def predicate_panels(study: ResnetStudy) -> list[tuple[str, str, list[tuple[str, Markup]]]]:
    """Return for each predicate its name, its rule and its panels with captions: the points, then the networks."""
    found = []
    for place, (predicate, rule) in enumerate(PREDICATES.items()):
        with chart(f"resnet-{predicate}-points", PANEL, PANEL, (PANEL_MARGIN,) * 4) as axes:
            _frame(axes, 1.0)
            _rings(axes, RINGS[predicate])
            _points(axes, study.regions["points"], study.regions["labels"][place] > 0, 2.6)
            panels = [("the points", _panel(axes, f"Points of the square, {predicate}; {rule}."))]
        for index, name in enumerate(DRAWN):
            score = study.metrics.accuracy[name].scores[place]
            region = study.regions["essay"][index, place]
            with chart(f"resnet-{predicate}-{name}", PANEL, PANEL, (PANEL_MARGIN,) * 4) as axes:
                _frame(axes, 1.0)
                _region(axes, region, 1.0)
                _rings(axes, RINGS[predicate])
                said = f"{NETS[name]}: {plain(score.best, 1)}{PERCENT}"
                panels.append(
                    (said, _panel(axes, f"The region that the best network classifies as inside, {predicate}; {said}."))
                )
        found.append((predicate, rule, panels))
    return found


def ball_panels(study: ResnetStudy) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Return for each kind of network its panels with captions, one for each depth."""
    found = []
    for row, (kind, words) in enumerate(BALL_KINDS.items()):
        panels = []
        for column, depth in enumerate(DEPTHS):
            said = study.metrics.ball[f"{kind}_{depth}"]
            with chart(f"resnet-ball-{kind}-{depth}", PANEL, PANEL, (PANEL_MARGIN,) * 4) as axes:
                _frame(axes, 4.0)
                _region(axes, study.regions["ball"][row * len(DEPTHS) + column], 4.0)
                _points(axes, study.regions["ball_points"], study.regions["ball_labels"] > 0, 1.8)
                unit = "layer" if kind == "dense_2" else "block"
                text = f"{depth} {unit}{'' if depth == 1 else 's'}: {said.n_closed} of {said.n_nets} closed"
                panels.append((text, _panel(axes, f"Region of the ball for {words} of depth {depth}; {text}.")))
        found.append((words, panels))
    return found


def _frame(axes: Axes, reach: float) -> None:
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)


def _region(axes: Axes, values: np.ndarray, reach: float) -> None:
    """Fill the region with positive values, and draw its border if both signs occur."""
    along = np.linspace(-reach, reach, len(values))
    z = values.astype(np.float64)
    if (z > 0).any():
        axes.contourf(along, along, z, levels=[0, 128], colors=[EXACT], alpha=INSIDE)
    if (z > 0).any() and (z < 0).any():
        axes.contour(along, along, z, levels=[0], colors=[EXACT], linewidths=1.4)


def _rings(axes: Axes, radii: Sequence[float]) -> None:
    angle = np.linspace(0, 2 * np.pi, 73)
    for radius in radii:
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=MUTED, linewidth=1, dashes=DASHES)


def _points(axes: Axes, x: np.ndarray, inside: np.ndarray, size: float) -> None:
    """Draw each class as a single path of dots: thousands of markers would be as many SVG elements."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    for chosen, colour in ((~inside, BOUND), (inside, EXACT)):
        vertices = np.repeat(x[chosen].astype(np.float64), 2, 0)
        path = Path(vertices, np.tile([Path.MOVETO, Path.LINETO], int(chosen.sum())))
        path.should_simplify = False
        axes.add_patch(PathPatch(path, fill=False, edgecolor=colour, linewidth=size, capstyle="round"))


def _panel(axes: Axes, said: str) -> Markup:
    """Return a panel whose coordinates have one decimal: panels are small, and there are many."""
    svg = str(to_svg(axes, said))
    return Markup(re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d)\d+", r"\1", match[0]), svg))


def _target(study: ResnetStudy) -> Markup:
    table = study.tables["derivation"]
    with chart("resnet-steps", *SIZE, MARGINS) as axes:
        axes.plot(table["x"], table["f"], color=MUTED, linewidth=1.6, dashes=DASHES)
        axes.plot(table["x"], table["steps"], color=INK, linewidth=1.8)
        right = table["x"] > 0.5
        peak = int(np.argmax(np.where(right, table["f"], -np.inf)))
        label(axes, "f", (float(table["x"][peak]), float(table["f"][peak])), (0, 5), MUTED, "center")
        low = float(min(table["steps"].min(), table["f"].min()))
        label(axes, "one value per cell", (0.0, low), (0, -18), INK, "center")
        axes.set_ylim(low - 0.4, 1.15)
        _x_axis(axes, table["x"])
        name_y(axes, "f, and its step function")
        return to_svg(axes, "A smooth function on an interval and the step function of its cells.")


def _stream(study: ResnetStudy, column: str, unit: str, said: str) -> Markup:
    table = study.tables["derivation"]
    values = table[column]
    with chart(f"resnet-{column}", *SIZE, MARGINS) as axes:
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.plot(table["x"], values, color=EXACT)
        _x_axis(axes, table["x"])
        name_y(axes, unit)
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        axes.yaxis.set_major_formatter(lambda value, _: plain(value, 0))
        return to_svg(axes, said)


def _network(study: ResnetStudy) -> Markup:
    table = study.tables["derivation"]
    with chart("resnet-network", *SIZE, MARGINS) as axes:
        axes.plot(table["x"], table["f"], color=MUTED, linewidth=1.6, dashes=DASHES)
        axes.plot(table["x"], table["network"], color=EXACT)
        axes.set_ylim(float(min(table["steps"].min(), table["f"].min())) - 0.4, 1.15)
        _x_axis(axes, table["x"])
        name_y(axes, "f, and the network")
        return to_svg(
            axes, "The finished network and the function: equal at the centres of cells, with large errors on ramps."
        )


def _levels(study: ResnetStudy) -> Markup:
    table = study.tables["levels"]
    along = np.unique(table["x1"])
    side = float(along[1] - along[0])
    with chart("resnet-levels", *SIZE, SQUARE) as axes:
        reach = float(along[-1]) + side / 2
        _frame(axes, reach)
        highest = float(table["level"].max())
        for x1, x2, level, value in zip(*(table[name] for name in ("x1", "x2", "level", "value")), strict=True):
            colour = EXACT if value > 0.5 else MUTED
            alpha = 0.12 + 0.5 * level / highest
            axes.bar(x1, side, side, bottom=x2 - side / 2, color=colour, alpha=alpha, linewidth=0)
            axes.text(x1, x2, count(int(level)), ha="center", va="center", fontsize=9.5)
        _rings(axes, (1.0,))
        return to_svg(
            axes, f"A square of {count(int(highest))} cells, each with its own level; cells of the disc are blue."
        )


def _disc(study: ResnetStudy) -> Markup:
    said = study.metrics.constructed["disc"]
    with chart("resnet-disc", *SIZE, SQUARE) as axes:
        _frame(axes, 2.0)
        _region(axes, study.regions["disc"], 2.0)
        _rings(axes, (1.0,))
        return to_svg(
            axes,
            f"The region found by {count(said.n_blocks)} constructed blocks, and the unit disc; "
            f"{plain(100 * said.close_share, 2)} % of the square is classified correctly.",
        )


def _errors(study: ResnetStudy, name: str) -> Markup:
    """Return the chart of the L1 error against the number of blocks.

    It shows constructed networks, those with joined levels if their numbers of blocks differ, each trained seed, and
    the best trained network.
    """
    with chart(f"resnet-errors-{name}", *SIZE, MARGINS) as axes:
        axes.set(xscale="log", yscale="log")
        axes.minorticks_off()  # a range below one decade would also get labels at minor ticks
        rows, joined = study.errors(name, join=False), study.errors(name, join=True)
        if [row["n_blocks"] for row in joined] != [row["n_blocks"] for row in rows]:
            axes.plot(
                *_xy(joined), "o-", color=EXACT, markersize=5, markerfacecolor=PAPER, dashes=DASHES, linewidth=1.6
            )
        axes.plot(*_xy(rows), "o-", color=EXACT, markersize=5)
        trained, best = study.errors_trained(name), study.best_trained(name)
        axes.plot(*_xy(trained), "o", color=BOUND, markersize=4, markerfacecolor="none", markeredgewidth=1)
        axes.plot(*_xy(best), "-", color=BOUND)
        low, high = (f(float(row["l1"]) for row in [*rows, *joined, *trained]) for f in (min, max))
        axes.set_ylim(low / 1.5, high * 1.6)
        sizes = [float(row["n_blocks"]) for row in [*rows, *joined, *trained]]
        left, right = min(sizes) / 1.3, max(sizes) * 1.3
        axes.set_xlim(left, right)
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000) if left <= tick <= right]
        axes.set_xticks(ticks, [count(tick) for tick in ticks])
        heights = [tick for tick in HEIGHTS if low / 1.5 <= tick <= high * 1.6]
        axes.set_yticks(heights, [f"{tick:g}" for tick in heights])
        axes.set_xlabel("one-neuron blocks")
        name_y(axes, "L1 error")
        last, few = rows[-1], best[-1]
        return to_svg(
            axes,
            f"L1 error against blocks for {FUNCTIONS[name]}: constructed {plain(float(last['l1']), 4)} with "
            f"{count(int(last['n_blocks']))}, the best trained {plain(float(few['l1']), 4)} with "
            f"{count(int(few['n_blocks']))}.",
        )


def _xy(rows: Sequence[dict[str, str | float]]) -> tuple[list[float], list[float]]:
    return [float(row["n_blocks"]) for row in rows], [float(row["l1"]) for row in rows]


def _x_axis(axes: Axes, x: np.ndarray) -> None:
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_xticks([-1.0, -0.5, 0.0, 0.5, 1.0], [f"{MINUS}1", f"{MINUS}0.5", "0", "0.5", "1"])
    axes.set_xlabel("x")
