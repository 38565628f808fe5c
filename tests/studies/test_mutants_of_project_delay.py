"""The tests of the study catch classic mistakes of importance sampling; each mutant names the test that must fail.

Every mutant replaces one function by a broken version; the test passes before and must fail after.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.studies.project_delay import estimators, network, proposals
from bitsperdim.studies.project_delay.chain import Chain
from bitsperdim.studies.project_delay.network import Project
from studies import test_project_delay as laws
from support.mutants import Mutant, must_die


def first_predecessor_alone(project: Project, durations: np.ndarray) -> np.ndarray:
    """Let a task begin when its first predecessor has ended."""
    finish = durations.copy()
    for task, earlier in enumerate(project.predecessors):
        if earlier:
            finish[:, task] += finish[:, earlier[0]]
    return finish


def inverted_ratio(project: Project, means: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Return q / p instead of p / q."""
    return -LOG_WEIGHTS(project, means, durations)


def no_normalizers(project: Project, means: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Return the ratio of the exponentials without the ratio of the rates."""
    return LOG_WEIGHTS(project, means, durations) - np.log(means / np.array(project.means)).sum()


def rates_for_means(chain: Chain, rates: Tensor, deadline: float) -> Tensor:
    """Use the rates of the proposal for the tilted project."""
    return (
        SECOND_MOMENT(chain, rates, deadline)
        - chain.log_tail(deadline, 2 * chain.rates - rates)
        + chain.log_tail(deadline, rates)
    )


def always_finite(chain: Chain, rates: Tensor, deadline: float) -> Tensor:
    """Treat a rate that is not positive as a small positive rate."""
    tilted = (2 * chain.rates - rates).clamp_min(1e-3)
    return (chain.rates.square() / (rates * tilted)).log().sum() + chain.log_tail(deadline, tilted)


def all_weights(log_w: Tensor, is_late: Tensor) -> Tensor:
    """Use the weights of all draws, whether they are late or not."""
    return log_w


def without_predecessors(chain: Chain, project: Project) -> None:
    INIT(chain, Project(project.means, ((),) * project.n_tasks))


def relative_error(log_w: Tensor) -> Tensor:
    """Return the standard deviation of one draw, without dividing by the root of n."""
    return STANDARD_ERROR(log_w) * math.sqrt(len(log_w))


def derivative_of_the_other_sign(chain: Chain, t: float, rates: Tensor | None = None) -> Tensor:
    return 2 / chain.rates - GIVEN_DELAY(chain, t, rates)


def no_weights_in_the_fit(project: Project, means: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Give all late draws the same weight."""
    return np.zeros(len(durations))


def errors_of_nothing(*arguments: Any) -> estimators.Estimate:
    """Return 0 +- 0 without a late draw."""
    found = ESTIMATE(*arguments)
    return estimators.Estimate(**{**vars(found), "standard_error": 0.0 if not found.n_late else found.standard_error})


LOG_WEIGHTS, SECOND_MOMENT, ESTIMATE = proposals.log_weights, proposals.log_second_moment, estimators.estimate
INIT, GIVEN_DELAY, STANDARD_ERROR = Chain.__init__, Chain.mean_durations_given_delay, estimators.standard_error


def method_finds_the_durations() -> None:
    laws.test_the_method_finds_the_durations_of_late_projects(0)


def exact_values() -> None:
    """Compute on a new chain, because the chain of the module was built before the mutant was installed."""
    chain = Chain(network.PROJECT)
    assert len(chain.states) == 51
    assert math.exp(chain.log_tail(70.0)) == pytest.approx(3.2115e-5, abs=5e-10)


MUTANTS = {
    "first predecessor alone": Mutant(
        *(network, "finishing_times", first_predecessor_alone),
        laws.test_the_completion_time_is_that_of_the_longest_path,
    ),
    "predecessors forgotten": Mutant(Chain, "__init__", without_predecessors, exact_values),
    "inverted ratio": Mutant(proposals, "log_weights", inverted_ratio, laws.test_weights_are_ratios_of_densities),
    "normalizers forgotten": Mutant(
        *(estimators, "log_weights", no_normalizers), laws.test_estimates_are_unbiased_with_the_exact_variance
    ),
    "late or not": Mutant(
        *(estimators, "of_late", all_weights), laws.test_estimates_are_unbiased_with_the_exact_variance
    ),
    "rates of the proposal in the second moment": Mutant(
        *(proposals, "log_second_moment", rates_for_means), laws.test_the_exact_variances_are_those_worked_out
    ),
    "a variance that is always finite": Mutant(
        *(proposals, "log_second_moment", always_finite), laws.test_half_the_mean_has_infinite_variance
    ),
    "second moment for variance": Mutant(
        proposals,
        "variance",
        lambda chain, means, d: math.exp(SECOND_MOMENT(chain, 1 / torch.from_numpy(means), d)),
        laws.test_the_exact_variances_are_those_worked_out,
    ),
    "least variance where it started": Mutant(
        proposals,
        "least_variance",
        lambda chain, deadline: chain.mean_durations_given_delay(deadline).numpy(),
        lambda: laws.test_the_least_variance_is_the_least(70.0),
    ),
    "derivative of the other sign": Mutant(
        *(Chain, "mean_durations_given_delay", derivative_of_the_other_sign),
        laws.test_durations_given_a_delay_are_those_simulated,
    ),
    "unweighted fit": Mutant(proposals, "log_weights", no_weights_in_the_fit, method_finds_the_durations),
    "root of n forgotten": Mutant(
        *(estimators, "standard_error", relative_error), laws.test_an_estimate_is_that_of_the_textbook
    ),
    "zero plus or minus zero": Mutant(
        *(estimators, "estimate", errors_of_nothing), laws.test_no_late_draw_has_an_unknown_error
    ),
    "half the interval": Mutant(
        *(estimators, "INTERVAL", 0.98), laws.test_intervals_of_a_fair_coin_hold_as_often_as_promised
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)
