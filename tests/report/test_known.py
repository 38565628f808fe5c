"""The report shows the numbers that the study of known truths wrote, including statements that fall short."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_csv
from bitsperdim.estimators.paired import INTERVAL
from bitsperdim.report import _environment
from bitsperdim.report import known as known_charts
from bitsperdim.results import formatting
from bitsperdim.results.known import ESTIMATORS, MODELS, SOURCES, KnownTruths, read_known
from support.cases import write_known
from support.results import every_chart_says_what_it_shows, rows_of, text_of


class Page:
    """The attributes of a report that the study's templates use."""

    def __init__(self, known: KnownTruths) -> None:
        self.known = known


def rendered(study: KnownTruths) -> str:
    charts = known_charts.all_charts(study)
    return _environment().get_template("known.html").render(report=Page(study), known=charts)


def table(page: str, title: str) -> list[list[str]]:
    """Return the rows of the table below a title: the texts of their cells, the heads first."""
    return rows_of(page.split(f"<h4>{title}")[1].split("</table>")[0])


def estimates(page: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the table of all estimates: for each model and K, what each column says, by its head."""
    heads, *rows = table(page, "All estimates")
    found, model = {}, ""
    for row in rows:
        if len(row) == len(heads):  # the first row of each model names it
            model = row.pop(0).split(" log P(x) = ")[0]
        found[model, row[0]] = dict(zip(heads[1:], row, strict=True))
    assert len(found) == len(rows)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_known(tmp_path)
    return tmp_path


def changed(folder: Path, change: dict[str, Any], *keys: str) -> None:
    """Change a part of the metrics file."""
    path = folder / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    section = content
    for key in keys:
        section = section[key]
    section.update(change)
    path.write_text(json.dumps(content), encoding="utf-8")


def off(value: float, error: float) -> str:
    return " ± ".join(formatting.with_error(value, error))


def test_every_chart_says_what_it_shows(folder: Path) -> None:
    study = read_known(folder)
    charts = known_charts.all_charts(study)
    assert set(charts) == {"excess_hidden_markov", "excess_templates", "bias"}
    every_chart_says_what_it_shows(charts, rendered(study))
    for name, model in study.metrics.excess.sources["templates"].models.items():
        assert f"{name} {model.sign} {off(model.excess_bpd, model.excess_bpd_standard_error)}" in str(
            charts["excess_templates"]
        )


def test_every_number_is_one_that_was_written(folder: Path) -> None:
    study = read_known(folder)
    page = rendered(study)
    text = text_of(page)
    for name, source in study.metrics.excess.sources.items():
        assert SOURCES[name] in text
        for value, error in (
            (source.truth_bpd, source.truth_bpd_standard_error),
            (source.entropy_rate_bpd, source.entropy_rate_bpd_standard_error),
        ):
            assert off(value, error) in text
        for model in source.models.values():
            assert f"{model.sign} {off(model.bpd, model.bpd_standard_error)}" in text
            assert f"{model.sign} {off(model.excess_bpd, model.excess_bpd_standard_error)}" in text
            assert formatting.plain(model.evidence_nats, 1) in text
    found = estimates(page)
    assert len(found) == len(study.estimators)  # no row is left out
    for row in study.estimators:
        cells = found[MODELS[row.model], formatting.count(row.n_samples)]
        for name, head in zip(ESTIMATORS, ("bound", "jackknife", "extrapolated"), strict=True):
            shown = off(getattr(row, f"{name}_bias"), getattr(row, f"{name}_bias_error"))
            assert cells[f"{head} {formatting.MINUS} truth"] == shown
        assert cells["truth not below bound, of 4 (97.5 %)"].removesuffix(" short") == str(row.n_bound_covers)
        assert cells["truth within 1.96 errors of bound, of 4"].removesuffix(" short") == str(row.n_bound_within)
    heads, *rows = table(page, "Lower and upper bounds from annealing")
    assert heads[:4] == ["model", "steps", *(f"{side} bound {formatting.MINUS} truth" for side in ("lower", "upper"))]
    assert [row[:4] for row in rows] == [
        [
            MODELS[bracket.model],
            formatting.count(bracket.n_steps),
            off(bracket.lower_bias, bracket.lower_bias_error),
            off(bracket.upper_bias, bracket.upper_bias_error),
        ]
        for bracket in study.annealing
    ]
    assert "none beats the truth" in text


def test_a_refuted_model_and_a_statement_that_falls_short_are_said(folder: Path) -> None:
    changed(folder, {"is_refuted": True}, "excess", "sources", "templates", "models", "vae")
    with (folder / "estimators.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({key: "0" for key in row if key.endswith("_is_short")})
    rows[0]["bound_is_short"] = rows[3]["jackknife_is_short"] = rows[4]["jackknife_is_short"] = "1"
    for row in rows:
        row.update(n_jackknife_stated="4", n_jackknife_covers="1")
    write_csv(folder / "estimators.csv", list(rows[0]), rows)
    page = rendered(read_known(folder))
    text = text_of(page)
    assert "1 beats the truth, which no correct model does" in text
    assert page.count("refuted: it is wrong") == 1
    assert f"In 1 row of {len(rows)}, the truth lies below the range that the bound allows too often." in text
    assert "In 2 rows, the jackknife's interval misses the truth too often." in text
    assert "In no row is the truth significantly often more than 1.96 errors away" in text
    assert [key for cells in estimates(page).values() for key, cell in cells.items() if cell.endswith("short")] == [
        "truth not below bound, of 4 (97.5 %)",
        *2 * ("truth in jackknife\N{RIGHT SINGLE QUOTATION MARK}s interval (95 %)",),
    ]
    rows = table(page, "Lower and upper bounds from annealing")
    assert [[cell.endswith("short") for cell in row[4:]] for row in rows[1:]] == [
        [bool(row.lower_is_short), bool(row.upper_is_short), bool(row.bracket_is_short)]
        for row in read_known(folder).annealing
    ]


def test_an_image_that_is_impossible_to_a_model_breaks_no_page(folder: Path) -> None:
    infinite = {
        "bpd": math.inf,
        "bpd_standard_error": math.inf,
        "excess_bpd": math.inf,
        "excess_bpd_standard_error": math.inf,
        "evidence_nats": -math.inf,
    }
    changed(folder, infinite, "excess", "sources", "templates", "models", "vae")
    study = read_known(folder)
    page = rendered(study)
    assert "an image is impossible" in str(known_charts.all_charts(study)["excess_templates"])
    assert formatting.plain(-math.inf) in text_of(page)
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL), re.I)


def test_a_bar_is_as_long_as_its_interval(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars have 1.96 standard errors on each side of the written value."""
    study, drawn = read_known(folder), []
    to_svg = known_charts.to_svg

    def kept(axes: Any, said: str) -> Any:
        drawn.append([[tuple(point) for point in line.get_xydata()] for line in axes.lines])
        return to_svg(axes, said)

    monkeypatch.setattr(known_charts, "to_svg", kept)
    source = study.metrics.excess.sources["templates"]
    known_charts.excess("templates", source)
    known_charts.bias(study.most_samples)
    bars = [line for line in drawn[0][2:] if len(line) == 2]
    assert len(bars) == len(source.models)
    for place, ((_, model), ((low, y), (high, _))) in enumerate(zip(source.ranked, bars, strict=True)):
        assert (low + high) / 2 == pytest.approx(model.excess_bpd)
        assert high - low == pytest.approx(2 * INTERVAL * model.excess_bpd_standard_error)
        assert y == place
    bars = [line for line in drawn[1][1:] if len(line) == 2]
    expected = [(row, name) for row in study.most_samples for name in ESTIMATORS]
    for (row, name), ((low, _), (high, _)) in zip(expected, bars, strict=True):
        assert (low + high) / 2 == pytest.approx(getattr(row, f"{name}_bias"), abs=1e-9)
        assert high - low == pytest.approx(2 * INTERVAL * getattr(row, f"{name}_bias_error"), abs=1e-9)


@pytest.mark.parametrize("name", ["metrics.json", "estimators.csv", "annealing.csv"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"model,n_samples\nvae_1,3\n", b"\xff\xfe"])
def test_a_missing_or_broken_file_is_one_sentence(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_known(folder)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_nobody_knows_and_half_a_sample_are_one_sentence(folder: Path) -> None:
    text = (folder / "estimators.csv").read_text(encoding="utf-8")
    (folder / "estimators.csv").write_text(text.replace("vae_1,4,", "vae_1,4.5,"), encoding="utf-8")
    with pytest.raises(InputError, match=r"estimators\.csv: n_samples = 4\.5 must be an integer\."):
        read_known(folder)
    (folder / "estimators.csv").write_text(text.replace("vae_1,", "vae_9,"), encoding="utf-8")
    with pytest.raises(InputError, match="the tables of estimators must have the models templates, "):
        read_known(folder)
    (folder / "estimators.csv").write_text(text, encoding="utf-8")
    changed(folder, {"sources": {}}, "excess")
    with pytest.raises(InputError, match=r"excess\.sources must have some of the keys ising, "):
        read_known(folder)
