"""The page of known truths shows what its file says, each number in its row and column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.readme.known_truths import FILE, estimators, excess
from bitsperdim.readme.sections import update
from bitsperdim.results.formatting import plain, with_error
from bitsperdim.results.known import MODELS, SOURCES

PAGE = "docs/known-truths.md"


def off(value: float, error: float) -> str:
    return " ± ".join(with_error(value, error))


@pytest.fixture
def content(committed: Callable[[str], str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(committed(str(FILE)))
    return loaded


def rows_of(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_the_page_is_written_from_its_file(committed: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(committed(str(FILE)), encoding="utf-8")
    text = committed(PAGE)
    assert update(text, tmp_path, PAGE) == text, "run `make readme`"
    with pytest.raises(InputError, match=f"{PAGE} must contain the markers"):
        update("nothing", tmp_path, PAGE)


def test_every_excess_stands_in_its_row_and_column(content: dict[str, Any], tmp_path: Path) -> None:
    sources = content["excess"]["sources"]
    sources["ising"]["models"]["vae"].update(is_refuted=True, too_few_samples=False)
    sources["ising"]["models"]["flow"].update(too_few_samples=True)
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    text = excess(tmp_path)
    head, _, truth, *rows = rows_of(text)
    assert head[1:] == [SOURCES[name] for name in sources]
    assert truth[1:] == [f"= {off(s['truth_bpd'], s['truth_bpd_standard_error'])}" for s in sources.values()]
    models = next(iter(sources.values()))["models"]
    assert [row[0] for row in rows[: len(models)]] == [f"`{name}`, above the truth" for name in models]
    for row, model in zip(rows, models, strict=False):
        for cell, source in zip(row[1:], sources.values(), strict=True):
            found = source["models"][model]
            sign = {"exact": "=", "lower": "≤"}[found["kind"]]
            value = f"{sign} {off(found['excess_bpd'], found['excess_bpd_standard_error'])}"
            marks = "†" * found["too_few_samples"] + " **refuted**" * found["is_refuted"]
            assert cell == value + marks
    for row, key in zip(rows[len(models) :], ("independent_bpd", "uniform_bpd"), strict=True):
        assert row[1:] == [plain(source[key] - source["truth_bpd"]) for source in sources.values()]
    assert "**1 are refuted**" in text


def test_every_estimator_stands_in_its_row(content: dict[str, Any], tmp_path: Path) -> None:
    content["tables"]["estimators"][0].update(bound_is_short=1)
    content["tables"]["annealing"][0].update(upper_is_short=1)
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    rows = rows_of(estimators(tmp_path))
    said, tables = content["estimators"], content["tables"]
    given = {(MODELS[row["model"]], f"{row['n_samples']:,}"): row for row in tables["estimators"]}
    for row in rows[2 : 2 + len(given)]:
        found = given.pop((row[0], row[1]))
        assert row[2] == (plain(found["pareto_k_median"], 2) if "pareto_k_median" in found else "")
        assert row[3:5] == [off(found[f"{name}_bias"], found[f"{name}_bias_error"]) for name in ("bound", "jackknife")]
        counts = []
        for name, n, of in (
            ("bound", found["n_bound_covers"], said["n_replicates"]),
            ("jackknife", found["n_jackknife_covers"], found["n_jackknife_stated"]),
            ("within", found["n_bound_within"], said["n_replicates"]),
        ):
            short = " **short**" if found[f"{name}_is_short"] else ""
            counts.append(f"{n} of {of}{short}" if of else "none stated")
        assert row[5:8] == counts
        assert int(row[8]) == found["n_flagged"]
    assert not given
    for row, found in zip(rows[-len(tables["annealing"]) :], tables["annealing"], strict=True):
        assert row[:2] == [MODELS[found["model"]], str(found["n_steps"])]
        assert row[2:4] == [off(found[f"{name}_bias"], found[f"{name}_bias_error"]) for name in ("lower", "upper")]
        for cell, name in zip(row[4:], ("lower", "upper", "bracket"), strict=True):
            short = " **short**" if found[f"{name}_is_short"] else ""
            assert cell == f"{found[f'n_{name}_covers']} of {said['n_annealed_replicates']}{short}"


def test_names_that_nobody_knows_are_one_sentence(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    sources = content["excess"]["sources"]
    for change, words in (
        (
            {"excess": {**content["excess"], "sources": {"rocks": sources["ising"]}}},
            r"excess\.sources must have some of",
        ),
        (
            {"tables": {**content["tables"], "estimators": []}},
            "the tables of estimators must have the models templates, ",
        ),
        ({"seconds": "long"}, "seconds is not what a stage writes there"),
    ):
        (tmp_path / FILE).write_text(json.dumps({**content, **change}), encoding="utf-8")
        with pytest.raises(InputError, match=words):
            excess(tmp_path)
