"""The error that the steps of a grid leave, from the same values with longer steps; no random numbers."""

import math

import pytest
import torch

from bitsperdim.estimators.solver import solver_error


def differences(errors: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the differences of values whose errors are these on the full grid and grow by a factor per halving."""
    return torch.stack([errors - factor * errors, factor * errors - factor**2 * errors], dim=1)


@pytest.mark.parametrize("order", [2, 4])
def test_a_known_error_is_found(order: int) -> None:
    errors = torch.full((50,), 0.003, dtype=torch.float64)
    found = solver_error(differences(errors, 2.0**order), order)
    assert found.nats == pytest.approx(0.003)
    assert found.observed_order == pytest.approx(order)


def test_errors_of_both_signs_do_not_hide_each_other() -> None:
    """The error of the mean of other samples is at least the spread over the root of the number of images."""
    errors = torch.tensor([0.01, -0.01] * 50, dtype=torch.float64)
    found = solver_error(differences(errors, 4.0), 2)
    assert found.nats == pytest.approx(0.01 / math.sqrt(99))


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5, 2.5])
def test_steps_that_are_too_long_do_not_hide_the_error(factor: float) -> None:
    """With the theoretical factor of 16 instead of the observed one, the error would be 6 to 15 times too small."""
    errors = torch.full((50,), 0.1, dtype=torch.float64)
    found = solver_error(differences(errors, factor), 4)
    assert found.observed_order == pytest.approx(math.log2(factor)) if factor != 1 else True
    assert found.nats >= abs(factor - 1) * 0.1 / max(factor - 1, 1) * 0.999
    assert found.observed_order < 2 or factor == 1


def test_a_factor_above_the_theory_is_not_believed() -> None:
    errors = torch.full((50,), 0.1, dtype=torch.float64)
    found = solver_error(differences(errors, 100.0), 2)
    assert found.nats == pytest.approx(99 * 0.1 / 3)


def test_equal_numbers_have_no_error() -> None:
    found = solver_error(torch.zeros(5, 2, dtype=torch.float64), 4)
    assert found.nats == 0
    assert math.isnan(found.observed_order)
    assert solver_error(torch.tensor([[0.3, 1.2]], dtype=torch.float64), 2).nats == pytest.approx(0.1)  # one image
