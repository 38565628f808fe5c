"""The rate-distortion plane of models with a latent code: the terms of their bound at K = 1, and its gaps.

Each model has two points: one for the encoder, and one for the best normal of each image. Each model also has a line
on which rate and distortion add up to -log P(x), which is replaced by the bound with K samples. The distance from a
point to its line, along either axis, is the gap of its bound. Both axes have the same scale.

Invariants (``tests/report/test_rate_distortion_chart.py``): the points and the lines are those of the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from bitsperdim.core.metrics import RateDistortionMetrics
from bitsperdim.report.content import ModelReport
from bitsperdim.report.svg import BOUND, EXACT, INK, MUTED, PAPER, chart, label, name_y, shortened, to_svg
from bitsperdim.results.formatting import plain

if TYPE_CHECKING:  # matplotlib is imported only when something is drawn
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 430.0, 400.0
MARGINS = (46.0, 16.0, 28.0, 44.0)
ROOM = 0.65  # half the length of an axis, as a fraction of the extent of its points
COLOURS = (EXACT, BOUND, INK, MUTED)  # models use these colours in turn


def plane(models: Sequence[ModelReport]) -> Markup | None:
    """Return the chart of all models whose terms are known, or None if there are no such models.

    Args:
        models: models of the report.
    """
    drawn = [(model.name, terms) for model in models if (terms := model.metrics.rate_distortion) is not None]
    if not drawn:
        return None
    with chart("rate-distortion", WIDTH, HEIGHT, MARGINS) as axes:
        ends = [_ends(terms) for _, terms in drawn]
        rates = [point[0] for points in ends for point in points]
        distortions = [point[1] for points in ends for point in points]
        x_limits, y_limits = _limits(rates, distortions)
        axes.set(xlim=x_limits, ylim=y_limits)
        axes.set_xlabel("rate, nats")
        name_y(axes, "distortion, nats")
        for number, (name, terms) in enumerate(drawn):
            _draw(axes, shortened(name, 16), terms, COLOURS[number % len(COLOURS)])
        said = ", ".join(
            f"{name}: encoder {plain(terms.encoder.rate_nats, 2)} and {plain(terms.encoder.distortion_nats, 2)}, "
            f"best normal {plain(terms.normal.rate_nats, 2)} and {plain(terms.normal.distortion_nats, 2)}, "
            f"-log P(x) at most {plain(-terms.log_p_nats, 2)}"
            for name, terms in drawn
        )
        return to_svg(axes, f"Rate and distortion in nats per image of {said}.")


def _ends(terms: RateDistortionMetrics) -> list[tuple[float, float]]:
    """Return the points that must be visible: both points, and the tip of the arrow to the line."""
    return [*_points(terms), _foot(terms)]


def _points(terms: RateDistortionMetrics) -> list[tuple[float, float]]:
    return [(each.rate_nats, each.distortion_nats) for each in (terms.encoder, terms.normal)]


def _foot(terms: RateDistortionMetrics) -> tuple[float, float]:
    """Return the point on the line -log P(x) that is nearest to the point of the best normal."""
    half = 0.5 * terms.approximation_gap_nats
    return terms.normal.rate_nats - half, terms.normal.distortion_nats - half


def _limits(rates: Sequence[float], distortions: Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of both axes, with a margin around all points and the same number of nats per pixel."""
    left, right, top, bottom = MARGINS
    sizes = (WIDTH - left - right, HEIGHT - top - bottom)
    ends = [(min(values), max(values)) for values in (rates, distortions)]
    smallest = 1e-3 * max(1.0, *(abs(end) for pair in ends for end in pair))  # nats; used if all points coincide
    nats = max(max(high - low, smallest) / size for (low, high), size in zip(ends, sizes, strict=True))
    x, y = (
        (0.5 * (low + high) - ROOM * size * nats, 0.5 * (low + high) + ROOM * size * nats)
        for (low, high), size in zip(ends, sizes, strict=True)
    )
    return x, y


def _draw(axes: Axes, name: str, terms: RateDistortionMetrics, colour: str) -> None:
    total, left, right = -terms.log_p_nats, *axes.get_xlim()
    axes.plot((left, right), (total - left, total - right), color=colour, linewidth=1.3, dashes=(5, 3))
    (encoder, normal), foot = _points(terms), _foot(terms)
    arrow = {"arrowstyle": "-|>,head_length=0.4,head_width=0.2", "color": colour, "linewidth": 1.3}
    if math.dist(encoder, normal) > 0:
        axes.annotate("", normal, encoder, arrowprops={**arrow, "shrinkA": 5, "shrinkB": 6})
    axes.annotate("", foot, normal, arrowprops={**arrow, "shrinkA": 5, "shrinkB": 0})
    for point, fill in ((encoder, PAPER), (normal, colour)):
        axes.plot(*point, "o", markersize=8, color=colour, markerfacecolor=fill, markeredgewidth=2)
    label(axes, name, encoder, (9, 5), colour)
