"""Numbers from differential equations: their kind, their three errors, and mistakes that users found elsewhere.

Every test is seeded. The audit states its own false-alarm rate of 1e-4 for each check.
"""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bitsperdim import audit, evaluate
from bitsperdim.core.errors import InputError
from bitsperdim.evaluation.result import Estimate
from support.equations import OwnSolver, Straight

SHAPE, N_LEVELS = (1, 1, 2), 8
IMAGES = Straight().images(60, N_LEVELS, SHAPE)


class Model(Straight):
    """The flow with its own settings, as a user would write them."""

    bitsperdim: ClassVar[dict[str, Any]] = {"range": (-1, 1)}


def number(model: object | None = None, **options: Any) -> Estimate:
    return evaluate(Model() if model is None else model, IMAGES, n_levels=N_LEVELS, **{"n_samples": 64, **options})


def test_a_fine_grid_gives_a_bound_and_a_coarse_one_an_estimate() -> None:
    fine, coarse = number(ode={"n_steps": 32}), number(ode={"n_steps": 8})
    assert (fine.kind, coarse.kind) == ("lower", "estimate")
    assert "an upper bound, Monte Carlo error" in str(fine)
    assert str(coarse).startswith("Model: ~ ")
    assert "an estimate, neither exact nor a bound" in str(coarse)
    for found in (fine, coarse):
        solver = found.metrics.solver
        assert solver is not None
        assert f"solver error {solver.error_bpd:.1g}" in str(found)
        assert "(error from the length of the steps, bits/dim; order" in found.summary()
        assert (solver.error_bpd <= 0.1 * found.monte_carlo_error) == (found.kind == "lower")
    assert f"kind:{'upper-bound'}" in fine.signature
    assert "kind:estimate" in coarse.signature
    assert "ode:rk4,8-steps,0-to-1,exact,uniform-noise" in coarse.signature


@pytest.mark.parametrize("n_steps", [8, 16, 32])
@pytest.mark.parametrize("method", ["midpoint", "rk4"])
def test_the_number_is_within_its_errors_of_the_truth(n_steps: int, method: str) -> None:
    """The mass of the cells is known; five errors, of which the solver error is no chance: one seed in a million."""
    found = number(ode={"n_steps": n_steps, "method": method}, n_samples=400)
    solver = found.metrics.solver
    assert solver is not None
    truth = float(Straight().masses(N_LEVELS).log()[IMAGES].flatten(1).sum(1).mean())
    off = abs(-found.nats - truth)
    allowed = 5 * found.metrics.nll_nats_monte_carlo_error + 2 * solver.error_nats - found.metrics.log_p_bias_nats
    assert off < allowed
    assert solver.error_nats < 100 * off + 1e-4  # it is no empty statement


def test_steps_that_are_too_long_are_said_to_be() -> None:
    found = number(ode={"n_steps": 4, "method": "midpoint"}).metrics
    assert found.solver is not None
    assert found.solver.observed_order < 1
    assert any("does not fall with the steps as it should" in reason for reason in found.reasons)


def test_probes_are_draws_of_a_bound() -> None:
    """For a diagonal Jacobian a probe is exact, so that both numbers differ only by how samples are averaged."""
    exact, probed = number(ode={"n_steps": 32}), number(ode={"n_steps": 32, "probes": 1})
    assert exact.metrics.nll_jackknife_nats is not None
    assert probed.metrics.nll_jackknife_nats is None
    assert -exact.metrics.elbo_nats == pytest.approx(probed.nats, abs=5 * probed.metrics.nll_nats_monte_carlo_error)
    assert probed.nats > exact.nats


def test_fitted_noise_needs_training_images_and_is_no_worse() -> None:
    with pytest.raises(InputError, match="noise = 'variational' of ode is not allowed without training images"):
        number(ode={"noise": "variational"})
    train = Straight().images(40, N_LEVELS, SHAPE)
    options: dict[str, Any] = {"n_steps": 4, "noise": "variational"}
    fitted = number(ode=options, train=train, n_samples=4)
    assert fitted.metrics.noise == "fitted"
    plain = number(ode={"n_steps": 4}, n_samples=4)
    error = np.hypot(fitted.metrics.nll_nats_monte_carlo_error, plain.metrics.nll_nats_monte_carlo_error)
    assert -fitted.metrics.elbo_nats < -plain.metrics.elbo_nats + 4 * error


def audited(model: object, n_asked: int = 10_000, **options: Any) -> dict[str, str]:
    found = audit(model, IMAGES, n_levels=N_LEVELS, n_samples=16, n_asked=n_asked, **options)
    return {check.name: check.status for check in found.checks}


def test_a_right_flow_passes_and_is_verified() -> None:
    found = audit(Model(), IMAGES, n_levels=N_LEVELS, n_samples=16, n_asked=200, ode={"n_steps": 12})
    assert found.passed, found.summary()
    assert found.estimate.verified_by == ("sum over tiny images",)
    right = OwnSolver(None, N_LEVELS)
    for options in ({"offers": "log_density", "range": (-1, 1)}, {"offers": "bound"}):
        assert not {"failed", "warning"} & set(audited(right, **options).values())


def test_a_solver_error_is_no_excess_of_mass() -> None:
    """Steps of 1/4 give masses that add up to more or less than one; the error of the steps is taken off."""
    for n_steps in (4, 8):
        statuses = audited(Model(), 300, ode={"n_steps": n_steps, "method": "midpoint"})
        assert statuses["sum over tiny images"] == "passed"


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {  # options, the check that sees it, and its status
    "the wrong direction": ({"offers": "log_density", "range": (-1, 1)}, "range", "warning"),
    "two outputs swapped": ({"offers": "log_density", "range": (-1, 1)}, "range", "warning"),
    "a mean taken twice": ({"offers": "bound"}, "sum over tiny images", "failed"),
    "no noise on integers": ({"offers": "log_prob"}, "sum over tiny images", "failed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_published_code_are_seen(mistake: str) -> None:
    options, check, status = MISTAKES[mistake]
    statuses = audited(OwnSolver(mistake, N_LEVELS), **options)
    assert statuses[check] == status


def test_the_wrong_direction_is_seen_here_too() -> None:
    """The density of the reversed flow is a density; but it is worse than uniform coding."""
    backwards = number(ode={"times": [1.0, 0.0]})
    assert backwards.bits_per_dim > 4
    assert any("worse than uniform coding" in reason for reason in backwards.flags)


def test_settings_come_from_the_model_or_the_call() -> None:
    class Coarse(Straight):
        bitsperdim: ClassVar[dict[str, Any]] = {"range": (-1, 1), "ode": {"n_steps": 8}}

    assert "8-steps" in number(Coarse()).signature
    assert "16-steps" in number(Coarse(), ode={"n_steps": 16}).signature
    assert number(Coarse(), n_samples=None).n_samples == 16  # not 1,024: each sample solves an equation
    torch.manual_seed(0)
    first = number(Coarse()).nats
    torch.manual_seed(1)
    assert number(Coarse()).nats == first
