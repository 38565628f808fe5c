"""The report shows the values of the results, is self-contained and byte-identical, and escapes hostile text."""

from __future__ import annotations

import html
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.config.params import STUDIES
from bitsperdim.core.errors import InputError
from bitsperdim.core.yardsticks import YARDSTICKS, ImagesMetrics
from bitsperdim.report import charts, write_report
from bitsperdim.report.content import read_report, title_of
from bitsperdim.report.yardsticks import yardsticks
from bitsperdim.results import formatting
from support.metrics import N_IMAGES, PROTOCOL, exact, metrics
from support.results import (
    HOSTILE,
    IMPOSSIBLE,
    MODELS,
    ROOT,
    cells_of,
    params_of,
    report,
    row_of,
    section_of,
    text_of,
    write_results,
)

pytestmark = pytest.mark.usefixtures("charts_of_studies_drawn_once")


def test_a_rerun_is_byte_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # so that each chart is drawn twice
    first = report(tmp_path / "first", MODELS)
    assert report(tmp_path / "second", MODELS) == first


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = report(tmp_path, MODELS)
    references = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']([^"']*)""", page)
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    protocol = f"{HOSTILE}/none/2x2x1/L4/test5/given-none"
    page = report(tmp_path, {HOSTILE: metrics(protocol=protocol)}, f"family {HOSTILE}", protocol)
    assert "alert" not in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[-1]
    assert page.count("<script>") == 1
    assert html.escape(HOSTILE, quote=False) in page.replace("&#39;", "'")
    cells = cells_of(row_of(page.replace("&#39;", "&#x27;"), HOSTILE))
    heads = cells_of(page.partition('<table id="models">')[2].partition("</thead>")[0])
    assert len(cells) == len(heads)  # there are no additional cells
    assert cells[0] == f"{HOSTILE} family {HOSTILE}"


def test_a_hostile_parameter_is_escaped(tmp_path: Path) -> None:
    """``dataset.path`` is the only parameter that may contain any text."""
    text = f'"><img src=x onerror=alert(1)>{HOSTILE}</td></table>'
    params = params_of(MODELS)
    dataset = params.dataset.model_copy(update={"path": text})
    write_results(tmp_path / "results", MODELS)
    write_report(params.model_copy(update={"dataset": dataset}), tmp_path / "results", tmp_path / "out")
    [path] = (tmp_path / "out").iterdir()  # the page is the only file
    page = path.read_text("utf-8")
    assert html.escape(text, quote=False) in page.replace("&#39;", "'").replace("&#34;", '"')
    assert "<img src=x" not in page
    assert "<script>alert" not in page


def test_every_model_has_a_row_and_a_section(tmp_path: Path) -> None:
    page = report(tmp_path, MODELS)
    assert re.findall(r'<tr data-model="([^"]*)"', page) == list(MODELS)
    assert re.findall(r'<section class="model" id="model-([^"]*)"', page) == list(MODELS)
    assert [text_of(head) for head in re.findall("<h2[^>]*>.*?</h2>", page)] == [
        *("Comparison of all models", "The numbers", "bound upper bound", "sure exact", "broken exact"),
        *("Why believe this?", "Density and mass", "A rare delay", "The one-neuron ResNet", "Parameters"),
    ]
    assert "fitted to the test set itself; too small by about 0.25" in page


def test_the_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    page = report(tmp_path, MODELS)
    for name in MODELS:
        stored = json.loads((tmp_path / "results" / name / "metrics.json").read_text(encoding="utf-8"))
        values = [float(value) for value in re.findall(r'data-value="([^"]*)"', row_of(page, name))]
        keys = ["bpd", "bpd_monte_carlo_error", "nll_nats", "log_p_bias_nats", "n_samples", "ess_median"]
        assert values == [float(stored[key]) for key in [*keys, "n_parameters", "n_impossible_images"]]
    heads = cells_of(page.partition('<table id="models">')[2].partition("</thead>")[0])
    assert dict(zip(heads, cells_of(row_of(page, "bound")), strict=True)) == {
        "Model": "bound a family",
        "Bits/dim": "≤ 1.235 ± 0.034",
        "Number is": "upper bound",
        "Monte Carlo": "0.00067",
        "Nats/image": "≤ 3.423 ± 0.096",
        "Bias, nats": "\N{MINUS SIGN}0.012",
        "K": "8",
        "ESS": "6.2 worst 1.5",
        "Parameters": "12,345",
        "Impossible": "0",
    }
    assert "≤ 1.235 ± 0.034" in text_of(section_of(page, "bound"))
    models = {item.name: item for item in read_report(params_of(MODELS), tmp_path / "results", tmp_path).models}
    band = models["bound"].bound["standard_error_bpd"]  # from 0.09 nats
    assert band == pytest.approx([0.09 / (4 * math.log(2))] * len(band))


def test_bounds_and_exact_numbers_carry_their_sign(tmp_path: Path) -> None:
    page = report(tmp_path, MODELS)
    for name, content in MODELS.items():
        right, wrong = ("≤", "=") if content["kind"] == "lower" else ("=", "≤")
        relations = re.findall(r'class="relation">(.)<', row_of(page, name) + section_of(page, name))
        assert relations == [right] * 3  # bits/dim and nats in the table, bits/dim in the section
        words = "upper bound" if right == "≤" else "exact"
        assert words in text_of(row_of(page, name))
        assert f"{wrong} " not in text_of(row_of(page, name))
        for chart in re.findall(r'<svg class="chart forest[^>]*aria-label="([^"]*)"', page):
            assert f"{name} {right} " in chart


def test_an_estimate_is_no_bound(tmp_path: Path) -> None:
    """Its solver error is stated, and its mark in the chart has no arrow to the left."""
    solver = {"error_bpd": 0.0123, "error_nats": 0.034, "order": 4, "observed_order": 1.25}
    page = report(tmp_path / "a", {"ode": metrics(kind="estimate", solver=solver), "sure": exact()})
    assert "≈ 1.235" in text_of(row_of(page, "ode"))
    assert "estimate" in text_of(row_of(page, "ode"))
    section = text_of(section_of(page, "ode"))
    assert "An estimate, no bound. The solver error, from the length of the steps, is 0.012 bits/dim" in section
    assert "order 1.2 instead of 4" in section
    assert "without an arrow: an estimate" in page
    solver |= {"error_bpd": 1e-5, "observed_order": 4.0}
    bound = report(tmp_path / "b", {"ode": metrics(solver=solver), "sure": exact()})
    assert "An estimate, no bound." not in bound
    assert "without an arrow" not in bound
    assert "The solver error, from the length of the steps, is 0.000010 bits/dim" in text_of(section_of(bound, "ode"))
    assert text_of(row_of(bound, "ode")).count("upper bound") == 1


@pytest.mark.parametrize("others", [{}, {"bound": metrics(), "sure": exact()}])
def test_a_density_is_no_likelihood_and_not_ranked(others: dict[str, Any], tmp_path: Path) -> None:
    """A density has no = or ≤ and is in no chart; in the table it is below all likelihoods, despite its number."""
    page = report(tmp_path, {"raw": {**exact(bpd=-30.0, nll_nats=-83.2), "kind": "density"}, **others})
    assert "density, no likelihood" in text_of(row_of(page, "raw"))
    assert not re.findall(r'class="relation">[^<]*[=≤]', row_of(page, "raw") + section_of(page, "raw"))
    assert "It is not compared with any other number" in text_of(section_of(page, "raw"))
    ranked = page[page.index('<table id="models">') : page.index('<tbody class="densities">')]
    assert "raw" not in re.findall(r'data-model="([^"]*)"', ranked)
    for name in others:
        assert f'data-model="{name}"' in ranked
    forests = re.findall(r'<svg class="chart[^>]*aria-label="(Bits per dimension with[^"]*)"', page)
    assert len(forests) == (2 if others else 0)
    assert not any("raw" in forest for forest in forests)
    assert re.findall(r'<tr data-model="([^"]*)"', page) == [*others, "raw"]


def test_an_infinite_number_is_shown_and_flagged(tmp_path: Path) -> None:
    page = report(tmp_path, MODELS)
    assert "= ∞" in text_of(row_of(page, "broken"))
    section = text_of(section_of(page, "broken"))
    assert "Infinite. 2 of 5 test images have probability zero" in section
    assert "2 infinite values are not drawn" in section
    assert "probability zero" not in text_of(section_of(page, "bound"))
    assert not re.search(r"\b(nan|inf)\b", page.split("<script>")[0], re.IGNORECASE)


def test_a_page_of_infinite_numbers_alone(tmp_path: Path) -> None:
    nowhere = {**IMPOSSIBLE, "n_impossible_images": N_IMAGES}
    page = report(tmp_path, {"lost": metrics(**nowhere)})
    assert "≤ ∞" in text_of(row_of(page, "lost"))
    assert "the value of every test image is infinite" in text_of(section_of(page, "lost"))
    assert "the bound is infinite" in text_of(section_of(page, "lost"))


def test_a_model_far_off_the_scale_does_not_squeeze_the_others(tmp_path: Path) -> None:
    """Raw files take 2 bits here: the value 4.1 is drawn, 1,000 is not drawn."""

    def axis(models: Mapping[str, Mapping[str, Any]]) -> list[float]:
        write_results(tmp_path / "results", models)
        found = read_report(params_of(models), tmp_path / "results", tmp_path)
        wide, _, _ = charts.forest(found.likelihoods, [], found.images.uniform_bpd)
        texts = re.findall(r">([^<>]+)</text>", str(wide))
        far = [text for text in texts if "far off the scale" in text]
        assert len(far) == sum(content["bpd"] > 4 for content in models.values())
        return [float(text) for text in texts if re.fullmatch(r"\d+(\.\d+)?", text)]

    near = {"one": metrics(bpd=1.0), "other": exact(bpd=3.9)}
    assert max(axis(near)) < 5
    assert axis({**near, "singular": metrics(bpd=1000.0)}) == axis(near)


@pytest.mark.parametrize(
    ("n_test", "n_levels", "is_drawn"), [(5, 4, True), (4, 4, True), (3, 4, False), (5, 256, False)]
)
def test_the_entropy_of_few_images_is_no_yardstick(n_test: int, n_levels: int, is_drawn: bool, tmp_path: Path) -> None:
    write_results(tmp_path, {"one": metrics()}, f"tiny/none/2x2x1/L{n_levels}/test{n_test}/given-none")
    stored = json.loads((tmp_path / "dequantize" / "metrics.json").read_text())
    images = ImagesMetrics(**{**stored, "n_test": n_test})
    of_pixels = next(yardstick.name for yardstick in YARDSTICKS if yardstick.key == "entropy_bpd")
    assert (of_pixels in [name for name, _, _ in yardsticks(images, drawn=True)]) == is_drawn
    meaning = next(meaning for name, meaning, _ in yardsticks(images) if name == of_pixels)
    assert ("no yardstick here" in meaning) != is_drawn
    assert meaning.endswith("; too small by about 0.25") == is_drawn
    assert is_drawn or f"cannot exceed {math.log2(n_test):.2f}" in meaning


def test_a_gaussian_of_few_images_is_called_singular(tmp_path: Path) -> None:
    """There are 20 training images, of 2x2 or 5x4 pixels."""
    for shape, expected in (("2x2x1", False), ("5x4x1", True)):
        models = {"one": metrics(protocol=PROTOCOL.replace("2x2x1", shape))}
        page = report(tmp_path / shape, models, "gaussian", PROTOCOL.replace("2x2x1", shape))
        section = text_of(section_of(page, "one"))
        assert ("Singular. 20 training images do not determine the covariance" in section) == expected
        assert ("Singular" in section) == expected


def test_own_images_are_named_by_their_path() -> None:
    params = params_of({"one": None})
    for name, path, expected in (("digits", "data/own", "digits"), ("folder", "data/own/cats", "cats")):
        dataset = params.dataset.model_copy(update={"name": name, "path": path})
        assert title_of(params.model_copy(update={"dataset": dataset})) == expected


def test_no_text_breaks_out_of_a_markdown_cell() -> None:
    """HTML, cells and links in a text are escaped, and line ends become spaces; other text does not change."""
    assert formatting.markdown(", ") == ", "
    assert formatting.markdown("a\n |b") == "a \\|b"
    cell = formatting.markdown(HOSTILE)
    assert cell.startswith("&lt;script&gt;")
    assert not re.search(r"(?<!\\)[`|*]|[<>\n]", cell)
    assert "](" not in cell


def test_one_epoch_is_shown_as_one(tmp_path: Path) -> None:
    """The chart has two marks and a single tick, and no tick such as epoch 1.02."""
    write_results(tmp_path / "results", {"short": metrics(), "plain": metrics()})
    path = tmp_path / "results" / "short" / "training_curve.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    params = params_of({"short": metrics(), "plain": metrics()})
    write_report(params, tmp_path / "results", tmp_path / "out")
    section = section_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"), "short")
    chart = section[section.index("Training and validation bits per dimension of short") :].split("</svg>")[0]
    assert re.findall(r">([\d.]+)</text>", chart).count("1") == 1
    assert "1.02" not in chart


def test_another_protocol_is_named(tmp_path: Path) -> None:
    other = PROTOCOL.replace("none", "label")
    page = report(tmp_path, {"told": metrics(protocol=other), "blind": metrics()})
    assert "other protocol" in row_of(page, "told")
    assert other in section_of(page, "told")
    assert "other protocol" not in row_of(page, "blind")
    words = f"Not comparable. Scored under another protocol, given the class of each image: {other} ."
    assert words in text_of(section_of(page, "told"))
    assert page.count("Not comparable.") == 1


def test_what_an_autoregressive_model_sees_and_completes_is_shown(tmp_path: Path) -> None:
    """The page explains the colours and shows the causality check; for other models it shows none of this."""
    models = {"bound": metrics(), "sure": exact(), "causal": exact(largest_leaked_gradient=0.0)}
    page = report(tmp_path, models)
    for words in (
        "<h3>Completions</h3>",
        "<h3>Receptive field of a pixel</h3>",
        "pixels without influence",
        "must not know is 0.",
    ):
        assert [name for name in models if words in section_of(page, name)] == ["causal"]
    for words in ("completions of their upper halves by causal", "one pixel of the last row depends, for causal"):
        assert len(re.findall(rf'(?:alt|aria-label)="[^"]*{words}"', section_of(page, "causal"))) == 1
    assert page.count("Causality check: the largest derivative") == 1


def test_a_checked_model_without_pictures_shows_none(tmp_path: Path) -> None:
    """A histogram has no receptive field, so only its samples are drawn; the causality check is still reported."""
    write_results(tmp_path / "results", {"blind": exact(largest_leaked_gradient=0.0)})
    for name in ("completions.png", "receptive_field.png"):
        (tmp_path / "results" / "blind" / "pictures" / name).unlink()
    write_report(params_of({"blind": None}), tmp_path / "results", tmp_path)
    section = section_of((tmp_path / "index.html").read_text(encoding="utf-8"), "blind")
    assert not re.search("Completions|completions|Receptive field|without influence", section)
    assert "must not know is 0." in text_of(section)


def test_a_leak_is_not_rounded_away(tmp_path: Path) -> None:
    page = report(tmp_path, {"leaky": exact(largest_leaked_gradient=1e-9)})
    assert "must not know is 1.0e\N{MINUS SIGN}09." in page


def test_every_section_fills_its_rows(tmp_path: Path) -> None:
    """Six figures, drawn or replaced by a text, fill two or three columns without a gap; bounds have one more row."""
    models = {"bound": metrics(), "sure": exact(), "causal": exact(largest_leaked_gradient=0.0)}
    page = report(tmp_path, models)
    cards = [re.findall('class="card( whole)?', section_of(page, name)) for name in models]
    assert [(found.count(""), found.count(" whole")) for found in cards] == [(6, 1), (6, 0), (6, 0)]


def test_samples_by_class_are_named(tmp_path: Path) -> None:
    given = exact(protocol=PROTOCOL.replace("given-none", "given-label3-01234567"))
    page = report(tmp_path, {"sure": exact(), "by_class": given})
    for name, is_given in (("sure", False), ("by_class", True)):
        for words in ("given the class, one in each column", "by_class, one class in each column", "given-label"):
            assert (words in section_of(page, name)) == is_given
    assert page.count("Scored under another protocol, given the class of each image") == 1


def test_other_test_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"with the hash ffffffffffff, but the test images of the data set have the hash 0123456789ab"
    ):
        report(tmp_path, {"stale": metrics(test_sha256="f" * 64)})
    assert not (tmp_path / "out").exists()


def test_nan_is_refused(tmp_path: Path) -> None:
    report(tmp_path, {"lost": metrics(nll_nats=1.25)})
    path = tmp_path / "results" / "lost" / "metrics.json"
    path.write_text(path.read_text(encoding="utf-8").replace("1.25", "NaN"), encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics.json: nll_nats is not a number \(NaN\)\."):
        write_report(params_of({"lost": None}), tmp_path / "results", tmp_path / "again")


def test_ids_are_unique(tmp_path: Path) -> None:
    page = report(tmp_path, {"one": metrics(), "two": metrics(), "three": metrics()})
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page)) <= {(i, "") for i in ids} | {("", i) for i in ids}


@pytest.mark.parametrize(
    "path",
    [
        "models.json",
        "dequantize/metrics.json",
        "dequantize/pictures/test_images.png",
        "bound/metrics.json",
        "bound/per_image.csv",
        "bound/bound_against_k.csv",
        "bound/training_curve.csv",
        "bound/pictures/samples.png",
        "known/metrics.json",
        "known/estimators.csv",
        "known/annealing.csv",
        "density_and_mass/metrics.json",
        "density_and_mass/collapse.csv",
        "project_delay/metrics.json",
        "universal_resnet/metrics.json",
        "universal_resnet/regions.npz",
    ],
)
@pytest.mark.parametrize("content", [None, b"", b'{"kind": "guess"}', b"seed,image\n0,0\n", b"\xff\xfe", b"[]"])
def test_a_missing_file_is_one_sentence(tmp_path: Path, path: str, content: bytes | None) -> None:
    write_results(tmp_path, {"bound": metrics()})
    (tmp_path / path).unlink()
    if content is not None:
        (tmp_path / path).write_bytes(content)
    with pytest.raises(InputError) as caught:
        write_report(params_of({"bound": None}), tmp_path, tmp_path / "out")
    assert Path(path).name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (2.06272453, 0.0144362763, ("2.063", "0.014")),
        (107.598693, 0.460404811, ("107.60", "0.46")),
        (129.072891, 1.27257092, ("129.1", "1.3")),
        (1.5, 0.0996, ("1.50", "0.10")),
        (12345.678, 98.7, ("12346", "99")),
        (12345.678, 1234.5, ("12346", "1234")),
        (-0.5, 0.25, ("\N{MINUS SIGN}0.50", "0.25")),
        (1.25, 0.0, ("1.250", "0")),
        (1.25, math.inf, ("1.250", "unknown")),
        (math.inf, math.inf, ("∞", "")),
    ],
)
def test_numbers_are_rounded_to_their_error(value: float, error: float, expected: tuple[str, str]) -> None:
    assert formatting.with_error(value, error) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.00026233003, "0.00026"),
        (-0.0243092378, "\N{MINUS SIGN}0.024"),
        (0.0, "0"),
        (1.06, "1.1"),
        (114.372, "114"),
        (1024.0, "1,024"),
        (3.4e-12, "3.4e\N{MINUS SIGN}12"),
        (math.inf, "∞"),
        (-math.inf, "\N{MINUS SIGN}∞"),
    ],
)
def test_two_digits(value: float, expected: str) -> None:
    assert formatting.two_digits(value) == expected


def test_every_parameter_is_listed(tmp_path: Path) -> None:
    page = report(tmp_path, MODELS)
    params = params_of(MODELS)
    tables = dict(re.findall("<caption>([^<]*)</caption>(.*?)</table>", page, re.DOTALL))
    for name in ("dataset", "dequantize", "train", "evaluate", *STUDIES):
        for key, value in getattr(params, name).model_dump().items():
            if isinstance(value, dict):
                for inner in list(value)[:1]:
                    assert f'<th scope="row">{key}.{inner}</th>' in tables[name]
                continue
            assert f'<th scope="row">{key}</th>' in tables[name]
    assert '<tr><th scope="row">family</th><td>a family</td></tr>' in tables["bound"]


def test_importing_costs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, bitsperdim.report; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
