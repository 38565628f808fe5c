"""The classic mistakes of likelihoods, made in models of somebody else, beside the same models without a mistake."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.nn import functional as F

import bitsperdim

L = 17
N_IMAGES = 60


@functools.cache
def digits() -> bitsperdim.Data:
    return bitsperdim.load_data("digits")


@functools.cache
def levels() -> Tensor:
    train = digits().train
    assert train is not None
    return torch.from_numpy(train).long()


def trained(model: nn.Module, loss: Callable[[Tensor], Tensor], n_steps: int) -> nn.Module:
    """Train with seeded batches, the global generator of torch left as it was."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    with torch.random.fork_rng(), torch.enable_grad():  # it may be asked for where there are no derivatives
        torch.manual_seed(0)
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss(levels()[torch.randint(len(levels()), (100,), generator=generator)]).backward()
            optimizer.step()
    return model.eval()


class Raster(nn.Module):
    """Masked convolutions; ``sees`` lets them see their own pixel, ``dropout`` and ``norm`` depend on the mode."""

    def __init__(self, *, sees: bool = False, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 24, 5, padding=2), nn.Conv2d(24, L, 1)
        mask = torch.ones(5, 5)
        mask[2, 3 if sees else 2 :] = 0
        mask[3:] = 0
        self.register_buffer("mask", mask)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm2d(24, track_running_stats=False) if norm else nn.Identity()

    def logits(self, x: Tensor) -> Tensor:
        hidden = F.conv2d(x, self.first.weight * self.mask, self.first.bias, padding=2)
        return self.last(self.dropout(self.norm(hidden).relu()))


@functools.cache
def raster(**options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Raster(**options)
    return trained(model, lambda x: F.cross_entropy(model.logits(x / 16), x[:, 0]), 200)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64 * L))

    def encode(self, x: Tensor) -> td.Distribution:
        mean, log_scale = self.encoder(x).chunk(2, dim=1)
        return td.Normal(mean, log_scale.exp())

    def decode(self, z: Tensor) -> td.Distribution:
        return td.Categorical(logits=self.decoder(z).unflatten(1, (1, 8, 8, L)))

    def prior(self) -> td.Distribution:
        return td.Normal(torch.zeros(4), torch.ones(4))

    def weights(self, x: Tensor, n: int, *, log_q: bool = True, log_prior: bool = True) -> Tensor:
        """Log-weights of levels (B, 1, 8, 8), (K, B)."""
        q = self.encode(x / 16)
        z = q.rsample((n,))
        masses = self.decode(z.flatten(0, 1)).log_prob(x.expand(n, *x.shape).flatten(0, 1)).flatten(1).sum(1)
        total = masses.unflatten(0, (n, len(x)))
        total = total + (self.prior().log_prob(z).sum(-1) if log_prior else 0.0)
        return total - (q.log_prob(z).sum(-1) if log_q else 0.0)


@functools.cache
def vae() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE()
    return trained(model, lambda x: -model.weights(x, 1).mean(), 500)


