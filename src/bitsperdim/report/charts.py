"""The charts of the report: models with their errors, training, the bound against K, the spread over images.

Infinite values cannot be drawn; a chart leaves them out, and the text beside it mentions them.
A chart without content is None, and the page shows a sentence instead.

Invariants (``tests/report/test_report.py``): an infinite number breaks no chart
(``test_an_infinite_number_is_shown_and_flagged``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from bitsperdim.estimators.intervals import standard_errors
from bitsperdim.report.content import ModelReport
from bitsperdim.report.svg import (
    BOUND,
    EXACT,
    INK,
    MUTED,
    PAPER,
    chart,
    shortened,
    text_width,
    to_svg,
)
from bitsperdim.results.formatting import count, plain, with_error

if TYPE_CHECKING:  # matplotlib is imported once something is drawn
    from matplotlib.axes import Axes

Yardstick = tuple[str, str, float]

SIZE = (350.0, 240.0)  # of a model's chart
MARGINS = (46.0, 14.0, 28.0, 34.0)
SEEDS_BELOW = 0.3  # how far below the mean the seeds are drawn, in rows
FAR = 2.0  # a model is off the scale if it costs more than this multiple of the bits of a raw file
MAX_TICKS = 6
MIN_BINS, MAX_BINS = 8, 60


def forest(
    models: Sequence[ModelReport], yardsticks: Sequence[Yardstick], raw_bpd: float
) -> tuple[Markup, Markup, list[Yardstick]]:
    """Return bits per dimension with error bars, for wide and for narrow screens, and the yardsticks off the scale.

    A model that costs more than twice the bits of a raw file is off the scale: it would compress the scale for all
    other models.
    """
    near = [model for model in models if model.metrics.bpd <= FAR * raw_bpd]
    low, high = _extent(near or models)
    reach = 0.8 * max(high - low, 0.2 * high)
    shown = [yardstick for yardstick in yardsticks if low - reach <= yardstick[2] <= high + reach]
    values = [low, high, *(value for _, _, value in shown)]
    pad = 0.06 * max(max(values) - min(values), 0.02 * high) or 0.1  # if the only value is 0
    limits = (min(values) - pad, max(values) + pad)
    wide = _forest("forest-wide", models, shown, limits, narrow=False)
    narrow = _forest("forest-narrow", models, shown, limits, narrow=True)
    return wide, narrow, [yardstick for yardstick in yardsticks if yardstick not in shown]


def _extent(models: Sequence[ModelReport]) -> tuple[float, float]:
    """Return the ends of the error bars of all finite models."""
    ends = [end for model in models if math.isfinite(model.metrics.bpd) for end in (*_interval(model), *_seeds(model))]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _interval(model: ModelReport) -> tuple[float, float]:
    error = model.metrics.bpd_standard_error
    half = standard_errors(model.metrics.n_distinct_images) * error if math.isfinite(error) else 0.0
    return model.metrics.bpd - half, model.metrics.bpd + half


def _seeds(model: ModelReport) -> list[float]:
    """Return the finite numbers of the single seeds; empty with one seed."""
    return [bpd for bpd in model.metrics.bpd_of_seeds if math.isfinite(bpd)]


def _forest(
    name: str, models: Sequence[ModelReport], shown: Sequence[Yardstick], limits: tuple[float, float], *, narrow: bool
) -> Markup:
    width, row = (350.0, 46.0) if narrow else (1060.0, 24.0)
    labels = [shortened(model.name, 24) for model in models]
    left = 8.0 if narrow else 24.0 + max(text_width(label) for label in labels)
    right = 8.0 if narrow else 132.0
    places = _places(shown, limits, width - left - right)
    top = 12.0 + 17.0 * (1 + max((level for _, level in places), default=-1))
    bottom = 40.0
    height = top + row * len(models) + bottom
    with chart(name, width, height, (left, right, top, bottom)) as axes:
        axes.set(xlim=limits, ylim=(len(models) - 0.5, -0.5), yticks=[])
        axes.set_xlabel("bits per dimension, smaller is better")
        pixel_x, pixel_y = (limits[1] - limits[0]) / (width - left - right), 1 / row
        for (label, _, bpd), (centre, level) in zip(shown, places, strict=True):
            axes.axvline(bpd, color=MUTED, linewidth=1.2, dashes=(3, 3))
            axes.text(centre, -0.5 - (5 + 17 * level) * pixel_y, label, color=MUTED, ha="center", va="bottom")
        for index, (model, label) in enumerate(zip(models, labels, strict=True)):
            value, error = with_error(model.metrics.bpd, model.metrics.bpd_standard_error)
            number = f"{model.relation} {value}" + (f" ± {error}" if error else "") + model.metrics.marks
            y = index + (8 * pixel_y if narrow else 0.0)
            if narrow:  # name and number are written above the mark
                text_y = index - 11 * pixel_y
                axes.text(limits[0], text_y, label, ha="left", va="center", weight="bold", backgroundcolor=PAPER)
                axes.text(limits[1], text_y, number, ha="right", va="center", backgroundcolor=PAPER)
            else:
                axes.text(limits[0] - 14 * pixel_x, y, label, ha="right", va="center", weight="bold")
                axes.text(limits[1] + 14 * pixel_x, y, number, ha="left", va="center")
            if model.metrics.bpd > limits[1]:
                n_impossible = model.metrics.n_impossible_images
                note = f"{count(n_impossible)} impossible images →" if n_impossible else "far off the scale →"
                axes.text(limits[1], y, note, color=MUTED, ha="right", va="center", backgroundcolor=PAPER)
                continue
            _mark(axes, model, y, pixel_x)
        return to_svg(axes, _forest_label(models), f"chart {name}")


def _mark(axes: Axes, model: ModelReport, y: float, pixel: float) -> None:
    colour = BOUND if model.is_bound else EXACT
    value = model.metrics.bpd
    axes.plot(_interval(model), (y, y), color=colour, linewidth=2.5)
    if model.is_bound and not model.is_estimate:  # the true value is here or further left
        arrow = {"arrowstyle": "-|>,head_length=0.4,head_width=0.22", "color": colour, "shrinkA": 0, "shrinkB": 0}
        tip = _interval(model)[0] - 20 * pixel
        line = {**arrow, "linewidth": 1.2}
        axes.annotate("", (tip, y), (_interval(model)[0], y), arrowprops=line, annotation_clip=False)
    seeds = _seeds(model)
    axes.plot(seeds, [y + SEEDS_BELOW] * len(seeds), "o", markersize=3.5, color=colour)
    fill = PAPER if model.is_bound else colour
    axes.plot(value, y, "o", markersize=9, color=colour, markerfacecolor=fill, markeredgewidth=2)


def _places(shown: Sequence[Yardstick], limits: tuple[float, float], width: float) -> list[tuple[float, int]]:
    """Return the place of each yardstick's label: its centre, and the number of labels below it."""
    scale = (limits[1] - limits[0]) / width
    ends: list[float] = []  # right end of the last label at each level
    places = []
    for label, _, value in shown:  # sorted by value
        half = 0.5 * (text_width(label) + 10) * scale
        centre = min(max(value, limits[0] + half), limits[1] - half)
        level = next((level for level, end in enumerate(ends) if end <= centre - half), len(ends))
        ends[level : level + 1] = [centre + half]
        places.append((centre, level))
    return places


