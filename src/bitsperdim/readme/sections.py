"""The generated sections of README.md and docs/known-truths.md, made from results, recipes and docs.

``make readme`` rewrites the text between the two markers of each section. ``tests/readme/test_readme.py`` and
``test_known_page.py`` fail if a section and the committed files differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json
from bitsperdim.core.labels import meanings
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.yardsticks import TABULATED, ImagesMetrics
from bitsperdim.readme import known_truths, studies
from bitsperdim.recipes.table import markdown
from bitsperdim.results.formatting import plain, with_error
from bitsperdim.results.reading import read_stored

HEADER = """| model | bits/dim | the number is | nats per image | Monte Carlo error, bits/dim | K |
| --- | --- | --- | --- | --- | --- |
"""


def table(results: Path) -> str:
    """Return the Markdown table of the models and yardsticks in a folder of results."""
    rows: list[str] = []
    others: list[str] = []
    images = read_stored(results / "dequantize" / "metrics.json", ImagesMetrics)
    for name in read_json(results / "models.json")["models"]:
        metrics = read_stored(results / name / "metrics.json", Metrics)
        bpd, error = with_error(metrics.bpd, metrics.bpd_standard_error)
        nll, nll_error = with_error(metrics.nll_nats, metrics.nll_nats_standard_error)
        monte_carlo = metrics.bpd_monte_carlo_error  # infinite if there is one sample, so that the error is unknown
        noise = "none" if not metrics.is_sampled else f"{monte_carlo:.1g}" if math.isfinite(monte_carlo) else "unknown"
        is_other = metrics.protocol != images.protocol
        label = f"`{name}`" + (f", not comparable: another protocol, `{metrics.protocol}`" if is_other else "")
        sign, flag = metrics.sign, metrics.marks
        row = f"| {label} | {sign} {bpd} ± {error}{flag} | {metrics.words} | {nll} ± {nll_error}{flag} | {noise}{flag} "
        (others if is_other else rows).append(f"{row}| {metrics.n_samples} |\n")
    for yardstick in TABULATED:
        if (value := getattr(images, yardstick.key)) is not None:
            rows.append(f"| {yardstick.in_markdown} | {plain(value)} | | | | |\n")
    caption = f"\nProtocol `{images.protocol}`; ± is one standard error over the {images.n_test} test images.\n"
    text = HEADER + "".join(rows + others) + caption
    return "\n".join([text, *(f"{sentence}\n" for sentence in meanings(text))])


SECTIONS: dict[str, Callable[[Path], str]] = {
    "results": lambda root: table(root / "results"),
    "compare": studies.comparison,
    "recipes": markdown,
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
