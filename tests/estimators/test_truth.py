"""No model beats the truth: the test keeps its level, refutes numbers that are too good, and measures the excess."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bitsperdim.estimators.truth import LEVEL, against_truth

N_IMAGES, N_LEVELS = 40, 6
TRUTH = np.random.default_rng(0).dirichlet(np.full(N_LEVELS, 0.7))  # distribution of an image of one sub-pixel
OTHER = np.random.default_rng(1).dirichlet(np.full(N_LEVELS, 0.7))
RATIO = 0.25  # weight of the other distribution in the model: models close to the truth are refuted most often
NEAR = (1 - RATIO) * TRUTH + RATIO * OTHER


def test_the_truth_itself_is_not_refuted() -> None:
    log_p = np.log(TRUTH)[np.random.default_rng(2).choice(N_LEVELS, N_IMAGES, p=TRUTH)]
    found = against_truth(log_p, log_p)
    assert (found.excess, found.standard_error, found.evidence, found.is_refuted) == (0, 0, 0, False)
    assert found.critical == pytest.approx(math.log(1 / LEVEL))
    assert found.n_images == N_IMAGES


def test_right_models_are_refuted_no_more_often_than_the_level_says() -> None:
    """2,000 test sets at a level of 5 % with a model near the truth; more than 129 are 3 standard errors too many."""
    generator, n_sets, level = np.random.default_rng(3), 2000, 0.05
    x = generator.choice(N_LEVELS, (n_sets, N_IMAGES), p=TRUTH)
    found = [against_truth(np.log(NEAR)[row], np.log(TRUTH)[row], level=level).is_refuted for row in x]
    assert 0 < sum(found) <= level * n_sets + 3 * math.sqrt(level * n_sets)


def test_weights_hold_the_level_too() -> None:
    """Log-normal weights of log-spread 1 whose mean is the true P(x); 2,000 test sets at a level of 5 %."""
    generator, n_sets, level = np.random.default_rng(4), 2000, 0.05
    log_w = generator.standard_normal((n_sets, 3, 8)) - 0.5
    log_p = np.logaddexp.reduce(log_w, 1) - math.log(3)
    found = [against_truth(row, np.zeros(8), level=level).is_refuted for row in log_p]
    assert 0 < sum(found) <= level * n_sets + 3 * math.sqrt(level * n_sets)


def test_draws_of_bounds_hold_the_level_with_their_noise_taken_off() -> None:
    """Bounds that equal the truth on average: uncorrected, their noise would refute too often; 2,000 sets at 5 %."""
    generator, n_sets, level, n_draws = np.random.default_rng(5), 2000, 0.05, 4
    drawn = 2 * generator.standard_normal((n_sets, n_draws, N_IMAGES))
    means, errors = drawn.mean(1), drawn.std(1, ddof=1) / math.sqrt(n_draws)
    truth = np.zeros(N_IMAGES)
    found = [
        against_truth(mean, truth, bound_errors=error, n_draws=n_draws, level=level).is_refuted
        for mean, error in zip(means, errors, strict=True)
    ]
    assert sum(found) <= level * n_sets
    assert sum(against_truth(mean, truth, level=level).is_refuted for mean in means) > 2 * level * n_sets
    high = against_truth(means[0] + 10, truth, bound_errors=errors[0], n_draws=n_draws, level=level)
    assert high.is_refuted
    once = against_truth(means[0] + 10, truth, bound_errors=np.full(N_IMAGES, math.inf), level=level)
    assert (once.critical, once.is_refuted) == (math.inf, False)


def test_too_large_masses_are_refuted_from_the_critical_evidence_on() -> None:
    x = np.random.default_rng(6).choice(N_LEVELS, N_IMAGES, p=TRUTH)
    truth = np.log(TRUTH)[x]
    for factor, is_refuted in ((1.001, True), (0.999, False)):
        added = factor * math.log(1 / LEVEL) / N_IMAGES
        found = against_truth(truth + added, truth)
        assert found.is_refuted is is_refuted
        assert found.evidence == pytest.approx(factor * math.log(1 / LEVEL))
        assert found.excess == pytest.approx(-added)


def test_the_excess_is_the_divergence_and_its_interval_covers_it() -> None:
    """The intervals of 95 % of 1,000 test sets cover it; fewer than 925 would be 3.6 standard errors too few."""
    divergence = float((TRUTH * np.log(TRUTH / NEAR)).sum())
    x = np.random.default_rng(7).choice(N_LEVELS, (1000, 300), p=TRUTH)
    found = [against_truth(np.log(NEAR)[row], np.log(TRUTH)[row]) for row in x]
    covers = [abs(each.excess - divergence) <= 1.96 * each.standard_error for each in found]
    assert 925 <= sum(covers) <= 975
    mean = np.mean([each.excess for each in found])
    assert mean == pytest.approx(divergence, abs=4 * np.std([each.excess for each in found]) / math.sqrt(1000))


def test_what_is_impossible_to_the_model_is_an_infinite_excess_and_no_refutation() -> None:
    found = against_truth(np.array([-1.0, -math.inf]), np.array([-9.0, -9.0]))
    assert (found.excess, found.evidence, found.is_refuted) == (math.inf, -math.inf, False)


@pytest.mark.parametrize(
    ("log_p", "truth", "words"),
    [
        ([-1.0], [-math.inf], "an image of true probability 0 cannot be drawn"),
        ([math.nan], [-1.0], "log_p has a log-likelihood that is NaN"),
        ([-1.0], [math.inf], "log_p_true has a log-likelihood that is NaN or .inf"),
        ([-1.0, -1.0], [-1.0], "log_p_true must have shape"),
        ([], [], "log_p must have shape"),
    ],
)
def test_what_is_no_log_likelihood_is_one_sentence(log_p: list[float], truth: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        against_truth(np.array(log_p, dtype=np.float64), np.array(truth, dtype=np.float64))
