"""Matplotlib figures as inline SVG that uses the font, the colours and the width of the page.

Colours are placeholders that are replaced by CSS variables, so one drawing works on light and on dark pages.
This module defines the common style of all charts; :mod:`bitsperdim.report.charts` and the modules of the
studies define their content.

Invariants (``tests/report/test_report.py``): the same drawing is the same text
(``test_a_rerun_is_byte_identical``); text is stored as text and escaped (``test_hostile_text_is_escaped``);
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
CHARACTER_WIDTH = 0.56 * FONT_SIZE  # average for system fonts; the true width of a label is unknown here

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name does not start a formula
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
    """Create the axes of a new chart; draw and call :func:`to_svg` inside the ``with`` block.

    Args:
        name: unique name, which makes the ids of this chart differ from the ids of all other charts on the page.
        width: width in pixels, at the scale at which the text is as large as the text of the page.
        height: height in pixels.
        margins: left, right, top and bottom margins of the axes, in pixels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    left, right, top, bottom = margins
    style: Any = {**STYLE, "svg.hashsalt": name}  # Any: the type stub allows only listed keys
    with mpl.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72))  # SVG has 72 units per inch
        box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
        yield figure.add_axes(box)


def to_svg(axes: Axes, label: str, css_class: str = "chart") -> Markup:
    """Return the axes' figure as an inline ``<svg>`` with ``label`` as its text alternative."""
    figure: Figure = axes.figure  # type: ignore[assignment]  # there are no subfigures
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    match = re.search(r'<svg[^>]*viewBox="([^"]+)"[^>]*>(.*)</svg>', buffer.getvalue(), re.DOTALL)
    if match is None:
        raise RuntimeError("matplotlib wrote no <svg> with a viewBox")
    view, body = match.groups()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # matplotlib's style sheet would apply to the whole page
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # axes_1, line2d_1, ... are the same in every chart
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", " ", body.replace("xlink:href", "href")).strip()
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(  # the label is escaped here; matplotlib escapes the text in the drawing
        f'<svg class="{escape(css_class)}" viewBox="{view}" role="img" aria-label="{escape(label)}">{body}</svg>'
    )


def label(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], colour: str = INK, ha: str = "left"
) -> None:
    """Write a text beside a point."""
    style: Any = {"textcoords": "offset points", "color": colour, "ha": ha, "va": "baseline"}
    axes.annotate(text, at, shift, **style)


def name_y(axes: Axes, name: str) -> None:
    """Write the name of the y axis horizontally above the axis."""
    axes.annotate(name, (0, 1), (-38, 10), xycoords="axes fraction", textcoords="offset points", color=MUTED)


def text_width(text: str) -> float:
    """Return the approximate width of a label in pixels."""
    return len(text) * CHARACTER_WIDTH


def shortened(text: str, n_characters: int) -> str:
    """Return a label cut to at most ``n_characters`` characters, with an ellipsis if it is cut."""
    return text if len(text) <= n_characters else text[: n_characters - 1] + "…"
