"""Models of somebody else, right ones, on tiny images: parameters by seed, nothing of this package in them.

A :class:`Masked` model knows log P(x) of every image; a :class:`Vae` has a code of one number, so that quadrature knows
it; a :class:`Slopes` density knows the mass of every cell. :class:`Offering` makes a module that offers just the named
functions.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td


class Offering(nn.Module):
    """A module in evaluation mode that offers these functions, and holds the weights of ``net``."""

    def __init__(self, net: nn.Module | None = None, **functions: Any) -> None:
        super().__init__()
        self.net = net
        for name, function in functions.items():
            setattr(self, name, function)
        self.eval()


class Levels(nn.Module):
    """Undoes what a model is given: numbers of levels in a layout, to (B, C, H, W)."""

    def __init__(self, shape: tuple[int, int, int], n_levels: int, inputs: str, layout: str) -> None:
        super().__init__()
        self.shape, self.n_levels, self.inputs, self.layout = shape, n_levels, inputs, layout

    def levels(self, x: Tensor) -> Tensor:
        """Return levels as floating-point numbers, (B, C, H, W)."""
        scaled = {"integers": lambda v: v.double(), "unit": lambda v: v.double() * (self.n_levels - 1)}
        scaled["symmetric"] = lambda v: (v.double() + 1) / 2 * (self.n_levels - 1)
        assert x.is_floating_point() != (self.inputs == "integers"), x.dtype
        x = scaled[self.inputs](x).round()
        if self.layout == "channels_last":
            x = x.permute(0, 3, 1, 2)
        return x.reshape(len(x), *self.shape)

    def laid_out(self, values: Tensor) -> Tensor:
        """Return (B, C, H, W, ...) in the layout of the model."""
        if self.layout == "channels_last":
            return values.permute(0, 2, 3, 1, *range(4, values.ndim))
        if self.layout == "flat":
            return values.reshape(len(values), -1, *values.shape[4:])
        return values[:, 0] if self.layout == "plane" else values


class Masked(Levels):
    """Logits that are linear in the sub-pixels before, in raster order, channels inside: exact."""

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 2, 2),
        n_levels: int = 3,
        *,
        inputs: str = "integers",
        layout: str = "channels_first",
        seed: int = 0,
        is_leaking: bool = False,
    ) -> None:
        super().__init__(shape, n_levels, inputs, layout)
        generator, n = torch.Generator().manual_seed(seed), math.prod(shape)
        self.start = nn.Parameter(torch.randn(n, n_levels, generator=generator))
        self.weight = nn.Parameter(torch.randn(n, n, n_levels, generator=generator))
        mask = torch.ones(n, n).tril(0 if is_leaking else -1)
        self.register_buffer("mask", mask[..., None])
        self.eval()

    def tables(self, x: Tensor) -> Tensor:
        """Return logits (B, C, H, W, L)."""
        channels, height, width = self.shape
        raster = self.levels(x).to(self.start.dtype).permute(0, 2, 3, 1).flatten(1) / (self.n_levels - 1)
        logits = self.start + torch.einsum("bj,ijl->bil", raster, self.weight * self.mask)
        return logits.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2, 4)

    def last(self, x: Tensor) -> Tensor:
        """Return logits with the levels last, in the layout of the model."""
        return self.laid_out(self.tables(x))

    def first(self, x: Tensor) -> Tensor:
        """Return logits with the levels first."""
        return self.last(x).movedim(-1, 1)

    def mass(self, x: Tensor) -> Tensor:
        """Return log P(x), (B,)."""
        log_masses = torch.log_softmax(self.tables(x), dim=-1)
        return log_masses.gather(-1, self.levels(x).long()[..., None]).flatten(1).sum(1)


class Own:
    """A distribution that is none of torch's: it has a log_prob."""

    def __init__(self, log_masses: Tensor) -> None:
        self.log_masses = log_masses

    def log_prob(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.int64
        return self.log_masses.gather(-1, x[..., None])[..., 0]


class Vae(Levels):
    """A normal code of one number, its encoder and its decoder; log P(x) by quadrature."""

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 2, 2),
        n_levels: int = 3,
        *,
        inputs: str = "integers",
        layout: str = "channels_first",
        seed: int = 0,
        code: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__(shape, n_levels, inputs, layout)
        generator, n = torch.Generator().manual_seed(seed), math.prod(shape)
        self.code = code
        self.start = nn.Parameter(torch.randn(n, n_levels, generator=generator))
        self.weight = nn.Parameter(torch.randn(n, n_levels, generator=generator))
        self.toward = nn.Parameter(0.3 * torch.randn(n, generator=generator))
        self.eval()

    def prior(self) -> td.Distribution:
        return td.Independent(td.Normal(torch.zeros(self.code), torch.ones(self.code)), len(self.code))

    def encode(self, x: Tensor) -> td.Distribution:
        mean = (self.levels(x).float().flatten(1) / (self.n_levels - 1) @ self.toward).reshape(-1, *self.code)
        return td.Independent(td.Normal(mean, torch.full_like(mean, 0.9)), len(self.code))

    def decode(self, z: Tensor) -> td.Distribution:
        assert z.shape[1:] == self.code, z.shape
        logits = self.start + z.reshape(-1, 1, 1) * self.weight
        return td.Categorical(logits=self.laid_out(logits.unflatten(1, self.shape)))

    def weights(self, x: Tensor, n_samples: int) -> Tensor:
        """Return log-weights (K, B)."""
        q = self.encode(x)
        z = q.sample((n_samples,))
        return self.given(x, z) + self.prior().log_prob(z) - q.log_prob(z)

    def given(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x given z) for codes (K, B, *code), (K, B)."""
        logits = self.start + z.reshape(*z.shape[:2], 1, 1) * self.weight
        levels = self.levels(x).long().flatten(1).expand(len(z), -1, -1)
        return torch.log_softmax(logits, -1).gather(-1, levels[..., None])[..., 0].sum(-1)

    def elbo(self, x: Tensor) -> Tensor:
        """Return one draw of the evidence lower bound, (B,)."""
        return self.weights(x, 1)[0]

    @torch.no_grad()
    def truth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(x) and the evidence lower bound, (B,) each, by quadrature over the code."""
        z = torch.linspace(-12, 12, 6001).reshape(-1, 1, *[1] * len(self.code)).expand(-1, len(x), *self.code)
        joint = (self.given(x, z) + self.prior().log_prob(z)).double()
        log_q = self.encode(x).log_prob(z).double()
        step = math.log(24 / 6000)
        return torch.logsumexp(joint, 0) + step, ((joint - log_q) * (log_q + step).exp()).sum(0)


