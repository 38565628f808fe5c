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


class Straight:
    """The velocity of straight paths from a standard normal at time 0 to independent normals at time 1."""

    mean, scale = 0.1, 0.15

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.reshape(-1, *(1,) * (y.ndim - 1))
        variance = t.square() * self.scale**2 + (1 - t).square()
        return self.mean + (t * self.scale**2 - (1 - t)) / variance * (y - t * self.mean)

    def masses(self, n_levels: int) -> Tensor:
        """Return the masses of the cells of the range -1 to 1, (L,)."""
        edges = torch.linspace(-1, 1, n_levels + 1, dtype=torch.float64)
        return td.Normal(self.mean, torch.tensor(self.scale, dtype=torch.float64)).cdf(edges).diff()

    def images(self, n_images: int, n_levels: int, shape: tuple[int, int, int]) -> Tensor:
        """Draw images, (N, C, H, W) int64, with a fixed seed."""
        masses = self.masses(n_levels)
        n_places = n_images * math.prod(shape)
        drawn = torch.multinomial(masses, n_places, replacement=True, generator=torch.Generator().manual_seed(9))
        return drawn.reshape(n_images, *shape)

    def log_p(self, images: Tensor, n_levels: int) -> Tensor:
        """Return log P(x) of images, (N,)."""
        masses = self.masses(n_levels)
        return (masses / masses.sum()).log()[images].flatten(1).sum(1)


class OwnSolver(Straight):
    """A user's own likelihood of the same flow, with a mistake that was found in published code.

    Args:
        mistake: name of the mistake; None: there is none.
        n_levels: number of levels L.
    """

    def __init__(self, mistake: str | None, n_levels: int) -> None:
        self.mistake, self.n_levels = mistake, n_levels

    def log_density(self, y: Tensor) -> Tensor:
        """Return log p(y) of values from -1 to 1; the paths are known: y_t = t mean + z sqrt(variance at time t)."""
        y, n_dims = y.double(), y[0].numel()
        if self.mistake == "the wrong direction":  # from time 0 to time 1
            y, integral = self.mean + self.scale * y, torch.full((len(y),), n_dims * math.log(self.scale)).double()
        else:
            y, integral = (y - self.mean) / self.scale, torch.full((len(y),), -n_dims * math.log(self.scale)).double()
        if self.mistake == "two outputs swapped":
            y, integral = integral[:, None].expand(-1, n_dims), y.flatten(1).sum(1)
        return td.Normal(0.0, 1.0).log_prob(y).flatten(1).sum(1) + integral

    def bound(self, x: Tensor) -> Tensor:
        """Return one draw of the bound that uniform noise gives."""
        n_dims = x[0].numel()
        y = -1 + 2 * (x.double() + torch.rand(x.shape, dtype=torch.float64)) / self.n_levels
        log_p = self.log_density(y) + n_dims * math.log(2 / self.n_levels)
        return log_p / n_dims if self.mistake == "a mean taken twice" else log_p

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the density at the middles of the cells, without noise and without the volume of the cells."""
        return self.log_density(-1 + 2 * (x.double() + 0.5) / self.n_levels)
