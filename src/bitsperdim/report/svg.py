"""Matplotlib figures as inline SVG that belongs to the page: its font, its colours, its width.

Colours are placeholders that become CSS variables, so that one drawing serves light and dark pages.
All charts share one look; what they show is the business of :mod:`bitsperdim.report.charts`.

Invariants (``tests/report/test_report.py``): the same drawing is the same text
(``test_a_rerun_is_byte_identical``); text stays text and is escaped (``test_hostile_text_is_escaped``);
no two charts share an id (``test_ids_are_unique``).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:  # matplotlib is imported once something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# placeholder -> the CSS variable that replaces it
INK, MUTED, GRID, PAPER, EXACT, BOUND = "#010101", "#010102", "#010103", "#010104", "#010105", "#010106"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--card", EXACT: "--exact", BOUND: "--bound"}

FONT_SIZE = 12.0
CHARACTER_WIDTH = 0.56 * FONT_SIZE  # on average, of a system font: how wide a label will be is a guess

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 4.0,
    "xtick.major.width": 1.0,
    "xtick.minor.size": 0.0,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
}


@contextmanager
def chart(name: str, width: float, height: float, margins: tuple[float, float, float, float]) -> Iterator[Axes]:
    """Give the axes of a new chart; draw and call :func:`to_svg` inside the block.

    Args:
        name: tells the ids of this chart from those of all others on the page.
        width: in pixels, at the size at which text is as large as the page's.
        height: in pixels.
        margins: left, right, top and bottom of the axes, in pixels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    left, right, top, bottom = margins
    style: Any = {**STYLE, "svg.hashsalt": name}  # the stub lists every key that it may have
    with mpl.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72))  # SVG has 72 units to the inch
        box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
        yield figure.add_axes(box)


def to_svg(axes: Axes, label: str, css_class: str = "chart") -> Markup:
    """Return the axes' figure as an inline ``<svg>`` that says ``label`` to those who cannot see it."""
    figure: Figure = axes.figure  # type: ignore[assignment]  # no subfigures here
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    match = re.search(r'<svg[^>]*viewBox="([^"]+)"[^>]*>(.*)</svg>', buffer.getvalue(), re.DOTALL)
    if match is None:
        raise RuntimeError("matplotlib wrote no <svg> with a viewBox")
    view, body = match.groups()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # matplotlib's style sheet would apply to the whole page
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # axes_1, line2d_1, ...: the same in every chart
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", " ", body.replace("xlink:href", "href")).strip()
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(  # the label is escaped here, text in the drawing by matplotlib
        f'<svg class="{escape(css_class)}" viewBox="{view}" role="img" aria-label="{escape(label)}">{body}</svg>'
    )


def label(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], colour: str = INK, ha: str = "left"
) -> None:
    """Write beside a point."""
    style: Any = {"textcoords": "offset points", "color": colour, "ha": ha, "va": "baseline"}
    axes.annotate(text, at, shift, **style)


def name_y(axes: Axes, name: str) -> None:
    """Write the unit above the y axis, where it can be read without turning the head."""
    axes.annotate(name, (0, 1), (-38, 10), xycoords="axes fraction", textcoords="offset points", color=MUTED)


def text_width(text: str) -> float:
    """Return about how many pixels a label takes."""
    return len(text) * CHARACTER_WIDTH


def shortened(text: str, n_characters: int) -> str:
    """Return a label of at most ``n_characters``."""
    return text if len(text) <= n_characters else text[: n_characters - 1] + "…"
