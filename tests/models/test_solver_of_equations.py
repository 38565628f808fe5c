"""Solving of differential equations on a fixed grid, and the integral of the divergence.

Known solutions are those of y' = -y^3, which is not linear, and of linear fields. All signs of the probes are
enumerated, so no test here has a false-alarm rate.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.models.parts.ode import METHODS, MethodName, NoDerivativeError, exact, probed, solve

START = torch.tensor([[0.3], [-1.1]], dtype=torch.float64)
GENERAL = torch.tensor([[0.5, -1.0, 0.2], [0.3, -0.4, 0.9], [1.5, 0.1, 0.7]], dtype=torch.float64)


def cubic(t: float, y: Tensor) -> Tensor:
    """Return -y^3: the solution is y0 / sqrt(1 + 2 t y0^2), and the divergence adds up to -1.5 log(1 + 2 t y0^2)."""
    return -(y**3)


def linear(t: float, y: Tensor) -> Tensor:
    return y @ GENERAL.T


def grid(n_steps: int, end: float = 1.0) -> list[float]:
    return [end * number / n_steps for number in range(n_steps + 1)]


@pytest.mark.parametrize("method", METHODS)
def test_the_error_falls_with_the_order(method: MethodName) -> None:
    truth = START / (1 + 2 * START.square()).sqrt()
    true_integral = -1.5 * torch.log1p(2 * START.square())[:, 0]
    errors = []
    for n_steps in (64, 128, 256):
        y, integral = solve(exact(cubic), START, grid(n_steps), method)
        errors.append((float((y - truth).abs().max()), float((integral - true_integral).abs().max())))
    for before, after in itertools.pairwise(errors):
        for one, other in zip(before, after, strict=True):
            assert abs(math.log2(one / other) - METHODS[method].order) < 0.2
    assert max(errors[-1]) < {2: 4e-6, 4: 1e-10}[METHODS[method].order]


def test_back_and_forth_is_where_it_began() -> None:
    there, integral = solve(exact(linear), torch.ones(2, 3, dtype=torch.float64), grid(64), "rk4")
    back, other = solve(exact(linear), there, grid(64)[::-1], "rk4")
    torch.testing.assert_close(back, torch.ones(2, 3, dtype=torch.float64), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(integral, torch.full((2,), float(GENERAL.trace()), dtype=torch.float64))
    torch.testing.assert_close(other, -integral)


def every_sign(n_dims: int) -> Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n_dims)), dtype=torch.float64)


def test_probes_have_the_exact_divergence_as_their_mean() -> None:
    y = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64)

    def field(t: float, at: Tensor) -> Tensor:
        return torch.sin(at @ GENERAL.T) + t * at

    truth = exact(field)(0.7, y)
    found = torch.stack([probed(field, signs[None, None])(0.7, y)[1] for signs in every_sign(3)])
    torch.testing.assert_close(found.mean(0), truth[1])
    torch.testing.assert_close(probed(field, every_sign(3)[:, None])(0.7, y)[1], truth[1])  # all probes at once
    torch.testing.assert_close(probed(field, every_sign(3)[:1, None])(0.7, y)[0], truth[0])
    assert float(found.std()) > 0.1


def test_the_variance_of_the_probes_is_the_derived_one() -> None:
    y = torch.zeros(1, 3, dtype=torch.float64)
    found = torch.stack([probed(linear, signs[None, None])(0.0, y)[1] for signs in every_sign(3)])
    both = (GENERAL + GENERAL.T).fill_diagonal_(0)
    assert float(found.var(correction=0)) == pytest.approx(float(both.square().sum()) / 2)


class NotBatched(torch.autograd.Function):
    """The square of y, whose derivative cannot be computed for several directions at once."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.from_numpy(2 * (y * gradient).detach().numpy())  # NumPy knows no batches of directions


def test_an_operation_that_cannot_be_batched_is_differentiated_one_by_one() -> None:
    y = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    _, divergence = exact(lambda t, at: NotBatched.apply(at))(0.0, y)
    torch.testing.assert_close(divergence, 2 * y.sum(1))


@pytest.mark.parametrize("n_dims", [1, 32, 33, 70])
def test_no_row_of_the_jacobian_is_forgotten(n_dims: int) -> None:
    """The rows are computed some at a time; the number of them need not divide the number of dimensions."""
    factors = torch.arange(1, n_dims + 1, dtype=torch.float64)
    _, divergence = exact(lambda t, at: factors * at)(0.0, torch.ones(2, n_dims, dtype=torch.float64))
    assert divergence.tolist() == [n_dims * (n_dims + 1) / 2] * 2


@pytest.mark.parametrize("make", [exact, lambda velocity: probed(velocity, torch.ones(1, 1, 3))])
def test_a_velocity_without_a_derivative_is_refused(make: Any) -> None:
    with pytest.raises(NoDerivativeError):
        make(lambda t, at: at.detach())(0.0, torch.ones(1, 3, dtype=torch.float64))


def test_weights_are_trained_through_the_solver() -> None:
    """The derivative of the log-density with respect to a weight, against a finite difference."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def value(of: Tensor) -> Tensor:
        y, integral = solve(exact(lambda t, at: -of * at**3, create_graph=True), START, grid(16), "rk4")
        return (y.square().sum(1) + integral).sum()

    (found,) = torch.autograd.grad(value(weight), weight)
    step = 1e-5
    difference = (value(weight.detach() + step) - value(weight.detach() - step)) / (2 * step)
    assert float(found) == pytest.approx(float(difference.detach()), rel=1e-6)
