"""The report shows the numbers that the study of density and mass wrote, and names their kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.report import _environment, density_and_mass
from bitsperdim.results.density_and_mass import TABLES, Study, read_study
from support.cases import write_study
from support.results import every_chart_says_what_it_shows, text_of


class Page:
    """The attributes of a report that the study's templates use."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.ways: list = []
        self.n_samples = 64


def rendered(study: Study) -> str:
    charts = density_and_mass.all_charts(study)
    return _environment().get_template("density_and_mass.html").render(report=Page(study), study=charts, model_ways=[])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    write_study(path)
    return path


def test_every_chart_says_what_it_shows(folder: Path) -> None:
    page = rendered(read_study(folder))
    charts = density_and_mass.all_charts(read_study(folder))
    every_chart_says_what_it_shows(charts, page)


def test_every_number_is_one_that_was_written_and_says_what_it_is(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    page = rendered(read_study(folder))
    text = text_of(page)
    for value in (
        metrics["hypotheses"]["posterior_a"],
        metrics["hypotheses"]["posterior_b"],
        metrics["levels"]["entropy_bits"],
        *(code["cross_entropy_bits"] for code in metrics["coding"]["codes"].values()),
    ):
        assert f"{value:.4f}" in text
    for figure in re.findall(r"<figure.*?</figure>", page, re.DOTALL)[3:]:  # the first three share one badge
        assert re.search(r'class="badge (exact|chance|none)"', figure)
    assert "no likelihood On whole numbers, every component narrows to a spike" in text


@pytest.mark.parametrize(("name", "column", "unit"), [("gap", "gap_error", 1.0), ("coverage", "coverage_error", 100.0)])
def test_an_error_bar_is_as_long_as_its_interval(
    name: str, column: str, unit: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars have 1.96 standard errors on each side, at every K that is drawn."""
    study, drawn = read_study(folder), []

    def kept(axes: Any, said: str) -> Any:
        (bars,) = axes.containers
        drawn.extend(bars.lines[2][0].get_segments())
        return to_svg(axes, said)

    to_svg = density_and_mass.to_svg
    monkeypatch.setattr(density_and_mass, "to_svg", kept)
    getattr(density_and_mass, name)(study)
    errors = dict(zip(*(study.tables["bound_against_k"][key].tolist() for key in ("n_samples", column)), strict=True))
    assert len(drawn) > 2
    for (x, low), (_, high) in drawn:
        assert (high - low) / 2 == pytest.approx(1.96 * unit * errors[x])


@pytest.mark.parametrize("counts", [[9, 1], [1, 9], [5, 5], [0, 7], [7, 0], [3] * 256, [1000, *[1] * 16]])
def test_few_levels_break_no_chart(counts: list[int], tmp_path: Path) -> None:
    write_study(tmp_path, counts)
    page = rendered(read_study(tmp_path))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


@pytest.mark.parametrize("name", [*(f"{table}.csv" for table in TABLES), "dequantizing.csv", "metrics.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b"x,y\n0,0\n"])
def test_a_missing_file_of_the_study_is_one_sentence(name: str, content: bytes | None, tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_study(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_code_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    write_study(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    del metrics["coding"]["codes"]["uniform"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    with pytest.raises(InputError, match=r"coding.codes has no 'uniform'"):
        read_study(tmp_path)
