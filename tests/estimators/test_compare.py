"""Paired differences: the textbook formula, the coverage of the error, and the choice of the models to compare."""

import numpy as np
import pytest
from scipy.stats import binom, ttest_rel

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import FamilySection
from bitsperdim.config.variants import ways_of_dequantizing
from bitsperdim.estimators.paired import paired_difference


def test_it_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(-100, 30, 50)
    second = first - 1 + rng.normal(0, 2, 50)
    pair = paired_difference(first, second)
    assert pair.nats == pytest.approx(first.mean() - second.mean())
    assert pair.nats / pair.standard_error == pytest.approx(ttest_rel(first, second).statistic)
    back = paired_difference(second, first)
    assert (back.nats, back.standard_error) == pytest.approx((-pair.nats, pair.standard_error))
    itself = paired_difference(first, first)
    assert (itself.nats, itself.standard_error, itself.skewness) == (0, 0, 0)
    shifted = paired_difference(first - 0.1, first)
    assert (shifted.standard_error, shifted.skewness) == (0, 0)  # rounding errors do not count


def test_the_error_covers() -> None:
    """With 2,000 test sets of 100 images the 95 % interval covers as it should; false alarms in one of 10^5 seeds."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2_000):
        images = rng.normal(-100, 30, 100)
        pair = paired_difference(images + rng.normal(0.5, 2, 100), images)
        covered += abs(pair.nats - 0.5) < 1.96 * pair.standard_error
    # with 100 images the normal interval covers 94.7 %
    assert 2 * min(binom.cdf(covered, 2_000, 0.947), binom.sf(covered - 1, 2_000, 0.947)) > 1e-5


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of shapes \(3,\) and \(4,\) cannot be paired"):
        paired_difference(np.zeros(3), np.zeros(4))
    good = np.zeros(3)
    for wrong, words in (
        (np.array([0.0, -np.inf, -1]), "is -inf for image 1: the difference is undefined for an image"),
        (np.array([0.0, -np.inf, np.nan]), "must be finite, but is -inf for image 1$"),
        (np.array([0.0, -1, np.nan]), "must be finite, but is nan for image 2$"),
        (np.array([np.inf, -1, -1]), "must be finite, but is inf for image 0$"),
        (np.zeros(0), r"must have shape \(N,\), N at least 1, not \(0,\)$"),
        (np.zeros((3, 1)), r"must have shape \(N,\), N at least 1, not \(3, 1\)$"),
        (np.float64(3), "must be a plain NumPy array, not float64$"),
        (np.zeros(3, dtype=np.int64), "must be of type float64 or float32, not int64$"),
        (np.zeros(3, dtype=np.float16), "must be of type float64 or float32, not float16$"),
        ([0.0, 1.0, 2.0], "must be a plain NumPy array, not list$"),
    ):
        for name, pair in (("log_p", (wrong, good)), ("reference", (good, wrong))):
            with pytest.raises(ValueError, match=f"^{name} {words}"):
                paired_difference(*pair)
    impossible = np.array([-np.inf, 0])
    with pytest.raises(ValueError, match=r"^log_p is -inf for image 0"):  # and numpy does not warn about the difference
        paired_difference(impossible, impossible)
    assert paired_difference(np.ones(2, dtype=np.float32), np.zeros(2)).nats == 1
    assert paired_difference(np.ones(1), np.zeros(1)).standard_error == np.inf


def section(**changes: object) -> FamilySection:
    flow = {
        "family": "flow",
        "transform": "maf",
        "n_transforms": 2,
        "hidden_sizes": [8],
        "n_bins": 4,
        "logit_margin": 0.0,
        "dequantization": "uniform",
        "variational": {"n_couplings": 1, "n_filters": 4, "n_blocks": 0},
        "train_samples": 1,
    }
    return FAMILIES["flow"].model_validate({**flow, **changes})


def test_models_that_differ_in_their_noise_alone_are_compared() -> None:
    sections = {
        "vae": FAMILIES["gaussian"].model_validate({"family": "gaussian"}),
        "fixed": section(dequantization="uniform_fixed"),
        "plain": section(),
        "iw": section(train_samples=8),
        "learned": section(dequantization="variational", variational={"n_couplings": 2, "n_filters": 9, "n_blocks": 0}),
        "deeper": section(n_transforms=3),
        "longer": section(train={"epochs": 7}),
    }
    assert ways_of_dequantizing(sections) == [("plain", ["fixed", "plain", "iw", "learned"])]
    sections.pop("plain")
    assert ways_of_dequantizing(sections) == [("fixed", ["fixed", "iw", "learned"])]
    assert ways_of_dequantizing({"alone": section()}) == []


def test_flows_that_are_trained_otherwise_are_no_group() -> None:
    """A setting of null differs from a missing setting; two flows with one way of dequantizing are not compared."""
    learned = section(dequantization="variational")
    other = section(train={"patience": None, "gradient_clip": None})
    assert ways_of_dequantizing({"a": other, "b": learned}) == []
    assert ways_of_dequantizing({"a": section(), "b": section()}) == []
    assert ways_of_dequantizing({"a": section(), "b": learned}) == [("a", ["a", "b"])]
