"""If images were drawn from a known distribution, every model is compared with it, and the table shows the result."""

from __future__ import annotations

import dataclasses
import math

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