def _forest_label(models: Sequence[ModelReport]) -> str:
    parts = [f"{model.name} {model.relation} {plain(model.metrics.bpd)}{model.metrics.marks}" for model in models]
    return "Bits per dimension with 95 % intervals: " + ", ".join(parts) + "."


def training(model: ModelReport) -> Markup | None:
    """Return bits per dimension against the epoch, one line per seed; None for a model fitted in closed form."""
    if model.is_closed_form:
        return None
    from matplotlib.ticker import MaxNLocator

    with chart(f"training-{model.name}", *SIZE, MARGINS) as axes:
        curve = model.curve
        for seed, epoch, bpd in model.best_epochs:
            mine = curve["seed"] == seed
            for column, colour, width in (("train_bpd", MUTED, 1.3), ("validation_bpd", EXACT, 2.0)):
                line = np.where(np.isfinite(curve[column][mine]), curve[column][mine], np.nan)
                marker = "o" if len(line) == 1 else None  # a single epoch gives no visible line
                axes.plot(curve["epoch"][mine], line, color=colour, linewidth=width, marker=marker, markersize=4)
            axes.plot(epoch, bpd, "o", markersize=8, color=EXACT, markerfacecolor=PAPER, markeredgewidth=2)
        axes.set_xlabel("epoch")
        _name_y(axes, "bits/dim")
        axes.margins(x=0.03)
        axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
        if curve["epoch"].max() == 1:
            axes.set_xticks([1])  # the locator would set at least two ticks
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        return to_svg(axes, f"Training and validation bits per dimension of {model.name} against the epoch.")


