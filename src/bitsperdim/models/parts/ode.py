r"""Ordinary differential equations on a fixed grid, with the integral of the divergence along each path.

A continuous normalizing flow moves a draw of a base distribution along dy/dt = v(t, y). Along a path, the log-density
changes by minus the integral of the divergence of v (Chen et al. 2018, "Neural Ordinary Differential Equations",
theorem 1):

.. math:: \log p_1(y(1)) = \log p_0(y(0)) - \int_0^1 \nabla \cdot v(t, y(t)) \, dt

The grid is fixed. With adaptive steps, the number of an image would depend on the other images of its batch.

Invariants (``tests/models/test_solver_of_equations.py``): each method has its order
(``test_the_error_falls_with_the_order``); a probed divergence has the exact one as its mean
(``test_probes_have_the_exact_divergence_as_their_mean``), and its variance is the known one
(``test_the_variance_of_the_probes_is_the_derived_one``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MethodName = Literal["midpoint", "rk4"]
Velocity = Callable[[float, Tensor], Tensor]  # (t, y) -> dy/dt; y and the result have the same shape (B, ...)
Field = Callable[[float, Tensor], tuple[Tensor, Tensor]]  # (t, y) -> dy/dt and its divergence (B,)
AT_ONCE = 32  # rows of the Jacobian that are computed at once


class NoDerivativeError(ValueError):
    """Raised when a velocity has no derivative with respect to y."""


@dataclass(frozen=True)
class Method:
    """An explicit Runge-Kutta method.

    Attributes:
        order: p; the error of a smooth solution falls as the step to the power of p.
        nodes: times of the stages, as shares of a step.
        rows: weights of the earlier slopes, for each stage.
        weights: weights of the slopes for the whole step.
    """

    order: int
    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


METHODS: dict[str, Method] = {
    "midpoint": Method(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "rk4": Method(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def solve(field: Field, y: Tensor, times: Sequence[float], method: MethodName) -> tuple[Tensor, Tensor]:
    """Follow a field from the first to the last time of a grid.

    Args:
        field: the velocity, and its divergence.
        y: values at the first time, (B, ...) float64.
        times: grid, at least two times, rising or falling.
        method: Runge-Kutta method.

    Returns:
        Values at the last time, (B, ...), and the integral of the divergence over time along each path, (B,). It has
        the sign of the direction of the grid.
    """
    chosen = METHODS[method]
    integral = y.new_zeros(len(y))
    for start, end in itertools.pairwise(times):
        step = end - start
        slopes: list[Tensor] = []
        divergences: list[Tensor] = []
        for node, row in zip(chosen.nodes, chosen.rows, strict=True):
            slope, divergence = field(start + node * step, y + step * _sum(row, slopes))
            slopes.append(slope)
            divergences.append(divergence)
        y = y + step * _sum(chosen.weights, slopes)
        integral = integral + step * _sum(chosen.weights, divergences)
    return y, integral


def _sum(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor | float:
    return sum((weight * value for weight, value in zip(weights, values, strict=True) if weight), 0.0)


def exact(velocity: Velocity, *, create_graph: bool = False) -> Field:
    """Return the field of a velocity with its exact divergence: one derivative for each dimension of y.

    Args:
        velocity: the velocity; it must treat the entries of a batch independently.
        create_graph: whether the results can be differentiated again.

    Raises:
        NoDerivativeError: when the field is computed, the velocity has no derivative with respect to y.
    """

    def field(t: float, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y if create_graph and y.requires_grad else y.detach().requires_grad_()
            v = velocity(t, y)
            diagonal = _diagonal(v, y, create_graph=create_graph)
        return (v if create_graph else v.detach()), diagonal.sum(1)

    return field


def _diagonal(v: Tensor, y: Tensor, *, create_graph: bool) -> Tensor:
    """Return the derivative of each entry of v with respect to the same entry of y, (B, D) float64."""
    _refuse_constant(v)
    flat = v.flatten(1)
    n_images, n_dims = flat.shape
    columns = []
    for first in range(0, n_dims, AT_ONCE):
        numbers = torch.arange(first, min(first + AT_ONCE, n_dims), device=y.device)
        rows = torch.zeros(len(numbers), n_images, n_dims, dtype=flat.dtype, device=y.device)
        rows[torch.arange(len(numbers), device=y.device), :, numbers] = 1
        jacobian = _derivatives(flat, y, rows, create_graph=create_graph).flatten(2)  # (n, B, D)
        columns.append(jacobian[torch.arange(len(numbers), device=y.device), :, numbers])
    return torch.cat(columns).T.double()


def _derivatives(v: Tensor, y: Tensor, rows: Tensor, *, create_graph: bool) -> Tensor:
    """Return the products of some rows (n, B, D) with the Jacobian of v, each of the shape of y."""
    options = {"retain_graph": True, "create_graph": create_graph, "materialize_grads": True}
    try:
        return torch.autograd.grad(v, y, rows, is_grads_batched=True, **options)[0]
    except RuntimeError:  # an operation of the model cannot be batched
        return torch.stack([torch.autograd.grad(v, y, row, **options)[0] for row in rows])


def probed(velocity: Velocity, probes: Tensor, *, create_graph: bool = False) -> Field:
    r"""Return the field of a velocity with an estimate of its divergence (Hutchinson 1990; Grathwohl et al. 2019).

    .. math:: \nabla \cdot v \approx \frac{1}{M} \sum_m \epsilon_m^T J \epsilon_m, \qquad \epsilon_m \in \{-1, 1\}^D

    The mean over the signs is exact. For one probe the variance is half the sum of the squares of J + J^T off the
    diagonal. One set of probes serves the whole path. The mean of the *integral* is then exact, but not the mean of
    its exponential.

    Args:
        velocity: the velocity; it must treat the entries of a batch independently.
        probes: random signs, (M, B, ...), where (B, ...) is the shape of y.
        create_graph: whether the results can be differentiated again.

    Raises:
        NoDerivativeError: when the field is computed, the velocity has no derivative with respect to y.
    """

    def field(t: float, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y if create_graph and y.requires_grad else y.detach().requires_grad_()
            v = velocity(t, y)
            _refuse_constant(v)
            total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
            for signs in probes:
                (product,) = torch.autograd.grad(
                    v, y, signs.to(v.dtype), retain_graph=True, create_graph=create_graph, materialize_grads=True
                )
                total = total + (product.double() * signs).flatten(1).sum(1)
        return (v if create_graph else v.detach()), total / len(probes)

    return field


def _refuse_constant(v: Tensor) -> None:
    if not v.requires_grad:
        raise NoDerivativeError("the velocity has no derivative with respect to y")
