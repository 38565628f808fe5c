"""The report shows how far a number can be trusted: marks, other estimates, images that are the same."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bitsperdim.report import write_report
from bitsperdim.results.formatting import MINUS
from support.metrics import exact, metrics
from support.results import (
    ANNEALED,
    CONTRAST,
    IMAGES,
    JUDGED,
    MODELS,
    REFINED,
    cells_of,
    params_of,
    report,
    row_of,
    section_of,
    text_of,
    write_results,
)

pytestmark = pytest.mark.usefixtures("charts_of_studies_drawn_once")


def test_a_biased_number_is_flagged(tmp_path: Path) -> None:
    page = report(tmp_path, {"few": metrics(bias_exceeds_standard_error=True), "many": metrics()})
    assert "> error" in text_of(row_of(page, "few"))
    words = (
        f"Biased. The bias, about {MINUS}0.012 nats, exceeds the standard error of 0.096: this number says more about"
    )
    assert f"{words} K = 8 than about the model." in text_of(section_of(page, "few"))
    assert "exceeds" not in text_of(row_of(page, "many") + section_of(page, "many"))
    assert "> error" not in text_of(row_of(page, "many"))


def test_a_small_effective_sample_size_is_flagged(tmp_path: Path) -> None:
    few = metrics(too_few_samples=True, ess_below_10_share=0.123)
    page = report(tmp_path, {"few": few, "many": metrics()})
    assert "12 % below 10" in text_of(row_of(page, "few"))
    words = "Small effective sample size. 12 % of the test images have an effective sample size below 10."
    assert words in text_of(section_of(page, "few"))
    assert "below 10" not in text_of(row_of(page, "many") + section_of(page, "many"))


def test_other_estimates_stand_beside_the_bound(tmp_path: Path) -> None:
    doubted = metrics(
        nll_jackknife_nats=3.4,
        nll_jackknife_nats_error=0.0012,
        nll_extrapolated_nats=3.41,
        n_units=16,
        n_active_units=9,
        annealed=ANNEALED,
        **JUDGED,
    )
    page = report(tmp_path, {"doubted": doubted, "plain": metrics()})
    section = text_of(section_of(page, "doubted"))
    for words in (
        f"3.400 jackknife: an estimate, not a bound {MINUS}0.0230 ± 0.0012",  # 3.4 - 3.42295174
        f"3.410 extrapolated in 1/K: an estimate, not a bound {MINUS}0.013 its error is unknown",
        "3.50 ± 0.11 annealed: an upper bound for 3 test images from 4 chains of 60 steps; for these images, the "
        f"importance-sampled bound is 3.625 {MINUS}0.125 ± 0.031",
        "On 7 images drawn from the model",
        "a gap of 0.222 ± 0.041 nats",
        "Active units of the latent code: 9 of 16.",
        "Heavy tails. For 20 % of the test images k-hat is above 0.67",
        "are 20 % of the values: there, a few samples determine the number of the image, however large K is",
        "A value left of the line does not prove that its image is safe",
    ):
        assert words in section, words
    assert 'aria-label="Histogram of k-hat of doubted: 20.0 % above the limit of 0.67."' in page
    assert "20 % heavy tails" in text_of(row_of(page, "doubted"))
    other = text_of(section_of(page, "plain"))
    assert "Not judged: k-hat needs K of at least 1,000." in other
    assert "Heavy tails" not in other
    assert "Annealing" not in other


def test_estimates_of_a_flagged_number_are_flagged(tmp_path: Path) -> None:
    flagged = metrics(nll_jackknife_nats=3.4, nll_extrapolated_nats=3.41, **(JUDGED | {"too_few_samples": True}))
    page = report(tmp_path, {"flagged": flagged})
    section = text_of(section_of(page, "flagged"))
    for words in (
        f"3.400 † jackknife: an estimate, not a bound {MINUS}0.023 † its error is unknown",
        f"3.410 † extrapolated in 1/K: an estimate, not a bound {MINUS}0.013 † its error is unknown",
    ):
        assert words in section, words


def test_one_sample_has_no_known_error(tmp_path: Path) -> None:
    unknown = {"bpd_monte_carlo_error": math.inf, "log_p_bias_nats": -math.inf, "bias_exceeds_standard_error": True}
    page = report(tmp_path, {"elbo": metrics(n_samples=1, **unknown)})
    cells = cells_of(row_of(page, "elbo"))
    assert (cells[3], cells[5]) == ("unknown", "unknown K = 1")  # the Monte Carlo error and the bias
    assert text_of(row_of(page, "elbo")).count("unknown") == 2
    assert "With K = 1 the bias cannot be estimated" in text_of(section_of(page, "elbo"))


def test_what_is_not_to_be_believed_is_marked(tmp_path: Path) -> None:
    models = {"good": metrics(), "few": metrics(too_few_samples=True), "bad": exact(bpd=2.5, nll_nats=6.93147181)}
    page = report(tmp_path, models)
    assert {name: cells_of(row_of(page, name))[1] for name in models} == {
        "good": "≤ 1.235 ± 0.034",
        "few": "≤ 1.235 ± 0.034 †",
        "bad": "= 2.500 ± 0.034 ‡ worse than uniform",
    }
    words = "Do not trust this number. It is worse than uniform coding, which needs 2 bits/dim."
    assert text_of(page).count(words) == text_of(section_of(page, "bad")).count(words) == 1
    assert page.count('<small class="flag">worse than uniform</small>') == 1
    of_models = page.partition('aria-labelledby="known"')[0]  # the study of known truths has its own marks
    assert of_models.count('<sup class="flag">†</sup>') == 4  # table, title, other estimates
    assert page.count('<sup class="flag">‡</sup>') == 3


def test_images_that_are_the_same_are_named_at_the_top_and_beside_the_number(tmp_path: Path) -> None:
    seen = exact(n_distinct_images=3, n_training_images=2, bpd_without_training_images=1.5)
    write_results(tmp_path / "results", {"seen": seen, "other": exact()})
    path = tmp_path / "results" / "dequantize" / "metrics.json"
    counts = {"n_test_distinct": 3, "n_test_in_train": 2, "n_test_near_train": 1}
    pictures = tmp_path / "results" / "dequantize" / "pictures"
    (pictures / "near_copies.png").write_bytes((pictures / "test_images.png").read_bytes())
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **counts}), "utf-8")
    write_report(params_of({"seen": seen, "other": seen}), tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    top = text_of(page.split("<main>")[0])
    words = "The same images. 3 of the 5 test images are distinct: standard errors count copies once. 2 of the 5 test"
    assert f"{words} images are" in top
    assert "1 of the 5 test images are nearly training images" in top
    assert 'alt="Pairs of a test image and the training image that it nearly copies"' in page.split("<main>")[0]
    words = "2 of the 5 test images are training images too, and without them it is 1.5000 bits/dim"
    assert f"Trained on test images. {words}" in text_of(section_of(page, "seen"))
    assert "training images too" not in text_of(section_of(page, "other"))
    assert "§ trained on test images" in text_of(row_of(page, "seen"))


def test_before_and_after_the_refinement_stand_side_by_side(tmp_path: Path) -> None:
    """The page shows both numbers, of the encoder and refined, for the same images; a remaining flag is explained."""
    alone = metrics(proposal="refined", refined=REFINED, **JUDGED)
    refined = {**alone, "contrast": CONTRAST}
    models = {
        "refined": refined,
        "flagged": {**refined, "too_few_samples": True},
        "alone": alone,
        "plain": metrics(),
    }
    page = report(tmp_path, models)
    section = text_of(section_of(page, "refined"))
    for words in (
        f"encoder 100 test images 7.250 † {MINUS}0.031 43 14 % 60 % 1,024",
        "refined nats for the same images; other columns for all images 7.125 ",
    ):
        assert words in section.replace("\xa0", " "), words
    assert "lowers the number for these images by 0.125 ± 0.024 nats (paired)" in section
    assert "421 were gradients" in section
    assert "4.3 % of the images needed more than one fit" in section
    assert "still flagged" not in section
    assert "The dashed line is for the encoder's proposal" in section
    assert "still flagged: none of the normals that were found" in text_of(section_of(page, "flagged"))
    for other in ("alone", "plain"):
        assert "Before and after" not in section_of(page, other)
        assert "dashed" not in section_of(page, other)
    assert page.count("Before and after the proposals were refined") == 2


def test_the_noise_that_was_replaced_stands_beside_the_other(tmp_path: Path) -> None:
    """The noise is shown in the same way; a loss has a negative sign, and values that are not judged have no column."""
    own = {**CONTRAST, "proposal": "uniform", "n_passes_after": 1360.4}
    lost = {**own, "gain_nats": -0.1771, "too_few_samples": False}
    unjudged = {key: value for key, value in lost.items() if key != "pareto_k_high_share"}
    page = report(
        tmp_path,
        {
            "flow": metrics(noise="sequential", contrast=own, **JUDGED),
            "fitted": metrics(noise="fitted", contrast=unjudged),
            "own": metrics(noise="uniform"),
        },
    )
    flow, fitted = (text_of(section_of(page, name)).replace("\xa0", " ") for name in ("flow", "fitted"))
    for words in (
        "Before and after the noise was replaced",
        f"uniform 100 test images 7.250 † {MINUS}0.031 43 14 % 60 % 1,024",
        "sequential nats for the same images; other columns for all images 7.125 ",
        "20 % 1,360 Noise connects a density",
        "lowers the number for these images by 0.125 ± 0.024 nats (paired)",
        "The dashed line is for uniform noise, the density's own noise: this curve, moved by the paired difference",
    ):
        assert words in flow, words
    assert f"uniform 100 test images 7.250 {MINUS}0.031 43 14 % 1,024" in fitted
    assert f"by {MINUS}0.177 ± 0.024 nats (paired)" in fitted
    assert "Fitted noise is a conditional flow" in fitted
    assert "Before and after" not in section_of(page, "own")


def test_the_report_shows_the_truth_and_what_each_model_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "above the truth" not in text_of(report(tmp_path / "unknown", MODELS)).split("Why believe")[0].lower()
    monkeypatch.setitem(IMAGES, "truth_bpd", 0.8)
    monkeypatch.setitem(IMAGES, "truth_bpd_standard_error", 0.0123)
    truth = {"bpd": 0.8, "evidence_nats": -3.0, "critical_nats": 9.2, "level": 1e-4, "is_refuted": False}
    above = {**truth, "excess_bpd": 0.43456, "excess_bpd_standard_error": 0.0211}
    better = {**truth, "excess_bpd": -0.2, "excess_bpd_standard_error": 0.01, "evidence_nats": 99.0, "is_refuted": True}
    models = {"sure": exact(truth=above), "wrong": exact(bpd=0.6, truth=better)}
    page = report(tmp_path, models)
    text = text_of(page)
    assert "the distribution that the images are drawn from; no correct model is better; ± 0.012 over test" in text
    heads = cells_of(page.partition('<table id="models">')[2].partition("</thead>")[0])
    assert heads[:4] == ["Model", "Bits/dim", "Number is", "Above the truth"]
    assert cells_of(row_of(page, "sure"))[3] == "0.435 ± 0.021"
    assert cells_of(row_of(page, "wrong"))[1] == "= 0.600 ± 0.034 ‡ better than the truth"
