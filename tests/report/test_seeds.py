"""Several training seeds in the report: their spread, the three kinds of noise, and the chart."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from support.metrics import exact, metrics
from support.results import cells_of, report, row_of, rows_of, section_of, text_of

pytestmark = pytest.mark.usefixtures("charts_of_studies_drawn_once")


def test_several_seeds_are_shown_with_their_spread(tmp_path: Path) -> None:
    page = report(tmp_path, {"thrice": metrics(n_seeds=3, bpd_seed_spread=0.0123), "once": metrics()})
    assert text_of(section_of(page, "thrice")).count("best 1.250 at epoch 2") == 3
    assert cells_of(row_of(page, "thrice"))[-1] == "0.012 3 seeds"
    assert re.findall('title="([^"]*)">([^<]*)</th>', page.split("</thead>")[0])[-1] == (
        "Standard deviation over training seeds, in bits per dimension",
        "Seeds",
    )


def test_three_kinds_of_noise_are_told_apart(tmp_path: Path) -> None:
    """By hand: 0.03 over images; a spread of 0.08 over four seeds gives 0.04 for their mean; together 0.05."""
    errors = {"bpd_standard_error": 0.03, "bpd_monte_carlo_error": 0.002}
    by_seed = {"0": 1.25, "1": 1.375, "2": 1.5, "5": 1.3}
    seeds = {"n_seeds": 4, "bpd_seed_spread": 0.08, "bpd_by_seed": by_seed}
    models = {"bound": metrics(**errors, **seeds), "sure": exact(**errors, **seeds), "once": metrics(**errors)}
    page = report(tmp_path, models)
    for name, monte_carlo in (("bound", "0.0020"), ("sure", "none: no samples are needed")):
        cards = re.findall('<div class="card whole trust noise">.*?</table>.*?</p>', section_of(page, name), re.DOTALL)
        assert len(cards) == 1
        sources = (
            "the 5 test images standard error over images",
            "the importance samples Monte Carlo error; the other lines contain it",
            "the 4 training runs standard error of the mean over seeds; for a single training run: 0.080",
            "test images and training runs",
        )
        rows = rows_of(cards[0])[1:]
        assert [value for _, value in rows] == ["0.030", monte_carlo, "0.040", "0.050"]
        assert all(shown.startswith(source) for source, (shown, _) in zip(sources, rows, strict=True))
        relation = "≤" if name == "bound" else "="
        assert f"0: {relation} 1.2500 ; 1: {relation} 1.3750 ; 2: " in text_of(cards[0])
        assert "known only to about 41 %" in text_of(cards[0])  # 1 / sqrt(2 * 3)
    assert "Three kinds of noise" not in section_of(page, "once")
    assert page.count("Three kinds of noise") == 2


def test_the_noise_of_one_image_is_unknown(tmp_path: Path) -> None:
    errors = {"bpd_standard_error": math.inf, "nll_nats_standard_error": math.inf, "bpd_monte_carlo_error": 0.002}
    seeds = {"n_seeds": 4, "bpd_seed_spread": 0.08, "bpd_by_seed": {"0": 1.25, "1": 1.375, "2": 1.5, "5": 1.3}}
    page = report(tmp_path, {"bound": metrics(**errors, **seeds)})
    [card] = re.findall('<div class="card whole trust noise">.*?</table>', section_of(page, "bound"), re.DOTALL)
    assert re.findall("<td[^>]*>(.*?)</td>", card) == ["unknown", "0.0020", "0.040", "unknown"]


def test_the_chart_shows_each_seed(tmp_path: Path) -> None:
    """Both charts have one small dot for each seed, at its number on the same scale as the means."""
    seeds = {"n_seeds": 3, "bpd_seed_spread": 0.1, "bpd_by_seed": {"0": 1.0, "1": 1.5, "2": 2.5}}
    page = report(tmp_path, {"thrice": metrics(bpd=5 / 3, **seeds), "once": metrics(bpd=1.5)})
    for chart in re.findall(r'<svg class="chart forest-.*?</svg>', page, re.DOTALL):
        drawn = re.findall(r"<g clip-path[^>]*> ((?:<use [^>]*> ?)+)</g>", chart)
        groups = [[float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', group)] for group in drawn]
        [dots] = [group for group in groups if len(group) == 3]
        assert (dots[2] - dots[1]) / (dots[1] - dots[0]) == pytest.approx(2.0, abs=1e-4)
        [_, mean] = sorted(group[0] for group in groups if len(group) == 1)
        assert (mean - dots[0]) / (dots[2] - dots[0]) == pytest.approx(4 / 9, abs=1e-4)
    assert "each training seed on its own" in page
    without = report(tmp_path / "again", {"once": metrics()})
    assert "each training seed on its own" not in without
