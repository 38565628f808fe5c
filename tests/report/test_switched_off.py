"""A report without some or all studies: a study that is not in `studies` is not read, not shown and not mentioned."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.params import STUDIES, SWITCHED_OFF
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_json
from bitsperdim.report import write_report
from bitsperdim.report.content import parameters
from support.metrics import metrics
from support.results import MODELS, params_of, write_results

HEADS = {
    "known": "Why believe this",
    "density_and_mass": "Density and mass",
    "project_delay": "A rare delay",
    "universal_resnet": "The one-neuron",
}

pytestmark = pytest.mark.usefixtures("charts_of_studies_drawn_once")


def report(folder: Path, studies: Sequence[str], models: Any = MODELS, **changes: Any) -> str:
    """Write a report for which the other studies left the files of a study that is switched off."""
    write_results(folder / "results", models)
    for study in set(STUDIES) - set(studies):
        for path in (folder / "results" / study).iterdir():
            path.unlink()
        write_json(folder / "results" / study / "metrics.json", SWITCHED_OFF)
    params = params_of(models).model_copy(update={"studies": list(studies), **changes})
    write_report(params, folder / "results", folder / "out")
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("studies", [[], ["project_delay"], ["universal_resnet", "density_and_mass"]])
def test_only_the_others_are_shown(studies: list[str], tmp_path: Path) -> None:
    """Studies are in the order of `studies`; studies that are switched off are not mentioned and not linked."""
    page = report(tmp_path, studies)
    shown = [
        study
        for head in re.findall("(?m)^<h2[^>]*>(.*)", page)
        for study, words in HEADS.items()
        if head.startswith(words)
    ]
    assert shown == studies
    for study in set(STUDIES) - set(studies):
        assert HEADS[study] not in page
        if study != "known":  # it is also an ordinary word
            assert study not in page
            assert study.replace("_", "-") not in page
            assert study.replace("_", " ") not in page.casefold()
    assert f'<tr><th scope="row">studies</th><td>[{", ".join(studies)}]</td></tr>' in page
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'\bid="([^"]*)"', page))


def test_models_that_are_one_flow_are_compared_nevertheless(tmp_path: Path) -> None:
    models = {name: metrics() for name in ("plain", "learned")}
    sections = {
        name: FAMILIES["flow"].model_validate({"family": "flow", "dequantization": way})
        for name, way in (("plain", "uniform"), ("learned", "variational"))
    }
    with_study = report(tmp_path / "with", STUDIES, models, sections=sections)
    page = report(tmp_path / "without", [], models, sections=sections)
    assert '<h2 id="ways">What each way of dequantizing costs</h2>\n<h3>Models of this report</h3>' in page
    assert "plain, learned are the same flow, trained in the same way except for its noise." in page
    assert "<h3>The same comparison for models of this report</h3>" in with_study
    assert 'id="ways"' not in with_study
    rows = [line for line in page.splitlines() if line.startswith('<tr><th scope="row">learned')]
    assert rows
    assert set(rows) <= set(with_study.splitlines())


def test_one_that_has_not_run_since_it_is_on_again_is_one_sentence(tmp_path: Path) -> None:
    write_results(tmp_path / "results", MODELS)
    write_json(tmp_path / "results" / "project_delay" / "metrics.json", SWITCHED_OFF)
    with pytest.raises(InputError, match=r"metrics.json says that the study is switched off; add it to studies in"):
        write_report(params_of(MODELS), tmp_path / "results", tmp_path / "out")


def test_a_parameter_that_is_left_out_is_listed_with_its_default() -> None:
    sections = {"bare": FAMILIES["vae"].model_validate({"family": "vae", "train": {"patience": None}})}
    params = params_of({"bare": None}).model_copy(update={"sections": sections, "studies": []})
    shown = dict(parameters(params))
    assert dict(shown["bare"])["hidden_sizes"] == "[200, 200]"
    assert [(key, value) for key, value in shown["bare"] if key.startswith("train.")] == [("train.patience", "null")]
    assert not set(STUDIES) & set(shown)
    assert ("studies", "[]") in shown["general"]
