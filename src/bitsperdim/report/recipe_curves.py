"""Training curves of the committed recipes beside those of this report, for images of the same kind.

A curve is drawn by the number of training images presented, which is the same on every machine. Published numbers are
horizontal lines. The curves are those of validation images, and published numbers those of test images.

Invariants (``tests/report/test_recipe_curves.py``): a long curve keeps its ends and its shape
(``test_a_long_curve_is_thinned``); labels do not overlap (``test_labels_keep_their_distance``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from bitsperdim.recipes.curves import Curve
from bitsperdim.report.content import ModelReport
from bitsperdim.report.published import PublishedNumber
from bitsperdim.report.svg import BOUND, EXACT, FONT_SIZE, MUTED, chart, label, name_y, shortened, to_svg
from bitsperdim.results.formatting import count, plain

WIDTH, HEIGHT = 860.0, 400.0
MARGINS = (56.0, 250.0, 28.0, 44.0)
N_POINTS = 200  # of a curve, at most
ABOVE = 1.2  # the largest bits/dim drawn, as a multiple of the smallest
LINE = 1.25 * FONT_SIZE  # pixels between two labels


def thinned(n_presented: np.ndarray, bpd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most N_POINTS points of a curve, both ends among them, spaced evenly on a logarithmic axis."""
    if len(n_presented) <= N_POINTS:
        return n_presented, bpd
    places = np.geomspace(n_presented[0], n_presented[-1], N_POINTS)
    index = np.unique([*np.searchsorted(n_presented, places[:-1]), len(n_presented) - 1])
    return n_presented[index], bpd[index]


def spread(places: Sequence[float], distance: float) -> list[float]:
    """Return places that are at least ``distance`` apart, in the order of ``places`` and near them."""
    order = np.argsort(places)
    moved = [places[i] for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + distance)
    shift = (moved[-1] - places[order[-1]]) / 2 if len(moved) else 0.0  # up as far as down
    found = [0.0] * len(moved)
    for i, place in zip(order, moved, strict=True):
        found[i] = place - shift
    return found


def curves(
    committed: Sequence[Curve], models: Sequence[ModelReport], published: Sequence[PublishedNumber]
) -> Markup | None:
    """Return the chart of all curves; None if no recipe has a curve for these images.

    Args:
        committed: curves of the recipes.
        models: models of the report, whose own curves are drawn too.
        published: published numbers for these images.
    """
    if not committed:
        return None
    own = [curve for model in models if not model.is_closed_form for curve in _own(model)]
    drawn = [(curve, MUTED, 1.5) for curve in committed] + [(curve, EXACT, 2.5) for curve in own]
    lowest = min([float(curve.bpd.min()) for curve, *_ in drawn] + [number.bpd for number in published])
    highest = max([ABOVE * lowest] + [1.02 * float(curve.bpd[-1]) for curve, *_ in drawn])
    lines = [number for number in published if number.bpd < highest]
    with chart("recipe-curves", WIDTH, HEIGHT, MARGINS) as axes:
        axes.set_xscale("log")
        axes.set_ylim(lowest - 0.04 * (highest - lowest), highest)
        for curve, colour, width in drawn:
            axes.plot(*thinned(curve.n_presented, curve.bpd), color=colour, linewidth=width)
        for number in lines:
            axes.axhline(number.bpd, color=BOUND, linewidth=1.0, linestyle="--")
        left = min(float(curve.n_presented[curve.bpd < highest][0]) for curve, *_ in drawn)
        right = 1.1 * max(float(curve.n_presented[-1]) for curve, *_ in drawn)
        axes.set_xlim(left, right)
        ticks = [10.0**power for power in range(math.ceil(math.log10(left)), math.ceil(math.log10(right)))]
        axes.set_xticks(ticks, [count(int(tick)) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("training images presented")
        name_y(axes, "bits/dim")
        labels = [(float(curve.bpd[-1]), curve.name, colour) for curve, colour, _ in drawn]
        labels += [(number.bpd, f"{number.shown}: {number.what}", BOUND) for number in lines]
        per_pixel = (highest - lowest) * 1.04 / (HEIGHT - MARGINS[2] - MARGINS[3])
        for (_, text, colour), y in zip(labels, spread([y for y, *_ in labels], LINE * per_pixel), strict=True):
            label(axes, shortened(text, 36), (right, y), (8, -4), colour)
        said = ", ".join(
            f"{curve.name}: {plain(float(curve.bpd[-1]))} after {count(int(curve.n_presented[-1]))} images"
            for curve, *_ in drawn
        )
        return to_svg(axes, f"Validation bits per dimension against the training images presented. {said}.")


def _own(model: ModelReport) -> list[Curve]:
    found = []
    for seed in np.unique(model.curve["seed"]):
        mine = (model.curve["seed"] == seed) & (model.curve["n_presented"] > 0)
        if mine.sum() > 1:
            points = model.curve["n_presented"][mine], model.curve["validation_bpd"][mine]
            found.append(Curve(f"{model.name}, this report", *points))
    return found
