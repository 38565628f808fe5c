"""If images were drawn from a known distribution, every model is compared with it, and the table shows the result."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.core.metrics import Metrics
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.data.prepared import Description
from bitsperdim.estimators.truth import LEVEL
from bitsperdim.evaluation import summary
from bitsperdim.evaluation.estimate import Estimate
from support.cases import small_model
from support.estimates import fixed
from support.metrics import exact
from support.results import IMAGES, MODELS, cells_of, report, row_of, text_of

SHAPE = (1, 2, 2)
DESCRIPTION = Description(SHAPE, 3, 3, "none", {"test": 3}, "hash", "t")
TRUTH = np.array([-1.0, -1.5, -5.0])


def held(*estimates: Estimate) -> Metrics:
    model = small_model("vae-categorical")
    return summary.summarise(dict(enumerate(estimates)), model, DESCRIPTION, log_p_true=TRUTH).metrics


def test_the_excess_is_the_paired_difference() -> None:
    found = held(fixed([-2, -2, -8])).truth
    assert found is not None
    differences = np.array([1, 0.5, 3])
    assert found.bpd == pytest.approx(bits_per_dim(-2.5, SHAPE))
    assert found.excess_bpd == pytest.approx(nats_to_bits_per_dim(1.5, SHAPE))
    error = float(differences.std(ddof=1)) / math.sqrt(3)
    assert found.excess_bpd_standard_error == pytest.approx(nats_to_bits_per_dim(error, SHAPE))
    assert found.evidence_nats == pytest.approx(-4.5)
    assert (found.is_refuted, found.reason) == (False, None)


def test_copies_are_draws_like_any_other() -> None:
    """Equal images count once in the test-set error, but every copy counts in the evidence."""
    model, same_as = small_model("vae-categorical"), np.zeros(3, np.int64)
    found = summary.summarise({0: fixed([-2, -2, -8])}, model, DESCRIPTION, log_p_true=TRUTH, same_as=same_as)
    assert found.metrics.truth == held(fixed([-2, -2, -8])).truth


def test_a_number_better_than_the_truth_is_marked() -> None:
    found = held(fixed([3.0, 3.0, 3.0]))
    assert found.truth is not None
    assert found.truth.is_refuted
    assert found.truth.evidence_nats == pytest.approx(16.5)
    assert found.truth.critical_nats == pytest.approx(math.log(1 / LEVEL))
    assert "‡" in found.marks
    assert any("better than the truth by 16.5 nats in all" in reason for reason in found.reasons)
    assert "better than the truth" in found.sentence


def test_each_of_several_seeds_has_its_share_of_the_level() -> None:
    """9.5 nats refute a single seed (critical value 9.2), but not one of two (9.9); the strongest seed decides."""
    just = fixed(list(TRUTH + 9.5 / 3))
    one, two = held(just).truth, held(fixed([-9, -9, -9]), just).truth
    assert one is not None
    assert two is not None
    assert (one.is_refuted, two.is_refuted) == (True, False)
    assert two.evidence_nats == pytest.approx(9.5)
    assert two.critical_nats == pytest.approx(math.log(2 / LEVEL))
    strong = held(fixed([-9, -9, -9]), fixed(list(TRUTH + 10 / 3))).truth
    assert strong is not None
    assert strong.is_refuted


def test_densities_and_unknown_truths_are_not_held() -> None:
    density = dataclasses.replace(fixed([3.0, 3.0, 3.0]), kind="density")
    assert held(density).truth is None
    unknown = summary.summarise({0: fixed([-1, -2, -6])}, small_model("vae-categorical"), DESCRIPTION)
    assert unknown.metrics.truth is None


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
