"""The report: one self-contained HTML page, made of the results, and of numbers in ``recipes/``.

The page needs no network: it contains its style, script, charts and pictures. This package computes no
results: it shows the values of ``metrics.json`` and of the files beside it, rounded to their errors. It
contains no date, no host and no commit. The package does not import torch, and it imports matplotlib only
when something is drawn.

Invariants (``tests/report/test_report.py``):

1. The same inputs give the same bytes (``test_a_rerun_is_byte_identical``).
2. The page loads nothing from outside (``test_nothing_is_fetched``).
3. Text from data and parameters is escaped (``test_hostile_text_is_escaped``).
4. Every number has its sign, = or ≤, and equals the value in ``metrics.json``
   (``test_the_numbers_are_those_of_the_metrics``, ``test_bounds_and_exact_numbers_carry_their_sign``).
5. In a browser, the page causes no message and no request, and has no broken picture, overflow or text with low
   contrast, on wide and narrow screens, in light and dark mode (``test_browser.py``,
   ``test_nothing_is_wrong_with_the_page``).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from jinja2 import Environment

from bitsperdim.config.params import Params
from bitsperdim.core import labels
from bitsperdim.core.files import write_text
from bitsperdim.report import (
    charts,
    density_and_mass,
    known,
    project_delay,
    rate_distortion,
    recipe_curves,
    universal_resnet,
)
from bitsperdim.report.content import Report, read_report
from bitsperdim.report.variants import differences
from bitsperdim.report.yardsticks import yardsticks
from bitsperdim.results import templates
from bitsperdim.results.universal_resnet import FUNCTIONS

__all__ = ["write_report"]

WORDS_AND_SIGNS = ("SIGNS", "PUBLISHED_SIGNS", "LEGEND", "TOO_FEW", "OUT_OF_RANGE", "SEEN")  # available in templates


def write_report(params: Params, results: Path, folder: Path, root: Path = Path()) -> None:
    """Write ``index.html`` into ``folder``.

    Args:
        params: the validated parameters.
        results: folder with the outputs of ``dequantize``, ``train`` and ``evaluate``.
        folder: folder for the report; it is created if it does not exist.
        root: root of the repository; its ``recipes/`` contains the published numbers.

    Raises:
        InputError: a result is missing, is unreadable, or was scored on other test images; or a recipe is invalid.
    """
    write_text(folder / "index.html", render_page(read_report(params, results, root)))


def render_page(report: Report) -> str:
    """Return the HTML page."""
    page = _environment().get_template("template.html")
    return page.render(
        report=report,
        yardsticks=yardsticks(report.images),
        style=_package_file("style.css"),
        script=_package_file("script.js"),
        forest=charts.forest(report.likelihoods, yardsticks(report.images, drawn=True), report.images.uniform_bpd)
        if report.likelihoods
        else None,
        training=[charts.training(model) for model in report.models],
        bound=[charts.bound(model) for model in report.models],
        tails=[charts.tails(model) for model in report.models],
        histogram=[charts.histogram(model) for model in report.models],
        rate_distortion=rate_distortion.plane(report.models),
        recipe_curves=recipe_curves.curves(report.curves, report.models, report.published),
        known=known.all_charts(report.known) if report.known else None,
        study=density_and_mass.all_charts(report.study) if report.study else None,
        delay=project_delay.all_charts(report.delay) if report.delay else None,
        resnet=universal_resnet.all_charts(report.resnet) if report.resnet else None,
        predicate_panels=universal_resnet.predicate_panels(report.resnet) if report.resnet else [],
        ball_panels=universal_resnet.ball_panels(report.resnet) if report.resnet else [],
        functions=FUNCTIONS,
        model_ways=[
            differences(f"ways-{number}", ways, report.images.n_test_distinct)
            for number, ways in enumerate(report.ways)
        ],
    )


def _environment() -> Environment:
    environment = templates.environment("report", autoescape=True)
    environment.globals.update({name: getattr(labels, name) for name in WORDS_AND_SIGNS})
    return environment


def _package_file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
