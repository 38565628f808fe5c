"""The report shows the numbers that the study of the one-neuron ResNet wrote."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.report import _environment, universal_resnet
from bitsperdim.results import universal_resnet as content
from bitsperdim.results.universal_resnet import ResnetStudy, read_resnet
from bitsperdim.studies.universal_resnet import approximation, ball, essay
from support.cases import write_resnet
from support.results import cells_of


class Page:
    """The attributes of a report that the study's templates use."""

    def __init__(self, resnet: ResnetStudy) -> None:
        self.resnet = resnet


def rendered(resnet: ResnetStudy) -> str:
    return (
        _environment()
        .get_template("universal_resnet.html")
        .render(
            report=Page(resnet),
            resnet=universal_resnet.all_charts(resnet),
            predicate_panels=universal_resnet.predicate_panels(resnet),
            ball_panels=universal_resnet.ball_panels(resnet),
            functions=content.FUNCTIONS,
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet")
    write_resnet(path)
    return path


def test_the_names_are_those_of_the_study() -> None:
    """The report does not import torch, and so not the study; names that both define must agree."""
    assert [architecture.name for architecture in essay.ARCHITECTURES] == list(content.NETS)
    assert content.DRAWN == essay.DRAWN
    assert [architecture.name for architecture in ball.ARCHITECTURES] == [
        f"{kind}_{depth}" for kind in content.BALL_KINDS for depth in content.DEPTHS
    ]
    assert list(content.PREDICATES) == list(content.RINGS) == list(essay.PREDICATES)
    assert list(content.FUNCTIONS) == list(approximation.TARGETS)


def test_each_panel_shows_the_region_of_its_own_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are arrays in the order of the study; panels are in the order of the page."""
    study = read_resnet(folder)
    numbered = {name: np.arange(np.prod(study.regions[name].shape[:-2])) for name in ("ball", "essay")}
    regions = {
        name: np.broadcast_to(numbers.reshape(*study.regions[name].shape[:-2], 1, 1), study.regions[name].shape)
        for name, numbers in numbered.items()
    }
    drawn: list[int] = []
    monkeypatch.setattr(universal_resnet, "_region", lambda axes, values, reach: drawn.append(int(values[0, 0])))
    study = dataclasses.replace(study, regions={**study.regions, **regions})
    universal_resnet.ball_panels(study)
    names = [architecture.name for architecture in ball.ARCHITECTURES]
    assert drawn == [names.index(f"{kind}_{depth}") for kind in content.BALL_KINDS for depth in content.DEPTHS]
    drawn.clear()
    universal_resnet.predicate_panels(study)
    assert drawn == [
        essay.DRAWN.index(net) * len(essay.PREDICATES) + list(essay.PREDICATES).index(predicate)
        for predicate in content.PREDICATES
        for net in content.DRAWN
    ]


def test_every_chart_says_what_it_shows(folder: Path) -> None:
    study = read_resnet(folder)
    page = rendered(study)
    charts = list(universal_resnet.all_charts(study).values())
    charts += [drawing for *_, panels in universal_resnet.predicate_panels(study) for _, drawing in panels]
    charts += [drawing for _, panels in universal_resnet.ball_panels(study) for _, drawing in panels]
    assert len(charts) == 10 + 3 * 6 + 2 * 5
    for chart in charts:
        assert str(chart) in page
        assert re.search(r'aria-label="[A-Z][^"]{30,}\."', str(chart))
        assert "mathdefault" not in chart
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_a_rerun_is_byte_identical(folder: Path) -> None:
    assert rendered(read_resnet(folder)) == rendered(read_resnet(folder))


def test_every_number_stands_in_its_own_column(folder: Path) -> None:
    """JSON files have sorted keys, so the order of the predicates must come from elsewhere."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    page = rendered(read_resnet(folder))
    for name, words in content.NETS.items():
        [row] = re.findall(rf'<tr><th scope="row">{words}</th>(.*?)</tr>', page)
        scores = [metrics["accuracy"][name][predicate] for predicate in essay.PREDICATES]
        titles = [float(value) for value in re.findall(r'title="([^"]*)"', row)]
        assert titles == [score["mean"] for score in scores]
        cells = cells_of(row)
        assert cells[0] == f"{metrics['accuracy'][name]['n_parameters']:,d}"
        for score, own, cell in zip(scores, cells[1:9:3], cells[2:9:3], strict=True):
            assert own.startswith(f"{score['mean']:.1f} ± ")
            spread = f" ± {score['essay_spread']:.0f}" if score.get("essay_spread") else ""
            spread = " ± 0" if score.get("essay_spread") == 0 else spread
            assert cell == f"{score['essay_mean']:.0f}{spread}"
    heads = re.findall(r'<th scope="colgroup" colspan="3">(\w+)</th>', page)
    assert heads == list(essay.PREDICATES)
    [larger] = re.findall(r'<tr><th scope="row">always the larger class</th>(.*?)</tr>', page)
    shares = [cell for name in essay.PREDICATES for cell in (f"{metrics['majority'][name]:.1f}", "", "")]
    assert cells_of(larger) == ["0", *shares]


def test_constructed_and_trained_errors_are_those_of_the_tables(folder: Path) -> None:
    study = read_resnet(folder)
    page = rendered(study)
    for row in [*study.errors("disc", join=False), *study.best_trained("disc")]:
        assert f'<td title="{row["l1"]!r}">{row["l1"]:.4f}</td>' in page
    for name in content.FUNCTIONS:
        assert len(study.errors_trained(name)) == 2 * 2  # seeds and depths
        for best in study.best_trained(name):
            same = [row["l1"] for row in study.errors_trained(name) if row["n_blocks"] == best["n_blocks"]]
            assert best["l1"] == min(same)
    assert "largest error does not fall" in page


@pytest.mark.parametrize("value", [-127, 0, 127])
def test_regions_of_one_side_break_no_chart(value: int, tmp_path: Path) -> None:
    write_resnet(tmp_path)
    with np.load(tmp_path / "regions.npz") as stored:
        arrays = {name: stored[name] for name in stored}
    for name in ("essay", "ball", "disc"):
        arrays[name] = np.full_like(arrays[name], value)
    arrays["labels"][:] = arrays["ball_labels"][:] = value > 0
    np.savez(tmp_path / "regions.npz", **arrays)
    study = read_resnet(tmp_path)
    page = rendered(study)
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    panels = [drawing for _, drawings in universal_resnet.ball_panels(study) for _, drawing in drawings]
    assert [bool(re.search(r"opacity: 0\.30?\b", panel)) for panel in panels] == [value > 0] * 10


NAMES = ["metrics.json", "constructed.csv", "trained.csv", "regions.npz", *(f"{name}.csv" for name in content.TABLES)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bytes_", [None, b"", b"{}", b"\xff", b"x,y\n0,0\n", b"PK\x03\x04"])
def test_a_missing_file_is_one_sentence(name: str, bytes_: bytes | None, tmp_path: Path) -> None:
    write_resnet(tmp_path)
    (tmp_path / name).unlink()
    if bytes_ is not None:
        (tmp_path / name).write_bytes(bytes_)
    with pytest.raises(InputError) as caught:
        read_resnet(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_misshapen_is_named(tmp_path: Path) -> None:
    write_resnet(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    del metrics["accuracy"]["single_40"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics.json: accuracy has no 'single_40'"):
        read_resnet(tmp_path)
    write_resnet(tmp_path)
    lines = (tmp_path / "trained.csv").read_text().replace("smooth", "smoother")
    (tmp_path / "trained.csv").write_text(lines)
    with pytest.raises(InputError, match=r"trained.csv must have the functions step, smooth, disc, and no others\."):
        read_resnet(tmp_path)
    write_resnet(tmp_path)
    with np.load(tmp_path / "regions.npz") as stored:
        arrays = {name: stored[name] for name in stored}
    arrays["labels"] = arrays["labels"][:, :-1]
    np.savez(tmp_path / "regions.npz", **arrays)
    with pytest.raises(InputError, match=r"regions.npz: labels has the shape \(3, 19\)"):
        read_resnet(tmp_path)
