"""The report shows the numbers that the study of a rare delay wrote; unknown errors are never shown as small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.report import _environment
from bitsperdim.report import project_delay as delay_charts
from bitsperdim.results import formatting
from bitsperdim.results.project_delay import OF_PROPOSALS, TABLES, Delay, read_delay
from bitsperdim.studies import project_delay
from support.cases import TINY_DELAY, write_delay
from support.results import every_chart_says_what_it_shows, rows_of, text_of


class Page:
    """The attributes of a report that the study's templates use."""

    def __init__(self, delay: Delay) -> None:
        self.delay = delay


def rendered(delay: Delay) -> str:
    charts = delay_charts.all_charts(delay)
    return _environment().get_template("project_delay.html").render(report=Page(delay), delay=charts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("delay")
    write_delay(path)
    return path


def test_every_chart_says_what_it_shows(folder: Path) -> None:
    page = rendered(read_delay(folder))
    charts = delay_charts.all_charts(read_delay(folder))
    assert len(charts) == 6 + 7
    every_chart_says_what_it_shows(charts, page)


def test_every_number_is_one_that_was_written_and_says_what_it_is(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    page = rendered(read_delay(folder))
    text = text_of(page)
    assert "3.2115 · 10⁻⁵" in text
    assert "18.2101" in text
    assert "1, 2, 4, 10" in text
    heads, *rows = rows_of(page)
    assert len(rows) == len(metrics["proposals"])
    found = [dict(zip(heads, row, strict=True)) for row in rows]  # no cell is missing
    for item in metrics["proposals"].values():
        [cells] = [cells for cells in found if re.fullmatch(re.escape(item["label"]) + "( .*)?", cells["drawn with"])]
        if item["n_late"]:
            value, error = formatting.with_error(item["probability"] * 1e5, item["standard_error"] * 1e5)
            assert cells["estimate, 10⁻⁵"] == f"{value} ± {error}"
            assert cells["variance reduction, measured"] == formatting.two_digits(item["variance_reduction"])
        if not item["variance_is_infinite"]:
            assert cells["exact"] == formatting.two_digits(item["variance_reduction_exact"])
    for figure in re.findall(r"<figure.*?</figure>", page, re.DOTALL)[1:10]:
        assert re.search(r'class="badge (exact|chance)"', figure)


def test_what_is_unknown_is_said_to_be_unknown(folder: Path) -> None:
    """For 2,000 naive draws without a late one, the page shows a limit and not 0 ± 0; the mistake is named."""
    delay = read_delay(folder)
    flags = {key: item.flag for key, item in delay.proposals}
    assert flags["naive"] == "no draw is late: nothing is known"
    assert flags["mistake"] == "infinite variance: no error bar is valid"
    assert flags["least_variance"] == ""
    page = rendered(delay)
    text = text_of(page)
    assert "P is below 0.0015" in text
    for flag in flags.values():
        assert flag in text
    assert not re.search(r"\b0 ± (0|unknown)\b", text.replace("“0 ± 0”", ""))
    row = re.search(r"<tr><th scope=\"row\">naive.*?</tr>", page, re.DOTALL)
    assert row is not None
    assert row.group(0).count("unknown") == 3
    chart = str(delay_charts.all_charts(delay)["estimates_naive"])
    assert "the last has no late draw" in chart
    assert "no draw is late" in chart


def test_a_short_error_bar_is_flagged(folder: Path, tmp_path: Path) -> None:
    write_delay(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics["proposals"]["all_x4"].update(ess=50.0, error_factor=2.34)
    metrics["proposals"]["least_variance"].update(ess=50.0, error_factor=1.4)
    metrics["proposals"]["critical_x2"].update(ess=4.0, error_factor=9.0)
    metrics["proposals"]["critical_x3_5"].update(ess=50.0, error_factor=1.9, standard_error=1.0)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    delay = read_delay(tmp_path)
    flags = {key: item.flag for key, item in delay.proposals}
    assert flags["all_x4"] == "error bar 2.3 times too short"
    assert flags["critical_x2"] == "effective sample size below 10"
    assert flags["least_variance"] == ""
    assert flags["critical_x3_5"] == "error bar 1.9 times too short"
    worst = delay.shortest_bar  # chosen by the ratio of errors, not by the length of the bar
    assert worst is not None
    assert (
        worst.error_factor == max(item.error_factor for key, item in delay.proposals if "too short" in flags[key]) > 2
    )


def test_an_error_bar_is_as_long_as_its_interval(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars have 1.96 standard errors on each side, clipped at the limits of the chart."""
    delay, drawn = read_delay(folder), []

    def kept(axes: Any, said: str) -> Any:
        drawn.append([line.get_xydata() for line in axes.lines])
        return to_svg(axes, said)

    to_svg = delay_charts.to_svg
    monkeypatch.setattr(delay_charts, "to_svg", kept)
    p, n_bars = delay.metrics.exact.probability, 0
    for key, item in delay.proposals[1:4]:
        delay_charts.estimates(delay, key, item)
        bars = [line for line in drawn[-1] if len(line) == 2 and line[0, 0] == line[1, 0]]
        rows = [row for row in delay.of_proposals["estimates"][key] if row["n_late"]]
        for row, bar in zip(rows, bars, strict=True):
            ends = [row["probability"] + side * 1.96 * row["standard_error"] for side in (-1, 1)]
            assert bar[:, 1] == pytest.approx([min(max(end, p / 4), 4 * p) for end in ends])
            n_bars += any(p / 4 < end < 4 * p for end in ends)
    assert n_bars > 2


def test_the_coverage_that_is_said_is_that_of_the_largest_size(folder: Path) -> None:
    delay = read_delay(folder)
    said = str(delay_charts.coverage(delay))
    assert "at n = 100: " in said
    held = {item.label: delay.of_proposals["coverage"][key] for key, item in delay.proposals}
    assert any(rows[0]["coverage"] != rows[-1]["coverage"] for rows in held.values())
    for label, rows in held.items():
        assert f"{label} {formatting.plain(100 * rows[-1]['coverage'], 0)}" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"deadline": 20.0, "n_samples": [500]},
        {"deadline": 200.0, "n_samples": [2, 3]},
        {"scale_all": 0.3, "scale_critical": [0.2, 100.0], "n_samples": [10]},
    ],
)
def test_what_is_unknown_breaks_no_chart(changes: dict[str, object], tmp_path: Path) -> None:
    """The event is not rare, no draw is late, or the proposals have infinite variances."""
    section = type(TINY_DELAY).model_validate({**TINY_DELAY.model_dump(), **changes})
    project_delay.write(tmp_path, *project_delay.study(section))
    page = rendered(read_delay(tmp_path))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert not re.search(r"\binf\b", page, re.IGNORECASE)


@pytest.mark.parametrize("name", [*(f"{table}.csv" for table in (*TABLES, *OF_PROPOSALS)), "metrics.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b"x,y\n0,0\n"])
def test_a_missing_file_of_the_study_is_one_sentence(name: str, content: bytes | None, tmp_path: Path) -> None:
    write_delay(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_delay(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OF_PROPOSALS)
def test_a_table_of_other_proposals_is_one_sentence(name: str, tmp_path: Path) -> None:
    write_delay(tmp_path)
    path = tmp_path / f"{name}.csv"
    whole = path.read_text(encoding="utf-8").splitlines()
    for rows in (whole[:-2], whole[:-1], [*whole[:-1], whole[-1].replace("least", "most")]):
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        with pytest.raises(InputError, match=r"must have all proposals of metrics\.json"):
            read_delay(tmp_path)
