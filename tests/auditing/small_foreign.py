"""Small models like those that a user might bring, and audit cases made of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td

from bitsperdim.auditing.check import Case
from bitsperdim.evaluation.evaluate import ask, scored
from bitsperdim.evaluation.images import data_of


def case_of(
    model: object, images: Tensor, n_levels: int, *, seed: int = 0, seconds: float = 0.5, **options: Any
) -> Case:
    kept = {key: options.pop(key) for key in ("log_p_true", "build") if key in options}
    n_samples = options.pop("n_samples", 64)
    data = data_of(images, n_levels)
    asked = ask(model, data, seed=seed, **options)
    result = scored(asked, data, n_samples=n_samples, seed=seed, may_look_ahead=True)
    return Case(asked, data, result, seed, kept.get("log_p_true"), kept.get("build"), seconds)


class Raster(nn.Module):
    """An autoregressive convolution over the pixels above and to the left; ``sample`` may use another temperature."""

    def __init__(self, n_levels: int, size: tuple[int, int], *, seed: int = 0, temperature: float = 1.0) -> None:
        super().__init__()
        self.n_levels, self.size, self.temperature = n_levels, size, temperature
        generator = torch.Generator().manual_seed(seed)
        mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])
        self.first = nn.Parameter(torch.randn(8, 1, 3, 3, generator=generator) * mask)
        self.last = nn.Parameter(2 * torch.randn(n_levels, 8, generator=generator))
        self.eval()

    def logits(self, x: Tensor) -> Tensor:
        scaled = 2 * x.float() / (self.n_levels - 1) - 1
        hidden = nn.functional.conv2d(scaled, self.first, padding=1).relu()
        return nn.functional.conv2d(hidden, self.last[:, :, None, None])

    def log_p(self, x: Tensor) -> Tensor:
        masses = self.logits(x).log_softmax(1)
        return masses.gather(1, x.long()).flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        x = torch.zeros(n, 1, *self.size, dtype=torch.int64)
        for row in range(self.size[0]):
            for column in range(self.size[1]):
                logits = self.logits(x)[:, :, row, column] / self.temperature
                x[:, 0, row, column] = td.Categorical(logits=logits).sample()
        return x


class Masses:
    """The model :class:`Raster` with only a ``log_prob``, with or without a mistake."""

    def __init__(self, raster: Raster, *, added: float = 0.0, axis: int = 1, samples: bool = True) -> None:
        self.raster, self.added, self.axis = raster, added, axis
        if samples:
            self.sample = raster.sample

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        masses = self.raster.logits(x).log_softmax(self.axis)
        return masses.gather(1, x.long()).flatten(1).sum(1) + self.added


class Codes(nn.Module):
    """A latent model of binary images with a one-dimensional latent code and an inexact encoder."""

    def __init__(self, size: tuple[int, int] = (2, 2), *, seed: int = 0, scale: float = 0.9) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.size, self.scale = size, scale
        self.weight = nn.Parameter(1.5 * torch.randn(math.prod(size), generator=generator))
        self.eval()

    def prior(self) -> td.Distribution:
        return td.Normal(torch.zeros(1), torch.ones(1))

    def encode(self, x: Tensor) -> td.Distribution:
        mean = 0.3 * ((x.float().flatten(1) - 0.5) @ self.weight)
        return td.Normal(mean[:, None], torch.full((len(x), 1), self.scale))

    def decode(self, z: Tensor) -> td.Distribution:
        return td.Bernoulli(logits=(z * self.weight).reshape(-1, 1, *self.size))


class Weights:
    """The model :class:`Codes` with only ``log_weights``, with or without a mistake."""

    def __init__(self, codes: Codes, *, added: float = 0.0, has_log_q: bool = True) -> None:
        self.codes, self.added, self.has_log_q = codes, added, has_log_q

    @torch.no_grad()
    def log_weights(self, x: Tensor, k: int) -> Tensor:
        q = self.codes.encode(x)
        z = q.sample((k,))  # (K, B, 1)
        log_q = q.log_prob(z).sum(-1) if self.has_log_q else 0.0
        masses = td.Bernoulli(logits=z * self.codes.weight).log_prob(x.float().flatten(1)).sum(-1)
        return masses + self.codes.prior().log_prob(z).sum(-1) - log_q + self.added


class Bounds:
    """The model :class:`Codes` with draws of its evidence lower bound."""

    def __init__(self, codes: Codes, *, added: float = 0.0) -> None:
        self.weights = Weights(codes, added=added)

    def bound(self, x: Tensor) -> Tensor:
        return self.weights.log_weights(x, 1)[0]


class Logistic:
    """A density on (0, 1): the sigmoid of logistic noise with its Jacobian, or normal noise that is partly outside."""

    def __init__(self, *, added: float = 0.0, is_inside: bool = True) -> None:
        self.added, self.is_inside = added, is_inside

    def log_density(self, y: Tensor) -> Tensor:
        if not self.is_inside:
            return td.Normal(0.5, 0.5).log_prob(y).flatten(1).sum(1) + self.added
        u = (y.double().clamp(1e-9, 1 - 1e-9).logit() - 0.4) / 0.7
        log_p = -u - 2 * nn.functional.softplus(-u) - math.log(0.7)
        jacobian = -(y.double().log() + (-y.double()).log1p())
        return (log_p + jacobian).flatten(1).sum(1) + self.added
