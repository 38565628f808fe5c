"""Velocities and scores whose densities are known, as models from elsewhere."""

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from bitsperdim.models.parts.noise_schedules import schedule_of

FLAT = torch.tensor(
    [[0.3, -0.8, 0.1, 0.0], [0.5, -0.2, 0.6, 0.2], [0.0, 0.4, 0.1, -0.9], [0.7, 0.0, 0.3, -0.4]], dtype=torch.float64
)


class Normal:
    """The score of independent normals that are diffused with a schedule."""

    mean, scale = 0.1, 0.4

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule_of(schedule)

    def moments(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance at some times."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha * self.mean, alpha.square() * self.scale**2 + sigma.square()

    def score(self, t: Tensor, y: Tensor) -> Tensor:
        mean, variance = (each.to(y.dtype).reshape(-1, 1, 1, 1) for each in self.moments(t.double()))
        return -(y - mean) / variance

    def known(self, y: Tensor, end: float) -> Tensor:
        """Return the log-density at the time ``end`` of values y between 0 and 1, which stand for -1 to 1.

        The equation maps normals to normals: y_T = m_T + (y - m) sqrt(v_T / v). The base is N(0, sigma(1)^2).
        """
        times = torch.tensor([end, 1.0], dtype=torch.float64)
        means, variances = self.moments(times)
        alpha, sigma = self.schedule.at(end)[0], self.schedule.at(1.0)[1]
        ratio = (variances[1] / variances[0]).sqrt()
        at_base = means[1] + (alpha * (2 * y - 1) - means[0]) * ratio
        of_each = td.Normal(0.0, sigma).log_prob(at_base) + ratio.log() + math.log(2 * alpha)
        return of_each.flatten(1).sum(1)


class Linear:
    """dy/dt = A y with a matrix that is not symmetric, for images of 2 x 2 in the layout ``flat``."""

    def __init__(self, times: tuple[float, float]) -> None:
        self.times = times

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ FLAT.T.to(y.dtype)

    def known(self, y: Tensor) -> Tensor:
        """Return the log-density of values between 0 and 1, which stand for -1 to 1."""
        start, end = self.times
        back = torch.linalg.matrix_exp((start - end) * FLAT)
        at_base = (2 * y - 1).flatten(1) @ back.T
        normal = td.Normal(torch.zeros(4, dtype=torch.float64), 1.0)
        return normal.log_prob(at_base).sum(1) - (end - start) * FLAT.trace() + 4 * math.log(2)


class Mixture:
    """The score of a mixture of three normals in one dimension, diffused with the schedule ``vp``."""

    schedule, end = "vp", 1e-2
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    means = torch.tensor([-0.6, 0.1, 0.55], dtype=torch.float64)
    scales = torch.tensor([0.06, 0.12, 0.08], dtype=torch.float64)

    def at(self, t: Tensor) -> td.MixtureSameFamily:
        """Return the distribution at some times (B,)."""
        schedule = schedule_of(self.schedule)
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        parts = td.Normal(alpha * self.means, (alpha.square() * self.scales.square() + sigma.square()).sqrt())
        return td.MixtureSameFamily(td.Categorical(self.weights.expand(len(t), 3)), parts)

    def score(self, t: Tensor, y: Tensor) -> Tensor:
        at = y.double().flatten()
        at = at if at.requires_grad else at.requires_grad_()
        (found,) = torch.autograd.grad(self.at(t.double()).log_prob(at).sum(), at, create_graph=True)
        return found.reshape(y.shape).to(y.dtype)

    def density(self, y: Tensor) -> Tensor:
        """Return the density of y / alpha at the time ``end``, for values y (N,) of the range -1 to 1."""
        alpha = schedule_of(self.schedule).at(self.end)[0]
        time = torch.tensor([self.end], dtype=torch.float64)
        return self.at(time).log_prob(alpha * y).exp() * alpha

    def masses(self, n_levels: int) -> Tensor:
        """Return the masses of the cells, (L,)."""
        y = torch.linspace(-1, 1, 400 * n_levels + 1, dtype=torch.float64)
        middles = (y[1:] + y[:-1]) / 2
        return self.density(middles).reshape(n_levels, 400).sum(1) * 2 / (400 * n_levels)

    def smoothed_masses(self, n_levels: int) -> Tensor:
        """Return the integral of p(y) P(x given y) for all x, (L,), with the noise that is left at the time ``end``."""
        alpha, sigma = schedule_of(self.schedule).at(self.end)
        y = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
        middles = -1 + (2 * torch.arange(n_levels).double() + 1) / n_levels
        given = torch.softmax(-((y[:, None] - middles) * alpha / sigma).square() / 2, dim=1)
        return (self.density(y)[:, None] * given).sum(0) * 1e-4