class Another:
    """A model with one method, which is a function."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        vars(self).update(functions)


@dataclass
class Audited:
    """What is given to the audit, and the checks that have to find something.

    Attributes:
        model: somebody else's.
        options: of the audit.
        caught_by: the checks of which one has to fail; empty: nothing is wrong, or nothing finds it.
    """

    model: Any
    options: dict[str, Any] = field(default_factory=dict)
    caught_by: tuple[str, ...] = ()


def log_p_of(model: Any, x: Tensor) -> Tensor:
    """Log P of levels by logits, (B,)."""
    masses = model.logits(x / 16).log_softmax(1)
    return masses.gather(1, x)[:, 0].flatten(1).sum(1)


def no_grad(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.no_grad()(function)


@functools.cache
def histogram() -> Tensor:
    """How often each sub-pixel has each level, (1, 8, 8, L), no level never."""
    return (F.one_hot(levels(), L).sum(0) + 0.1) / (len(levels()) + 0.1 * L)


def histogram_density(y: Tensor) -> Tensor:
    """A density on (0, 1)^D that is constant in each cell."""
    cell = (y.double() * L).floor().clamp(0, L - 1).long()
    heights = histogram().double().log() + math.log(L)
    return heights.expand(len(y), 1, 8, 8, L).gather(-1, cell[..., None])[..., 0].flatten(1).sum(1)


def bins(x: Tensor, mean: Tensor, *, edges: bool = True, floor: float = 0.0) -> Tensor:
    """Masses of a discretized logistic, with the tails in the edge levels or without."""
    upper = torch.sigmoid((x + 0.5 - mean) / 2)
    lower = torch.sigmoid((x - 0.5 - mean) / 2)
    if edges:
        upper = torch.where(x == L - 1, 1.0, upper)
        lower = torch.where(x == 0, 0.0, lower)
    return (upper - lower + floor).log()


def of_bins(**options: Any) -> Another:
    mean = levels().float().mean(0)
    return Another(conditionals=lambda x: Another(log_prob=lambda v: bins(v, mean, **options)))


class Remembering(VAE):
    """A decoder with a connection that goes round the code."""

    def encode(self, x: Tensor) -> td.Distribution:
        self.image = x
        return super().encode(x)

    def decode(self, z: Tensor) -> td.Distribution:
        logits = self.decoder(z).unflatten(1, (1, 8, 8, L))
        if hasattr(self, "image") and len(z) % len(self.image) == 0:
            seen = (self.image * 16).round().long().repeat(len(z) // len(self.image), 1, 1, 1)
            logits = logits + 2.0 * F.one_hot(seen, L)
        return td.Categorical(logits=logits)


class VarianceAsScale(VAE):
    """Draws have the variance where the density has the scale."""

    def encode(self, x: Tensor) -> Any:
        q = super().encode(x)
        drawn = td.Normal(q.mean, q.stddev.square())
        return Another(sample=drawn.sample, rsample=drawn.rsample, log_prob=q.log_prob, mean=q.mean)


def loaded(kind: type[VAE]) -> VAE:
    model = kind()
    model.load_state_dict(vae().state_dict())
    return model.eval()


class Unseeded(Raster):
    """Noise that no seed governs."""

    def logits(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return super().logits(x + 0.05 * noise)


def with_state_of(model: Any, kind: type[Raster]) -> Any:
    other = kind()
    other.load_state_dict(model.state_dict())
    return other.eval()


@torch.no_grad()
def bound_without_chance(x: Tensor) -> Tensor:
    """A lower bound with the signature of an exact log P: its random numbers are always the same."""
    mean, noise = vae().encode(x / 16), torch.randn(16, 1, 4, generator=torch.Generator().manual_seed(0))
    z = mean.mean + mean.stddev * noise
    masses = vae().decode(z.flatten(0, 1)).log_prob(x.expand(16, *x.shape).flatten(0, 1)).flatten(1).sum(1)
    log_w = masses.unflatten(0, (16, len(x))) + vae().prior().log_prob(z).sum(-1) - mean.log_prob(z).sum(-1)
    return log_w.logsumexp(0) - math.log(16)


UNIT = {"inputs": "unit"}
MASS = ("annealed mass", "sum over tiny images", "slice", "range")

RIGHT: dict[str, Callable[[], Audited]] = {
    "logits": lambda: Audited(raster(), UNIT),
    "log_prob": lambda: Audited(no_grad(lambda x: log_p_of(raster(), x)), {"offers": "log_prob"}),
    "discretized logistic": lambda: Audited(of_bins(), {}, ("codes",)),  # it is poor, and right: a warning
    "VAE": lambda: Audited(vae(), UNIT),
    "log_weights": lambda: Audited(no_grad(lambda x, n: vae().weights(x, n)), {"offers": "log_weights"}),
    "bound": lambda: Audited(no_grad(lambda x: vae().weights(x, 1)[0]), {"offers": "bound"}),
    "density": lambda: Audited(histogram_density, {"offers": "log_density", "range": (0, 1)}),
}

MISTAKES: dict[str, Callable[[], Audited]] = {
    "a mask that sees its own pixel": lambda: Audited(raster(sees=True), UNIT, ("causality",)),
    "dropout in use (training mode)": lambda: Audited(
        copy.deepcopy(raster(dropout=0.3)).train(), UNIT, ("evaluation mode",)
    ),
    "batch statistics in use": lambda: Audited(raster(norm=True), UNIT, ("alone or in a batch",)),
    "noise that no seed governs": lambda: Audited(with_state_of(raster(), Unseeded), UNIT, ("repeatable",)),
    "images on another scale": lambda: Audited(raster(), {"inputs": "symmetric"}, ("inputs",)),
    "levels instead of 0 to 1": lambda: Audited(
        Another(logits=no_grad(lambda x: raster().logits(x.float() * 16))), UNIT, ("range",)
    ),
    "another axis of the softmax": lambda: Audited(
        Another(
            conditionals=no_grad(lambda x: Another(log_prob=lambda v: raster().logits(x).log_softmax(3).gather(1, v)))
        ),
        UNIT,
        ("masses sum to one",),
    ),
    "edge levels without their tails": lambda: Audited(of_bins(edges=False), {}, ("masses sum to one",)),
    "a floor of 1e-3 under the masses": lambda: Audited(of_bins(floor=1e-3), {}, ("masses sum to one",)),
    "the mean over sub-pixels for the sum": lambda: Audited(
        no_grad(lambda x: log_p_of(raster(), x) / 64), {"offers": "log_prob"}, ("codes", *MASS)
    ),
    "a density as a mass, of x / 16": lambda: Audited(
        lambda x: histogram_density((x + 0.5) / 17), {"offers": "log_prob"}, MASS
    ),
    "log L of some sub-pixels left out": lambda: Audited(
        no_grad(lambda x: log_p_of(raster(), x) + 16 * math.log(L)), {"offers": "log_prob"}, MASS
    ),
    "weights without log q": lambda: Audited(
        no_grad(lambda x, n: vae().weights(x, n, log_q=False) + 40), {"offers": "log_weights"}, (*MASS, "codes")
    ),
    "weights without the prior": lambda: Audited(
        no_grad(lambda x, n: vae().weights(x, n, log_prior=False) + 20), {"offers": "log_weights"}, MASS
    ),
    "the log-mean of K weights as each of K": lambda: Audited(
        no_grad(lambda x, n: (vae().weights(x, n).logsumexp(0) - math.log(n)).expand(n, -1)),
        {"offers": "log_weights"},
        ("samples",),
    ),
    "the largest weight for their mean": lambda: Audited(
        no_grad(lambda x, n: vae().weights(x, n).amax(0).expand(n, -1)), {"offers": "log_weights"}, ("samples",)
    ),
    "K weights that share their noise": lambda: Audited(
        no_grad(lambda x, n: vae().weights(x, 1).expand(n, -1)), {"offers": "log_weights"}, ("samples",)
    ),
    "a decoder that remembers the image": lambda: Audited(loaded(Remembering), UNIT, ("decoder",)),
    "a variance used as a scale": lambda: Audited(loaded(VarianceAsScale), UNIT, ("samples",)),
    "test images in the training set": lambda: Audited(raster(), {**UNIT, "train": digits().images}, ("copies",)),
    "test images in the training set, of another brightness": lambda: Audited(
        raster(), {**UNIT, "train": digits().images * 7 // 8 + 2}, ("copies",)
    ),
    "test images in the training set, moved by a pixel": lambda: Audited(
        raster(), {**UNIT, "train": np.roll(digits().images, 1, 3)}, ("copies",)
    ),
    "nats taken for bits": lambda: Audited(
        no_grad(lambda x: log_p_of(raster(), x) / math.log(2)),
        {"offers": "log_prob"},
        ("sum over tiny images", "codes"),
    ),
    "one random draw of a bound as log_prob": lambda: Audited(
        no_grad(lambda x: vae().weights(x, 1)[0]), {"offers": "log_prob"}, ("alone or in a batch",)
    ),
}

# what no check finds: in a model of this size that cannot be built small a kind stays declared, and the audit says so
OPEN: dict[str, Callable[[], Audited]] = {
    "a bound offered as log_prob": lambda: Audited(bound_without_chance, {"offers": "log_prob"}),
    "a floor of 1e-7 under the masses": lambda: Audited(of_bins(floor=1e-7), {}, ("codes",)),
}