class Slopes(nn.Module):
    """A density on an interval, of each sub-pixel a straight line: of t in (0, 1) it is 1 + a (2 t - 1)."""

    def __init__(
        self, interval: tuple[float, float] = (0.0, 1.0), shape: tuple[int, int, int] = (1, 2, 2), seed: int = 0
    ) -> None:
        super().__init__()
        self.low, self.width = interval[0], interval[1] - interval[0]
        slopes = 1.6 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.8
        self.slopes = nn.Parameter(slopes)
        self.eval()

    def log_density(self, y: Tensor) -> Tensor:
        t = (y - self.low) / self.width
        assert bool((t >= 0).all() and (t < 1).all())
        return (torch.log1p(self.slopes * (2 * t - 1)) - math.log(self.width)).flatten(1).sum(1)

    @torch.no_grad()
    def truth(self, x: Tensor, n_levels: int) -> Tensor:
        """Return log P(x), (B,): the logarithm of the mass of its cell."""
        edges = (x.double()[None] + torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)) / n_levels
        below, above = edges + self.slopes * (edges.square() - edges)
        return (above - below).log().flatten(1).sum(1)


def every_image(shape: tuple[int, int, int], n_levels: int) -> Tensor:
    """Return all images of a shape, (L^D, C, H, W) int64."""
    rows = list(itertools.product(range(n_levels), repeat=math.prod(shape)))
    return torch.tensor(rows).reshape(-1, *shape)


def some_images(shape: tuple[int, int, int], n_levels: int, n_images: int = 12, seed: int = 0) -> Tensor:
    """Return images at random, (N, C, H, W) int64, with both ends of the levels among them."""
    x = torch.randint(n_levels, (n_images, *shape), generator=torch.Generator().manual_seed(seed))
    x[0], x[-1] = 0, n_levels - 1
    return x
