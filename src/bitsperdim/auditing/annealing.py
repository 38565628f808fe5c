r"""Annealed importance sampling over images: an unbiased estimate of the total mass of a model.

A chain starts from independent sub-pixels f, whose total mass is one, and moves to the model through the distributions

.. math:: \pi_t(x, u) \propto f(x) \, m(u \mid x) \, \Big( \frac{w(x, u)}{f(x)} \Big)^{\beta_t}, \qquad
          0 = \beta_0 < \dots < \beta_T = 1

where u are the random numbers that the model draws, from m, and w is its weight; for an exact model w is P(x) itself. A
step redraws some sub-pixels from f, or shifts them by a few levels, and redraws u. It is accepted by the Metropolis
rule, so that it leaves :math:`\pi_t` invariant. The chain's weight

.. math:: \prod_{t=1}^T \Big( \frac{w(x_{t-1}, u_{t-1})}{f(x_{t-1})} \Big)^{\beta_t - \beta_{t-1}}

then has the mean :math:`\sum_x E[w(x, u)] = \sum_x P(x)`, exactly, however badly the chain mixes (Neal 2001, "Annealed
Importance Sampling"). A weight may replace P (Andrieu and Roberts 2009, "The Pseudo-Marginal Approach for Efficient
Monte Carlo Computations"). Temperatures and step sizes come from a pilot run with its own random numbers. They are then
fixed, as in :mod:`bitsperdim.evaluation.annealed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.models.base import level_counts

Ask = Callable[[Tensor], Tensor]  # takes images (B, D), returns log-weights (B,), float64, in nats
PSEUDO = 4.0  # pseudo-images with the average level counts of all sub-pixels, added to the counts of each sub-pixel
UNIFORM = 0.01  # weight of the uniform distribution over levels in the mixture
SMOOTHED_FROM = 16  # levels from which on neighbouring levels are smoothed
FIRST_POWER = 4.0  # power of the pilot run's temperatures, which are denser near beta = 0, where images are noise
ACCEPTED = 0.3  # share of accepted steps that the pilot run aims at
GAIN = 0.2  # change of the logarithm of a step size for each unit of acceptance rate above the aim


@dataclass(frozen=True)
class Independent:
    """Sub-pixels that do not depend on each other.

    Attributes:
        masses: (D, L) float64, each row of which sums to one.
    """

    masses: Tensor

    @property
    def n_dims(self) -> int:
        """Number of sub-pixels, D."""
        return len(self.masses)

    def draw(self, n_images: int, generator: torch.Generator) -> Tensor:
        """Draw images, (B, D) int64."""
        u = torch.rand(self.n_dims, n_images, dtype=torch.float64, generator=generator)
        drawn = torch.searchsorted(self.masses.cumsum(1), u, right=True)
        return drawn.clamp(max=self.masses.shape[1] - 1).T.contiguous()

    def log_p(self, x: Tensor) -> Tensor:
        """Return log f(x) of images (B, D), as (B,) in nats."""
        return self.masses.log()[torch.arange(self.n_dims), x].sum(1)

    def near(self, x: Tensor, share: float) -> Independent:
        """Return the distribution of copies of an image (D,) in which each sub-pixel is redrawn with a probability.

        Args:
            x: image, (D,).
            share: the probability.
        """
        copy = torch.nn.functional.one_hot(x, self.masses.shape[1])
        return Independent((1 - share) * copy + share * self.masses)


def fitted(images: Tensor, n_levels: int) -> Independent:
    """Return independent sub-pixels fitted to images (N, C, H, W): levels are counted, and the counts are smoothed."""
    counts = level_counts(images, n_levels).flatten(0, 2).double()
    width = n_levels // SMOOTHED_FROM // 2 * 2 + 1
    for _ in range(2):
        counts = torch.nn.functional.avg_pool1d(counts, width, stride=1, padding=width // 2)
    counts = counts + PSEUDO * counts.sum(0) / counts.sum()
    return Independent((1 - UNIFORM) * counts / counts.sum(1, keepdim=True) + UNIFORM / n_levels)


@dataclass(frozen=True)
class Moves:
    """Metropolis steps that redraw some sub-pixels, or shift them by a few levels.

    Attributes:
        start: f.
    """

    start: Independent

    def propose(self, x: Tensor, size: Tensor, *, is_shift: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (B, D) in which each sub-pixel is changed with probability size / D.

        Redrawn sub-pixels come from f, so that f(x) K(x, y) = f(y) K(y, x). A shift is as likely as the reverse shift.

        Args:
            x: images, (B, D).
            size: expected number of changed sub-pixels, (B, 1) or (1, 1).
            is_shift: whether sub-pixels are shifted instead of redrawn, (B, 1) or (1, 1).
            generator: source of the random numbers.
        """
        n_levels = self.start.masses.shape[1]
        chosen = torch.rand(x.shape, generator=generator) < size / self.start.n_dims
        reach = max(1, n_levels // 32)
        by = torch.randint(1, reach + 1, x.shape, generator=generator)
        sign = 2 * torch.randint(0, 2, x.shape, generator=generator) - 1
        moved = torch.where(is_shift, (x + sign * by) % n_levels, self.start.draw(len(x), generator))
        return torch.where(chosen, moved, x)

    def step(
        self, chain: Chain, ask: Ask, beta: float, size: Tensor, is_shift: Tensor, generator: torch.Generator
    ) -> tuple[Chain, Tensor]:
        """Return the chains after one step, and which of them accepted it, (B,)."""
        x = self.propose(chain.x, size, is_shift=is_shift, generator=generator)
        proposed = Chain(x, self.start.log_p(x), ask(x))
        log_ratio = beta * (proposed.log_ratio - chain.log_ratio)
        log_ratio = log_ratio + torch.where(is_shift.flatten(), proposed.log_f - chain.log_f, 0.0)
        accepted = torch.rand(len(x), dtype=torch.float64, generator=generator).log() < log_ratio
        pairs = zip(chain.parts, proposed.parts, strict=True)
        after = Chain(*(torch.where(accepted if old.ndim == 1 else accepted[:, None], new, old) for old, new in pairs))
        return after, accepted


@dataclass(frozen=True)
class Chain:
    """States of several chains: images x (B, D), with log f(x) and log w, (B,) in nats."""

    x: Tensor
    log_f: Tensor
    log_w: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three tensors."""
        return self.x, self.log_f, self.log_w

    @property
    def log_ratio(self) -> Tensor:
        """Log (w / f), (B,) in nats.

        The difference of two impossible images is NaN, so that no step between them is accepted.
        """
        return self.log_w - self.log_f


@dataclass(frozen=True)
class Path:
    """Temperatures and step sizes that the pilot run found.

    Attributes:
        betas: (T + 1,) inverse temperatures from 0 to 1.
        sizes: (2, T + 1) numbers of sub-pixels that a step changes: first for redraws, then for shifts.
    """

    betas: np.ndarray
    sizes: np.ndarray


def pilot(ask: Ask, start: Independent, n_chains: int, n_steps: int, generator: torch.Generator) -> Path:
    """Return temperatures that are dense where w / f varies most, and step sizes with the acceptance rate aimed at."""
    moves, chain = Moves(start), _started(ask, start, n_chains, generator)
    betas = (np.arange(n_steps + 1) / n_steps) ** FIRST_POWER
    log_size = np.full((2, n_steps + 1), math.log(start.n_dims))
    spread = np.zeros(n_steps + 1)
    now = log_size[:, 0].copy()
    for t, beta in enumerate(betas):
        kind = t % 2
        size = torch.full((1, 1), math.exp(now[kind]))
        chain, accepted = moves.step(chain, ask, float(beta), size, torch.tensor([[kind == 1]]), generator)
        now[kind] += GAIN * (float(accepted.double().mean()) - ACCEPTED)
        now = now.clip(0.0, math.log(start.n_dims))
        log_size[:, t] = now
        possible = chain.log_ratio[chain.log_ratio.isfinite()]
        spread[t] = float(possible.std()) if len(possible) > 1 else 1.0
    return _refined(betas, np.exp(log_size), spread)


def _refined(betas: np.ndarray, sizes: np.ndarray, spread: np.ndarray) -> Path:
    """Place the temperatures so that each increment of log w has the same spread."""
    length = np.concatenate([[0.0], np.cumsum(np.diff(betas) * (spread[1:] + spread[:-1] + 1e-9) / 2)])
    even = np.linspace(0.0, length[-1], len(betas))
    fine = np.interp(even, length, betas)
    fine[0], fine[-1] = 0.0, 1.0
    return Path(fine, np.stack([np.interp(fine, betas, each) for each in sizes]))


def anneal(ask: Ask, start: Independent, path: Path, n_chains: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """Return the log-weights of annealed chains, (n_chains,) float64 nats; the mean weight is the total mass.

    Args:
        ask: returns log-weights of the model.
        start: f.
        path: result of a pilot run with other random numbers.
        n_chains: number of independent chains.
        n_steps: T.
        generator: source of the random numbers.
    """
    moves, chain = Moves(start), _started(ask, start, n_chains, generator)
    at = np.linspace(0.0, 1.0, n_steps + 1)
    known = np.linspace(0.0, 1.0, len(path.betas))
    betas = np.interp(at, known, path.betas)
    sizes = [np.interp(at, known, each) for each in path.sizes]
    log_w = torch.zeros(n_chains, dtype=torch.float64)
    for t in range(1, n_steps + 1):
        if betas[t] > betas[t - 1]:  # otherwise 0 times minus infinity would give NaN
            log_w = log_w + (betas[t] - betas[t - 1]) * chain.log_ratio
        if t < n_steps:
            kind = t % 2
            size = torch.full((1, 1), float(sizes[kind][t]))
            chain, _ = moves.step(chain, ask, float(betas[t]), size, torch.tensor([[kind == 1]]), generator)
    return log_w


def _started(ask: Ask, start: Independent, n_chains: int, generator: torch.Generator) -> Chain:
    x = start.draw(n_chains, generator)
    return Chain(x, start.log_p(x), ask(x))


def moved(ask: Ask, start: Independent, x: Tensor, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return log P of images (B, D) before and after Metropolis steps that leave the model invariant, (B,) nats each.

    All steps have the same distribution: the kind of change and the number of sub-pixels are drawn independently of the
    images. So the chain is reversible: an image that the model drew and the image a few steps later are exchangeable.

    Args:
        ask: returns log P of an exact model.
        start: f, from which sub-pixels are redrawn; it must not depend on the images.
        x: images, (B, D).
        n_steps: number of steps of each chain.
        generator: source of the random numbers.
    """
    moves, first = Moves(start), Chain(x, start.log_p(x), ask(x))
    chain = first
    for _ in range(n_steps):
        size = start.n_dims ** (torch.rand(len(x), 1, generator=generator) * 0.5)  # from 1 to sqrt(D) sub-pixels
        is_shift = torch.rand(len(x), 1, generator=generator) < 0.5
        chain, _ = moves.step(chain, ask, 1.0, size, is_shift, generator)
    return first.log_w, chain.log_w
