"""The generated sections of README.md and docs/known-truths.md, made from results, recipes and docs.

The templates beside this module hold the text; that of the recipes is beside :mod:`bitsperdim.recipes.table`.
``make readme`` rewrites what is between the two markers of each section. ``tests/readme/test_readme.py`` and
``test_known_page.py`` fail if a section and the committed files differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.yardsticks import TABULATED, ImagesMetrics
from bitsperdim.readme import known_truths, studies
from bitsperdim.recipes.table import markdown as recipes_tables
from bitsperdim.results.formatting import explained
from bitsperdim.results.reading import read_stored
from bitsperdim.results.templates import markdown


def table(results: Path) -> str:
    """Return the Markdown table of the models and yardsticks in a folder of results."""
    images = read_stored(results / "dequantize" / "metrics.json", ImagesMetrics)
    names = read_json(results / "models.json")["models"]
    found = {item: getattr(images, item.key) for item in TABULATED}
    return explained(
        markdown(
            "readme",
            "results",
            images=images,
            models={name: read_stored(results / name / "metrics.json", Metrics) for name in names},
            noise=_noise,
            yardsticks=[(item.in_markdown, value) for item, value in found.items() if value is not None],
        )
    )


def _noise(metrics: Metrics) -> str:
    """Return the Monte Carlo error as text; it is infinite if there is one sample, so that the error is unknown."""
    if not metrics.is_sampled:
        return "none"
    return f"{metrics.bpd_monte_carlo_error:.1g}" if math.isfinite(metrics.bpd_monte_carlo_error) else "unknown"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "results": lambda root: table(root / "results"),
    "compare": studies.comparison,
    "recipes": recipes_tables,
    "delay": studies.delay,
    "disc": studies.disc,
    "networks": studies.networks,
}


PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": SECTIONS,
    "docs/known-truths.md": {"excess": known_truths.excess, "estimators": known_truths.estimators},
}


def update(text: str, root: Path, page: str = "README.md") -> str:
    """Return the text of a page with all sections between its markers written again."""
    for name, section in PAGES[page].items():
        text = between(text, name, section(root), page)
    return text


def markers(name: str) -> tuple[str, str]:
    """Return the lines before and after a section."""
    return f"<!-- {name}: begin (make readme) -->", f"<!-- {name}: end -->"


def between(text: str, name: str, content: str, page: str = "README.md") -> str:
    """Return ``text`` with ``content`` between the markers of a section.

    Raises:
        InputError: a marker does not occur exactly once.
    """
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise InputError(f"{page} must contain the markers {begin!r} and {end!r} once each.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}{end}{rest.split(end)[1]}"