def bound(model: ModelReport) -> Markup | None:
    """Return the bound against K with its test-set error; None for an exact model, or an infinite bound."""
    sizes, bpd = model.bound["n_samples"], model.bound["bpd"]
    if len(sizes) < 2 or not np.isfinite(bpd).all():
        return None
    error = np.where(np.isfinite(model.bound["standard_error_bpd"]), model.bound["standard_error_bpd"], 0.0)
    with chart(f"bound-{model.name}", *SIZE, MARGINS) as axes:
        axes.set_xscale("log", base=2)
        axes.fill_between(sizes, bpd - error, bpd + error, color=BOUND, alpha=0.16, linewidth=0)
        axes.plot(sizes, bpd, "o-", color=BOUND, markersize=4)
        beside = model.bound.get("contrast_bpd")
        if beside is not None and np.isfinite(beside).all():
            axes.plot(sizes, beside, "--", color=MUTED, linewidth=1.5)
        axes.annotate(
            f"K = 1: {plain(float(bpd[0]))}", (sizes[0], bpd[0]), (9, 5), textcoords="offset points", va="bottom"
        )
        axes.annotate(
            plain(float(bpd[-1])), (sizes[-1], bpd[-1]), (0, 9), textcoords="offset points", ha="right", va="bottom"
        )
        step = math.ceil((math.log2(sizes[-1]) + 1) / MAX_TICKS)
        ticks = [2**power for power in range(0, int(math.log2(sizes[-1])) + 1, step)]
        axes.set_xticks(ticks, [count(tick) for tick in ticks])
        axes.set_xlabel("K, importance samples per image")
        _name_y(axes, "bits/dim")
        axes.locator_params(axis="y", nbins=MAX_TICKS)
        label = f"{model.name}, bound against K: {plain(float(bpd[0]))} at K = 1, {plain(float(bpd[-1]))} at the end."
        return to_svg(axes, label)


def histogram(model: ModelReport) -> Markup | None:
    """Return the histogram of the test images around their mean; None if every image is impossible."""
    from matplotlib.ticker import MaxNLocator

    finite = model.nll[np.isfinite(model.nll)]
    if not len(finite):
        return None
    counts, edges = np.histogram(finite, _n_bins(finite))
    colour = BOUND if model.is_bound else EXACT
    with chart(f"histogram-{model.name}", *SIZE, MARGINS) as axes:
        gap = 0.08 * (edges[1] - edges[0])
        axes.bar(edges[:-1] + gap / 2, counts, np.diff(edges) - gap, align="edge", color=colour, alpha=0.55)
        if math.isfinite(model.metrics.nll_nats):
            axes.axvline(model.metrics.nll_nats, color=INK, linewidth=1.6)
            to_the_left = model.metrics.nll_nats > (edges[0] + edges[-1]) / 2
            axes.annotate(
                f"mean {plain(model.metrics.nll_nats, 1)}",
                (model.metrics.nll_nats, 1),
                (-6 if to_the_left else 6, 4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if to_the_left else "left",
                va="bottom",
            )
        axes.set_ylim(0, 1.06 * counts.max())
        axes.set_xlabel("nats per test image")
        _name_y(axes, "images")
        axes.yaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
        label = f"Histogram of the nats per test image of {model.name}, mean {plain(model.metrics.nll_nats, 1)}."
        return to_svg(axes, label)


def tails(model: ModelReport) -> Markup | None:
    """Return the histogram of k-hat over test images with its limit; None if it is not judged or nowhere finite."""
    from matplotlib.ticker import MaxNLocator

    limit = model.metrics.pareto_k_limit
    finite = model.pareto_k[np.isfinite(model.pareto_k)]
    if limit is None or not len(finite):
        return None
    low, high = min(-0.25, float(finite.min())), max(1.0, float(finite.max()))
    counts, edges = np.histogram(finite, max(MIN_BINS, min(MAX_BINS, math.isqrt(len(finite)))), range=(low, high))
    with chart(f"tails-{model.name}", *SIZE, MARGINS) as axes:
        gap = 0.08 * (edges[1] - edges[0])
        axes.bar(edges[:-1] + gap / 2, counts, np.diff(edges) - gap, align="edge", color=BOUND, alpha=0.55)
        axes.axvline(limit, color=INK, linewidth=1.6)
        axes.annotate(
            f"limit {plain(limit, 2)}",
            (limit, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
        axes.set_ylim(0, 1.06 * counts.max())
        axes.set_xlabel("k-hat")
        _name_y(axes, "images")
        axes.yaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
        above = float((model.pareto_k > limit).mean())
        label = f"Histogram of k-hat of {model.name}: {plain(100 * above, 1)} % above the limit of {plain(limit, 2)}."
        return to_svg(axes, label)


def _n_bins(values: np.ndarray) -> int:
    """Return the number of bins by the rule of Freedman and Diaconis, which depends on the middle half of the values.

    Values far away do not change the width of the bins.
    """
    quarter, three_quarters = np.quantile(values, (0.25, 0.75))
    width = 2 * float(three_quarters - quarter) / len(values) ** (1 / 3)
    return min(MAX_BINS, max(MIN_BINS, math.ceil(float(np.ptp(values)) / width))) if width > 0 else MIN_BINS


def _name_y(axes: Axes, name: str) -> None:
    """Write the name of the y axis horizontally above the axis."""
    axes.annotate(name, (0, 1), (-38, 10), xycoords="axes fraction", textcoords="offset points", color=MUTED)
