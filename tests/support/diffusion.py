"""Diffusion models of tiny images whose probabilities are known, and their bound by quadrature.

A stand-in for a scheduler of ``diffusers`` holds the numbers of a chain. The network is the best one: it knows the
probabilities of all images.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bitsperdim.models.external.libraries.diffusers import DiscreteBound

PREDICTIONS = ("epsilon", "v_prediction", "sample")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
SHORT = [0.9, 0.5, 0.05]  # alphas_cumprod of a chain of three steps
MASSES = torch.tensor([0.5, 0.2, 0.0, 0.3], dtype=torch.float64)  # of one sub-pixel with four levels
EDGE, N_CELLS = 9.0, 1501  # of the grids for quadrature


class DDPMScheduler:
    """A stand-in for a scheduler of diffusers: the numbers of the chain, and a configuration."""

    def __init__(self, alphas: Any, **config: Any) -> None:
        self.alphas_cumprod = torch.as_tensor(alphas, dtype=torch.float64)
        self.config = {"num_train_timesteps": len(self.alphas_cumprod), "clip_sample": False, **config}


class Best(nn.Module):
    """The best network for images (1, 1, D) with known masses: the mean of x_0 given x_t, in float64.

    Args:
        log_masses: log-masses of all images, (L, ..., L) with D dimensions.
        scheduler: numbers of the chain and what the network predicts.
        variance: second half of the channels, for learned variances; None: there is no second half.
    """

    def __init__(self, log_masses: Tensor, scheduler: DDPMScheduler, variance: float | None = None) -> None:
        super().__init__()
        n_levels, n_dims = log_masses.shape[0], log_masses.ndim
        self.register_buffer("images", images_of(n_levels, n_dims).flatten(1).double() * 2 / (n_levels - 1) - 1)
        self.log_masses, self.scheduler, self.variance = log_masses.flatten(), scheduler, variance
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))  # it tells the precision of the network
        self.eval()

    def forward(self, x_t: Tensor, t: Tensor) -> SimpleNamespace:
        alphas = self.scheduler.alphas_cumprod[t][:, None]
        flat = x_t.flatten(1)
        off = (flat[:, None] - alphas[..., None].sqrt() * self.images).square().sum(-1)
        image = torch.softmax(self.log_masses - off / (2 * (1 - alphas)), dim=-1) @ self.images
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind == "epsilon":
            image = (flat - alphas.sqrt() * image) / (1 - alphas).sqrt()
        if kind == "v_prediction":
            image = (alphas.sqrt() * flat - image) / (1 - alphas).sqrt()
        given = image.reshape(x_t.shape) + self.weight
        if self.variance is not None:
            given = torch.cat([given, torch.full_like(given, self.variance)], dim=1)
        return SimpleNamespace(sample=given)


def images_of(n_levels: int, n_dims: int = 1) -> Tensor:
    """Return all images (1, 1, D), (L^D, 1, 1, D) int64."""
    return torch.tensor(list(itertools.product(range(n_levels), repeat=n_dims))).reshape(-1, 1, 1, n_dims)


def best(alphas: Any, masses: Tensor = MASSES, n_steps: int | None = None, **config: Any) -> DiscreteBound:
    """Return the bound of the best network for masses."""
    variance = {"learned": 0.01, "learned_range": 0.3}.get(config.get("variance_type", ""))
    scheduler = DDPMScheduler(alphas, **config)
    return DiscreteBound(Best(masses.log(), scheduler, variance), scheduler, n_steps)


def linear(n_chain: int) -> Tensor:
    """Return alphas_cumprod of the linear schedule of Ho et al. in the limit of many steps, at the end of each step."""
    time = torch.arange(1, n_chain + 1, dtype=torch.float64) / n_chain
    return torch.exp(-0.1 * time - 9.95 * time.square())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    variance = torch.as_tensor(variance, dtype=torch.float64)
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)


def between(low: Tensor, high: Tensor) -> Tensor:
    """Return the probability that a standard normal number is between two edges, from the tail on their side."""
    is_right = low + high > 0
    low, high = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
    return (torch.erfc(-high / 2**0.5) - torch.erfc(-low / 2**0.5)) / 2


GRID = torch.linspace(-EDGE, EDGE, N_CELLS, dtype=torch.float64)
CELL = 2 * EDGE / (N_CELLS - 1)


@torch.no_grad()
def by_quadrature(model: DiscreteBound, x: int, n_levels: int) -> tuple[float, dict[str, float]]:
    """Return log P(x) of the chain and the terms of the bound for an image of one sub-pixel, by sums over a grid.

    Sums over a grid are exact here up to 1e-9: every density is smooth on the scale of a cell and ends within the grid.
    Only the means and variances of p come from the model; q, the prior and the cells are written out here.
    """
    alphas = torch.cat([torch.ones(1, dtype=torch.float64), model.alphas])  # with that of x_0
    start = 2 * x / (n_levels - 1) - 1
    terms = {"diffusion": 0.0}
    marginal = [normal(GRID, float(a.sqrt()) * start, 1 - a) if a < 1 else GRID for a in alphas]  # q(x_t given x_0)
    terms["prior"] = CELL * float((marginal[-1] * (marginal[-1] / normal(GRID, 0.0, 1.0)).log()).nan_to_num().sum())
    message = torch.zeros(())
    for t in range(1, len(alphas)):  # message: P(x given x_t)
        mean, log_variance = model.step(GRID.reshape(-1, 1, 1, 1), torch.full((N_CELLS,), t - 1))
        mean, variance = mean.flatten(), log_variance.exp().expand(N_CELLS, 1, 1, 1).flatten()
        if t == 1:
            edge = 1 / (n_levels - 1)
            low = -math.inf if x == 0 else start - edge
            high = math.inf if x == n_levels - 1 else start + edge
            message = between((low - mean) / variance.sqrt(), (high - mean) / variance.sqrt())
            terms["reconstruction"] = -CELL * float((marginal[1] * message.log()).sum())
            continue
        p = normal(GRID[None], mean[:, None], variance[:, None])  # of x_{t-1} in the columns, given x_t in the rows
        step, before, now = alphas[t] / alphas[t - 1], alphas[t - 1], alphas[t]
        q_variance = (1 - step) * (1 - before) / (1 - now)
        q_mean = before.sqrt() * (1 - step) / (1 - now) * start + step.sqrt() * (1 - before) / (1 - now) * GRID
        q = normal(GRID[None], q_mean[:, None], q_variance)
        log_ratio = 0.5 * (  # of the two densities, by hand: far out, both are 0 in float64
            (GRID[None] - mean[:, None]) ** 2 / variance[:, None]
            - (GRID[None] - q_mean[:, None]) ** 2 / q_variance
            + (variance[:, None] / q_variance).log()
        )
        terms["diffusion"] += CELL * CELL * float((marginal[t][:, None] * q * log_ratio).sum())
        message = CELL * p @ message
    return math.log(CELL * float((normal(GRID, 0.0, 1.0) * message).sum())), terms


@torch.no_grad()
def by_nodes(model: DiscreteBound, x: int, n_levels: int) -> dict[str, float]:
    """Return the means of the terms over their noise, with our functions and noise on a grid."""
    weights = normal(GRID, 0.0, 1.0) * CELL
    noise, images = GRID.reshape(-1, 1, 1, 1), torch.full((N_CELLS, 1, 1, 1), x)
    start = 2 * images.double() / (n_levels - 1) - 1
    kl = [model.divergence(start, torch.full((N_CELLS,), t), noise) @ weights for t in range(1, model.n_chain)]
    return {
        "prior": float(model.prior(start[:1])),
        "diffusion": float(sum(kl)),
        "reconstruction": float(model.reconstruction(images, n_levels, noise) @ weights),
    }


class Flat(nn.Module):
    """A network that predicts grey, whatever it sees."""

    def __init__(self, n_channels: int = 1) -> None:
        super().__init__()
        self.n_channels, self.config = n_channels, {}
        self.weight = nn.Parameter(torch.zeros(()))
        self.eval()

    def forward(self, x_t: Tensor, t: Tensor) -> SimpleNamespace:
        assert x_t.dtype == torch.float32
        assert t.shape == (len(x_t),)
        return SimpleNamespace(sample=torch.zeros_like(x_t[:, :1]).repeat(1, self.n_channels, 1, 1) + self.weight)
