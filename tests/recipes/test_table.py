"""Tables of results: one for each protocol, sorted, with signs, sources and flags; no number is lost."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsperdim.core.files import write_json
from bitsperdim.core.labels import WORDS
from bitsperdim.estimators.paired import paired_difference
from bitsperdim.recipes.result import dequantizations
from bitsperdim.recipes.table import listing, markdown, summary
from bitsperdim.results.formatting import MINUS
from support.metrics import metrics

METRICS = metrics(
    protocol="a/static",
    bpd=0.16,
    bpd_standard_error=0.002,
    nll_nats=87.25,
    nll_nats_standard_error=0.31,
    n_samples=5000,
)
PAIR = {"bpd": 0.0691, "bpd_standard_error": 0.0026, "log_p_nats": -3.1, "log_p_nats_standard_error": 0.1}
RESULT: dict[str, Any] = {
    "recipe": "one",
    "size": "cpu",
    "title": "One",
    "commit": "0123456789abcdef",
    "has_local_changes": False,
    "data": {"protocol": "a/static", "n_images": {"test": 10_000}, "sha256": {"test": "00"}},
    "yardsticks": {"entropy_bpd": 0.3, "webp_bpd": 0.2, "png_bpd": 0.4},
    "models": {"vae": {"metrics": METRICS}},
    "published": [
        {
            "model": "vae",
            "what": "VAE",
            "value": 88.71,
            "unit": "nats",
            "kind": "bound",
            "protocol": "K = 5000",
            "source": "B, table 1",
        },
        {
            "model": None,
            "what": "flow",
            "value": 1.06,
            "unit": "bits/dim",
            "kind": "bound",
            "protocol": "p",
            "source": "C",
        },
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_json(tmp_path / "recipes" / "results" / "one.json", RESULT)
    return tmp_path


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_a_result_is_a_row_with_its_reference(root: Path) -> None:
    text = markdown(root)
    assert text.startswith("**`a/static`**, 10,000 test images\n\n| ")
    header, rule, *body = rows(text)
    assert {len(row) for row in (header, rule, *body)} == {6}
    ours = next(row for row in body if row[0] == "`one`: vae")
    assert ours[1:5] == ["≤ 0.1600 ± 0.0020", "≤ 87.25 ± 0.31", "an upper bound", "5000"]
    assert ours[5] == "≤ 88.71 nats [1]"
    assert "Published for these images in general: ≤ 1.06 bits/dim [2]." in text
    assert text.endswith("\n1. VAE: K = 5000; B, table 1\n2. flow: p; C\n")
    assert "†" not in text


def test_the_number_before_refinement_stands_beside_it_where_it_is_of_all_images(root: Path) -> None:
    """Published bounds are comparable with this number; for a part of the images it would be another number."""
    contrast = {
        "proposal": "encoder",
        "bpd": 0.1605,
        "nll_nats": 87.5231,
        "nll_nats_after": 87.25,
        "log_p_bias_nats": -0.1,
        "ess_median": 30.0,
        "ess_below_10_share": 0.1,
        "too_few_samples": True,
        "gain_nats": 0.27,
        "gain_nats_standard_error": 0.01,
        "n_passes": 5000,
        "n_passes_after": 5600.0,
    }
    for n_images, proposal, shown in (
        (METRICS["n_images"], "encoder", "≤ 87.25 ± 0.31 (≤ 87.52† by the encoder alone)"),
        (METRICS["n_images"], "uniform", "≤ 87.25 ± 0.31 (≤ 87.52† by uniform noise alone)"),
        (METRICS["n_images"] - 1, "encoder", "≤ 87.25 ± 0.31 |"),
    ):
        result = copy.deepcopy(RESULT)
        result["models"]["vae"]["metrics"]["contrast"] = {**contrast, "n_images": n_images, "proposal": proposal}
        write_json(root / "recipes" / "results" / "one.json", result)
        assert shown in markdown(root)
        if n_images == METRICS["n_images"]:
            assert shown[2:].replace(" ± 0.31", " ± 0.31 nats") in summary(root / "recipes" / "results" / "one.json")


def test_rows_are_sorted_and_yardsticks_among_them(root: Path) -> None:
    better = copy.deepcopy(RESULT) | {"recipe": "two", "size": "gpu"}
    better["models"]["vae"]["metrics"] |= {"bpd": 0.1, "kind": "exact", "too_few_samples": True}
    write_json(root / "recipes" / "results" / "two-gpu.json", better)
    text = markdown(root)
    names = [row[0] for row in rows(text)[2:]]
    assert names == [
        "*PNG: all test images on one sheet*",
        "*independent sub-pixels: the entropy of each, fitted to the test set itself*",
        "*lossless WebP: all test images on one sheet*",
        "`one`: vae",
        "`two --size gpu`: vae",
    ]
    assert "= 0.1000 ± 0.0020†" in text
    assert text.count("† Too few samples") == 1
    assert text.count("flow") == 1


def test_protocols_never_share_a_table(root: Path) -> None:
    other = copy.deepcopy(RESULT) | {"recipe": "two"}
    other["models"]["vae"]["metrics"] |= {"protocol": "a/dynamic"}
    write_json(root / "recipes" / "results" / "two.json", other)
    text = markdown(root)
    assert text.count("| recipe: model |") == 2
    assert text.index("a/dynamic") < text.index("`two`: vae") < text.index("a/static") < text.index("`one`: vae")


def test_other_test_images_never_share_a_table(root: Path) -> None:
    other = copy.deepcopy(RESULT) | {"recipe": "two"}
    other["data"]["sha256"]["test"] = "01"
    write_json(root / "recipes" / "results" / "two.json", other)
    assert markdown(root).count("| recipe: model |") == 2


def test_hostile_text_and_infinite_numbers_keep_the_table_whole(root: Path) -> None:
    other = copy.deepcopy(RESULT)
    other["models"]["vae"]["metrics"] |= {"bpd": math.inf, "nll_nats": math.inf, "nll_nats_standard_error": math.inf}
    other["published"][0] |= {"what": "a | b\nc", "value": 81.30}
    write_json(root / "recipes" / "results" / "one.json", other)
    body = rows(markdown(root))[2:]
    ours = next(row for row in body if row[0] == "`one`: vae")
    assert ours[1:3] == ["≤ ∞", "≤ ∞"]
    assert "81.30 nats" in markdown(root)
    assert all(line.count("|") - line.count("\\|") == 7 for line in markdown(root).splitlines() if line[:1] == "|")


def test_sources_are_numbered_in_the_order_of_the_table_and_named_once(root: Path) -> None:
    """The index beside a model is that of its own source, also if recipes are sorted by their results."""
    worse = copy.deepcopy(RESULT) | {"recipe": "two"}
    worse["models"]["vae"]["metrics"] |= {"bpd": 0.19}
    worse["published"][0] |= {"what": "another", "value": 90.0}
    write_json(root / "recipes" / "results" / "two.json", worse)
    text = markdown(root)
    held = {row[0]: row[5] for row in rows(text)}
    assert (held["`two`: vae"], held["`one`: vae"]) == ("≤ 90.00 nats [1]", "≤ 88.71 nats [2]")
    assert "\n1. another: K = 5000; B, table 1\n2. VAE: K = 5000; B, table 1\n3. flow: p; C\n" in text
    assert text.count("≤ 1.06 bits/dim [3]") == 1


def test_the_list_fits_into_100_columns(repository: Path) -> None:
    text, broken = listing(repository)
    lines = text.splitlines()
    assert not broken
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("    published: ") for line in lines) > 10
    assert any(line.startswith("    ours, cpu: ") for line in lines)


def test_the_list_and_the_end_of_a_run_flag_what_the_table_flags(root: Path) -> None:
    """The mark, K and the number of test images appear beside a number everywhere."""
    size = {"minutes": 1, "params": {}}
    write_json(  # JSON is valid YAML
        root / "recipes" / "one.yaml",
        {"title": "One", "params": {}, "sizes": {"cpu": size, "gpu": size}, "published": RESULT["published"]},
    )
    result = copy.deepcopy(RESULT)
    result["models"]["exact"] = {"metrics": {**METRICS, "kind": "exact", "n_samples": 1}}
    result["data"]["n_images"]["test"] = 9_980
    path = root / "recipes" / "results" / "one.json"
    for is_flagged, flag in ((False, ""), (True, "†")):
        result["models"]["vae"]["metrics"] = {**METRICS, "too_few_samples": is_flagged}
        write_json(path, result)
        row = next(row for row in rows(markdown(root)) if row[0] == "`one`: vae")
        assert row[1:3] == [f"≤ 0.1600 ± 0.0020{flag}", f"≤ 87.25 ± 0.31{flag}"]
        for text in (listing(root)[0], summary(path)):
            flat = " ".join(text.split())
            assert f"vae {row[1]} bits/dim, {row[2]} nats at K = 5000, an upper bound, 9,980 test images" in flat
            assert "exact = 0.1600 ± 0.0020 bits/dim, = 87.25 ± 0.31 nats, exact, 9,980 test images" in flat
            assert flat.count("† Too few samples: the bias") == is_flagged


def test_an_old_result_that_is_worse_than_uniform_is_marked(root: Path) -> None:
    """The number of levels is part of the protocol."""
    result, old = copy.deepcopy(RESULT), {**METRICS, "protocol": "a/none/4x4x1/L4/test9/given-none"}
    result["models"] = {"vae": {"metrics": old}, "bad": {"metrics": {**old, "bpd": 2.1}}}
    path = root / "recipes" / "results" / "one.json"
    write_json(path, result)
    cells = {row[0]: row[1] for row in rows(markdown(root))[2:]}
    assert (cells["`one`: vae"], cells["`one`: bad"]) == ("≤ 0.1600 ± 0.0020", "≤ 2.1000 ± 0.0020‡")
    for text in (markdown(root), summary(path)):
        assert text.count("‡ Worse than uniform coding") == 1
        assert "† Too few" not in text


def test_no_results_are_no_table(tmp_path: Path) -> None:
    assert markdown(tmp_path) == ""
    assert listing(tmp_path) == ("There are no recipes.", [])


@pytest.mark.parametrize(("bpd", "shown"), [(-30.0, f"{MINUS}30.000"), (30.0, "30.000")])
def test_a_density_stands_below_all_and_says_that_it_is_none(bpd: float, shown: str, root: Path) -> None:
    """This holds for any number: a density is not ranked among likelihoods."""
    result = copy.deepcopy(RESULT)
    result["models"]["raw"] = {"metrics": {**METRICS, "kind": "density", "bpd": bpd}}
    write_json(root / "recipes" / "results" / "one.json", result)
    last = rows(markdown(root))[-1]
    assert last[0] == "`one`: raw"
    assert last[1].startswith(f"density {shown}")
    assert last[3] == WORDS["density"]


def test_paired_differences_stand_below_their_table(root: Path) -> None:
    result = copy.deepcopy(RESULT)
    result["dequantizations"] = [{"reference": "plain", "differences": {"fixed": PAIR}}]
    assert "plain" not in markdown(root)
    write_json(root / "recipes" / "results" / "one.json", result)
    assert "above those of `plain` on the same test images" in markdown(root)
    assert "`fixed` 0.0691 ± 0.0026." in markdown(root)


@pytest.mark.parametrize(("flagged", "mark"), [("fixed", "†"), ("plain", "†"), ("vae", "")])
def test_a_paired_difference_is_flagged_where_one_of_the_two_is(flagged: str, mark: str, root: Path) -> None:
    """Too few samples on either side of the pair set the flag; those of a third model do not."""
    result = copy.deepcopy(RESULT)
    for name in ("vae", "fixed", "plain"):
        result["models"][name] = {"metrics": {**METRICS, "too_few_samples": name == flagged}}
    result["dequantizations"] = [{"reference": "plain", "differences": {"fixed": PAIR}}]
    write_json(root / "recipes" / "results" / "one.json", result)
    assert f"`fixed` 0.0691 ± 0.0026{mark}.\n" in markdown(root)


def test_the_differences_of_a_result_are_paired() -> None:
    rng = np.random.default_rng(0)
    flow = {"family": "flow", "transform": "maf", "n_transforms": 2, "hidden_sizes": [8], "n_bins": 4}
    noise = {"n_couplings": 1, "n_filters": 4, "n_blocks": 0}
    flow |= {"logit_margin": 0.0, "dequantization": "uniform", "variational": noise, "train_samples": 1}
    params = {
        "plain": flow,
        "learned": {**flow, "dequantization": "variational"},
        "raw": {**flow, "dequantization": "none"},
        "gaussian": {"family": "gaussian"},
    }
    log_p = {name: rng.normal(-9, 2, (3, 30)) for name in params}  # three seeds
    kinds = {name: {"metrics": {"kind": "density" if name == "raw" else "lower"}} for name in params}
    (group,) = dequantizations(params, log_p, kinds, (1, 2, 2))
    assert group["reference"] == "plain"
    assert list(group["differences"]) == ["learned"]
    pair = paired_difference(log_p["learned"].mean(0), log_p["plain"].mean(0))
    found = group["differences"]["learned"]
    assert found["log_p_nats"] == pair.nats
    assert found["bpd"] == pytest.approx(-pair.nats / 4 / math.log(2))
    assert found["bpd_standard_error"] == pytest.approx(pair.standard_error / 4 / math.log(2))
    same_as = np.arange(30) // 3 * 3  # ten images, three times each
    (of_copies,) = dequantizations(params, log_p, kinds, (1, 2, 2), same_as)
    expected = paired_difference(log_p["learned"].mean(0), log_p["plain"].mean(0), same_as).standard_error
    assert of_copies["differences"]["learned"]["log_p_nats_standard_error"] == expected != pair.standard_error
