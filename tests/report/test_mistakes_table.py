"""The table of mistakes contains every row and marks open and uncaught mistakes; broken files are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_csv, write_json
from bitsperdim.report import _environment
from bitsperdim.results.formatting import MINUS, four_digits
from bitsperdim.results.mistakes import Mistakes, read_mistakes
from support.mistake_rows import HOSTILE, LAW, METRICS, ROWS
from support.results import text_of


@dataclass
class Known:
    mistakes: Mistakes


@dataclass
class Report:
    known: Known


def written(folder: Path, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> Path:
    write_csv(folder / "mistakes.csv", list(rows[0]), rows)
    counts = {**METRICS, "n_mistakes": len(rows), **changes}
    write_json(folder / "metrics.json", {"mistakes": counts, "of another part": {"x": 1}})
    return folder


def rendered(folder: Path) -> str:
    report = Report(Known(read_mistakes(folder)))
    return _environment().get_template("mistakes.html").render(report=report)


def test_every_row_says_what_is_done_how_far_it_is_off_and_what_caught_it(tmp_path: Path) -> None:
    page = rendered(written(tmp_path))
    rows = {
        name: text_of(row)
        for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", page, re.DOTALL)
        for name in [text_of(row).split()[0]]
    }
    assert list(rows) == [each["name"] for each in ROWS]
    for name, words in {
        "Dropped": f"{MINUS}0.2500 looks better comparison refused They differ in test size. a/b",
        "Divided": f"+0.5000 looks worse by construction {LAW} no published case was found",
        "Leaking": f"{MINUS}0.250 ± 0.012 looks better causality, codes The model looks ahead {HOSTILE}.",
        "Missed": f"{MINUS}0.2500 looks better not caught The check that should find it does not",
        "Added": f"{MINUS}0.0000035 looks better open No check finds it. In this package, the test {LAW} guards",
        "Colour": "does not apply here Grey images.",
    }.items():
        assert rows[name].startswith(f"{name} {name} is done. {words}"), (name, rows[name])
    assert rows["Added"].endswith(" no published case was found")
    assert HOSTILE not in page
    lead = text_of(page.split("<details")[0])
    assert "3 of 5 mistakes are caught , 1 should be caught and is not , and 1 is open: no check finds it." in lead
    assert "All 7 models without a mistake pass." in lead
    assert [text_of(each) for each in re.findall(r"<summary>.*?</summary>", page)] == ["Counting (2)", "Networks (4)"]


def test_false_alarms_are_said(tmp_path: Path) -> None:
    page = rendered(written(tmp_path, false_alarms=["encode: range"], is_cut=True))
    assert "Of 7 models without a mistake, some failed a check: encode: range." in text_of(page)
    assert "of these images (on their central part)" in text_of(page)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outcome": "found"}, "mistakes.csv, row 2: outcome is not what a stage writes there"),
        ({"off_bpd": "much"}, "row 2: off_bpd = 'much' is not a number"),
        ({"off_bpd": ""}, "row 2: off_bpd is not a finite number"),
        ({"off_bpd": "inf"}, "row 2: off_bpd is not a finite number"),
        ({"wrong_bpd": "nan"}, "row 2: wrong_bpd is not a number"),
    ],
)
def test_a_broken_row_is_one_sentence(change: dict[str, str], words: str, tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    rows[1] |= change
    with pytest.raises(InputError, match=re.escape(words)):
        read_mistakes(written(tmp_path, rows))


def test_a_missing_or_cut_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.json cannot be read"):
        read_mistakes(tmp_path)
    write_json(tmp_path / "metrics.json", {"mistakes": METRICS})
    with pytest.raises(InputError, match=r"mistakes\.csv cannot be read"):
        read_mistakes(tmp_path)
    written(tmp_path, ROWS[:4], n_mistakes=6)
    with pytest.raises(InputError, match=r"mistakes\.csv has 4 rows, but .*metrics\.json counts 6"):
        read_mistakes(tmp_path)
    text = (tmp_path / "mistakes.csv").read_text("utf-8")
    (tmp_path / "mistakes.csv").write_text(text.replace("outcome,", "result,", 1), "utf-8")
    with pytest.raises(InputError, match="row 1: outcome is not what a stage writes there"):
        read_mistakes(tmp_path)


def test_a_number_without_an_error_has_four_decimals_or_two_digits() -> None:
    assert [four_digits(value) for value in (0.0, -1.0, 0.00123, -0.00053, -3.51e-6)] == [
        "0",
        f"{MINUS}1.0000",
        "0.0012",
        f"{MINUS}0.00053",
        f"{MINUS}0.0000035",
    ]
