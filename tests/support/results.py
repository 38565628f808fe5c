"""A folder of results as the stages write it, with numbers that the tests choose, and its report."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bitsperdim.config.families.base import FamilySection
from bitsperdim.config.params import Params, read_params
from bitsperdim.core.files import write_csv, write_json
from bitsperdim.report import write_report
from bitsperdim.runtime.curve import COLUMNS
from support.cases import write_studies
from support.metrics import N_IMAGES, PROTOCOL, exact, images_of, metrics

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert('1')&`|*$x^2$]("
JUDGED = {"pareto_k_median": 0.4, "pareto_k_limit": 0.66780, "pareto_k_high_share": 0.2, "n_samples": 1024}


ANNEALED: dict[str, Any] = {
    "n_images": 3,
    "n_chains": 4,
    "n_steps": 60,
    "acceptance": 0.6,
    "log_p_nats": -3.5,
    "log_p_nats_standard_error": 0.11,
    "monte_carlo_error_nats": 0.05,
    "importance_sampled_nats": -3.625,
    "above_importance_sampled_nats": 0.125,
    "above_importance_sampled_nats_standard_error": 0.031,
    "simulated": {
        "n_images": 7,
        "n_chains": 4,
        "n_steps": 60,
        "lower_nats": -3.4,
        "upper_nats": -3.178,
        "gap_nats": 0.222,
        "gap_nats_standard_error": 0.041,
    },
}
IMAGES = images_of(PROTOCOL, N_IMAGES)


REFINED = {
    "gradients_per_image": 421.4,
    "pilot_samples_per_image": 128.0,
    "more_rounds_share": 0.043,
    "has_covariance": True,
}
CONTRAST = {
    "proposal": "encoder",
    "n_images": 100,
    "bpd": 2.5,
    "nll_nats": 7.25,
    "nll_nats_after": 7.125,
    "log_p_bias_nats": -0.031,
    "ess_median": 43.0,
    "ess_below_10_share": 0.14,
    "pareto_k_high_share": 0.6,
    "too_few_samples": True,
    "gain_nats": 0.125,
    "gain_nats_standard_error": 0.024,
    "n_passes": 1024,
    "n_passes_after": 1573.4,
}


IMPOSSIBLE = {
    "bpd": math.inf,
    "bpd_standard_error": math.inf,
    "nll_nats": math.inf,
    "nll_nats_standard_error": math.inf,
    "n_impossible_images": 2,
}
MODELS = {"bound": metrics(), "sure": exact(bpd=1.5, nll_nats=4.15888308), "broken": exact(**IMPOSSIBLE)}


def write_results(results: Path, models: Mapping[str, Mapping[str, Any]], protocol: str = PROTOCOL) -> None:
    """Write a folder of results as the stages do."""
    write_json(results / "dequantize" / "metrics.json", {**IMAGES, "protocol": protocol})
    write_picture(results / "dequantize" / "pictures" / "test_images.png")
    write_studies(results)
    write_json(results / "models.json", {"models": list(models)})
    for index, (name, content) in enumerate(models.items()):
        write_model(results / name, content, closed_form=index % 2 == 1)


def write_model(folder: Path, content: Mapping[str, Any], *, closed_form: bool) -> None:
    """Write the results of one model; a bound gets reconstructions too, and a checked one what is drawn of it."""
    write_json(folder / "metrics.json", content)
    seeds, n_samples, nll = range(content["n_seeds"]), content["n_samples"], content["nll_nats"]
    epochs = [0] if closed_form else [1, 2, 3]
    curve = [
        {"epoch": epoch, "step": epoch, "n_presented": 90 * epoch, "learning_rate": 0.1, "train_bpd": 2 - epoch / 4}
        | {"validation_bpd": bpd}
        for epoch, bpd in zip(epochs, (2.0, 1.25, 1.5), strict=False)
    ]
    rows = [{**row, "seed": seed} for seed in seeds for row in curve]
    write_csv(folder / "training_curve.csv", COLUMNS, rows)
    bounds = [
        {"n_samples": 2**k, "bpd": content["bpd"] + 0.3 / 2**k, "nll_nats": nll, "standard_error_nats": 0.09}
        for k in range(n_samples.bit_length())
    ]
    columns = ("n_samples", "bpd", "nll_nats", "standard_error_nats")
    if "contrast" in content:
        columns, bounds = (*columns, "contrast_bpd"), [{**row, "contrast_bpd": row["bpd"] + 0.2} for row in bounds]
    write_csv(folder / "bound_against_k.csv", columns, bounds)
    impossible = content["n_impossible_images"]
    images = [
        {
            "seed": seed,
            "image": image,
            "log_p": -math.inf if image < impossible else -3.0 - image,
            "same_as": image,
            "pareto_k": image / 4 - 0.25 if "pareto_k_limit" in content else math.nan,
        }
        for seed in seeds
        for image in range(N_IMAGES)
    ]
    write_csv(folder / "per_image.csv", ("seed", "image", "log_p", "same_as", "pareto_k"), images)
    write_picture(folder / "pictures" / "samples.png")
    if content["kind"] == "lower":
        write_picture(folder / "pictures" / "reconstructions.png")
    if "largest_leaked_gradient" in content:
        write_picture(folder / "pictures" / "completions.png")
        write_picture(folder / "pictures" / "receptive_field.png")


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8), 128).save(path)


def params_of(models: Mapping[str, object], family: str = "a family") -> Params:
    """The committed parameters with other models."""
    sections = {name: FamilySection(family=family) for name in models}
    return read_params(ROOT / "params.yaml").model_copy(update={"models": list(models), "sections": sections})


def report(
    folder: Path, models: Mapping[str, Mapping[str, Any]], family: str = "a family", protocol: str = PROTOCOL
) -> str:
    """Write results and their report; return the page."""
    write_results(folder / "results", models, protocol)
    write_report(params_of(models, family), folder / "results", folder / "out")
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


def row_of(page: str, model: str) -> str:
    """The row of a model in the table."""
    match = re.search(rf'<tr data-model="{re.escape(html.escape(model))}">(.*?)</tr>', page, re.DOTALL)
    assert match is not None
    return match.group(1)


def rows_of(table: str) -> list[list[str]]:
    """What a reader sees of each cell of each row of a table."""
    return [cells_of(row) for row in re.findall(r"<tr[ >].*?</tr>", table, re.DOTALL)]


def cells_of(row: str) -> list[str]:
    """What a reader sees of each cell of a row."""
    return [text_of(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)]


def section_of(page: str, model: str) -> str:
    """The section of a model."""
    match = re.search(rf'<section class="model" id="model-{model}".*?</section>', page, re.DOTALL)
    assert match is not None
    return match.group(0)


def text_of(fragment: str) -> str:
    """What a reader sees of a fragment."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", fragment)).split())


def every_chart_says_what_it_shows(charts: Mapping[str, object], page: str) -> None:
    """Each chart is placed, has a sentence for those who cannot see it, and no name twice."""
    for name, chart in charts.items():
        assert str(chart) in page, f"{name} is drawn but not placed"
        assert re.search(r'aria-label="[A-Z][^"]{30,}\."', str(chart)), name
        assert "mathdefault" not in str(chart)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
