"""Small models like those of a user: they use only PyTorch and nothing from this package.

Each model has a right likelihood, and switches that make it wrong.

Invariants (``tests/studies/known/test_mistakes.py``): models without a mistake pass the audit, and their masses of all
tiny images sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.nn import functional

N_FILTERS = 24
KERNEL = 5
N_HIDDEN = 64
N_CODES = 4
REACH = 3  # levels
Shape = tuple[int, int, int]


class Another:
    """A model whose methods are given as functions."""

    log_prob: Callable[[Tensor], Tensor]  # present only if it is given

    def __init__(self, **functions: Any) -> None:  # noqa: ANN401 - functions or values
        """Store the functions as attributes."""
        vars(self).update(functions)


class Raster(nn.Module):
    """Masked convolutions of values from 0 to 1: a sub-pixel sees pixels above and to the left, and earlier channels.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        sees: whether a sub-pixel also sees itself.
        dropout: share of activations that are dropped in training mode.
        norm: whether filters are normalized by the statistics of the batch.
        noise: scale of noise that is added to the inputs and that no seed controls.
    """

    mask: Tensor

    def __init__(
        self,
        image_shape: Shape,
        n_levels: int,
        *,
        sees: bool = False,
        dropout: float = 0.0,
        norm: bool = False,
        noise: float = 0.0,
    ) -> None:
        """Build the layers, with one group of filters for each channel."""
        super().__init__()
        n_channels = image_shape[0]
        self.n_channels, self.n_levels, self.noise = n_channels, n_levels, noise
        self.first = nn.Conv2d(n_channels, n_channels * N_FILTERS, KERNEL, padding=KERNEL // 2)
        self.last = nn.Conv2d(n_channels * N_FILTERS, n_channels * n_levels, 1, groups=n_channels)
        mask = torch.zeros(n_channels, 1, n_channels, KERNEL, KERNEL)
        mask[..., : KERNEL // 2, :] = 1
        mask[..., KERNEL // 2, : KERNEL // 2] = 1
        for channel in range(n_channels):
            mask[channel, :, : channel + int(sees), KERNEL // 2, KERNEL // 2] = 1
        self.register_buffer("mask", mask.repeat(1, N_FILTERS, 1, 1, 1).flatten(0, 1))
        self.dropout = nn.Dropout(dropout)
        self.chance = torch.Generator().manual_seed(1) if noise else None  # its state persists between calls
        self.norm = nn.BatchNorm2d(n_channels * N_FILTERS, track_running_stats=False) if norm else nn.Identity()

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (B, C, H, W, L) for images (B, C, H, W) with values from 0 to 1."""
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=self.chance)
        hidden = functional.conv2d(x, self.first.weight * self.mask, self.first.bias, padding=KERNEL // 2)
        outputs: Tensor = self.last(self.dropout(self.norm(hidden).relu()))
        return outputs.unflatten(1, (self.n_channels, self.n_levels)).movedim(2, -1)

    def log_p(self, x: Tensor) -> Tensor:
        """Return log P of levels (B, C, H, W), (B,) nats."""
        return looked_up(self.logits(x / (self.n_levels - 1)).log_softmax(-1), x).flatten(1).sum(1)


def looked_up(log_masses: Tensor, x: Tensor) -> Tensor:
    """Return the entries of log-masses (..., C, H, W, L) at levels (..., C, H, W)."""
    levels = x.long()
    return log_masses.expand(*levels.shape, -1).gather(-1, levels[..., None])[..., 0]


def bins(x: Tensor, mean: Tensor, scale: Tensor, n_levels: int, *, edges: bool = True, floor: float = 0.0) -> Tensor:
    """Return log-masses of a logistic in the cells of levels.

    Args:
        x: levels.
        mean: mean of the logistic, in levels.
        scale: scale of the logistic, in levels.
        n_levels: L.
        edges: whether the edge levels include the tails.
        floor: constant that is added to each mass.
    """
    upper, lower = (x + 0.5 - mean) / scale, (x - 0.5 - mean) / scale
    if edges:
        upper = torch.where(x == n_levels - 1, math.inf, upper)
        lower = torch.where(x == 0, -math.inf, lower)
    if floor:
        return (torch.sigmoid(upper) - torch.sigmoid(lower) + floor).log()
    # computes the difference of two sigmoids without cancellation
    width = torch.where((upper - lower).isfinite(), upper - lower, math.inf)
    return functional.logsigmoid(upper) + functional.logsigmoid(-lower) + torch.log(-torch.expm1(-width))


def switched(x: Tensor, mean: Tensor, scale: Tensor, n_levels: int, *, below: float) -> Tensor:
    """Return log-masses as :func:`bins`, but the log-density in the cell's middle if an inner mass is below a limit."""
    masses = bins(x, mean, scale, n_levels)
    centre = (x - mean) / scale
    density = -centre - torch.log(scale) - 2 * functional.softplus(-centre)
    is_inner = (x > 0) & (x < n_levels - 1)
    return torch.where(is_inner & (masses < math.log(below)), density, masses)


class VAE(nn.Module):
    """A variational autoencoder with a few normal latent variables and discretized logistic masses.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        remembers: nats by which the decoder favours the image that was encoded last.
        draws_variance: whether the encoder draws with the variance in the place of the standard deviation.
    """

    def __init__(
        self, image_shape: Shape, n_levels: int, *, remembers: float = 0.0, draws_variance: bool = False
    ) -> None:
        """Build the encoder and the decoder."""
        super().__init__()
        self.image_shape, self.n_levels = image_shape, n_levels
        self.remembers, self.draws_variance = remembers, draws_variance
        n_dims = math.prod(image_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(n_dims, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, 2 * N_CODES)
        )
        self.decoder = nn.Sequential(nn.Linear(N_CODES, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, 2 * n_dims))
        self.image: Tensor | None = None

    def encode(self, x: Tensor) -> Any:  # noqa: ANN401 - a distribution, or an object with its methods
        """Return q(z given x) for images with values from 0 to 1."""
        if self.remembers:
            self.image = x
        mean, log_scale = self.encoder(x).chunk(2, dim=1)
        q = td.Normal(mean, log_scale.exp())
        if not self.draws_variance:
            return q
        drawn = td.Normal(q.mean, q.stddev.square())
        return Another(sample=drawn.sample, rsample=drawn.rsample, log_prob=q.log_prob, mean=q.mean)

    def decode(self, z: Tensor) -> Another:
        """Return p(x given z) for codes (B, Z): an object with ``log_prob(levels)``, (B, C, H, W)."""
        mean, log_scale = self.decoder(z).unflatten(1, (2, *self.image_shape)).unbind(1)
        half = (self.n_levels - 1) / 2
        mean, scale = half * (1 + mean), (half / 4) * log_scale.exp().clamp(min=1e-3)

        def log_prob(x: Tensor) -> Tensor:
            masses = bins(x, mean, scale, self.n_levels)
            if self.image is not None and len(z) % len(self.image) == 0:
                seen = (self.image * (self.n_levels - 1)).round().repeat(len(z) // len(self.image), 1, 1, 1)
                masses = masses + self.remembers * (x == seen)
                every = torch.logaddexp(
                    torch.zeros_like(mean),
                    math.log(math.expm1(self.remembers)) + bins(seen, mean, scale, self.n_levels),
                )
                masses = masses - every
            return masses

        return Another(log_prob=log_prob)

    def prior(self) -> td.Distribution:
        """Return p(z)."""
        return td.Normal(torch.zeros(N_CODES), torch.ones(N_CODES))

    def weights(self, x: Tensor, n: int, *, log_q: bool = True, log_prior: bool = True) -> Tensor:
        """Return log-weights (K, B) in nats for levels (B, C, H, W); one of their terms may be left out."""
        q = self.encode(x / (self.n_levels - 1))
        z = q.rsample((n,))
        masses = self.decode(z.flatten(0, 1)).log_prob(x.expand(n, *x.shape).flatten(0, 1)).flatten(1).sum(1)
        total: Tensor = masses.unflatten(0, (n, len(x)))
        if log_prior:
            total = total + self.prior().log_prob(z).sum(-1)
        return total - q.log_prob(z).sum(-1) if log_q else total


def frequencies(x: Tensor, n_levels: int, pseudo: float) -> Tensor:
    """Return the relative frequency of each level at each sub-pixel, (C, H, W, L), smoothed by pseudo-counts."""
    counts = torch.stack([(x == level).sum(0) for level in range(n_levels)], dim=-1).double()
    return (counts + pseudo) / (len(x) + pseudo * n_levels)


class Cells:
    """Independent sub-pixels with a density that is constant in each cell of an interval.

    Args:
        masses: masses of the levels, (C, H, W, L).
    """

    def __init__(self, masses: Tensor) -> None:
        """Store the masses."""
        self.masses = masses
        self.n_levels, self.n_dims = masses.shape[-1], masses[..., 0].numel()

    def log_p(self, x: Tensor) -> Tensor:
        """Return log P of levels, (B,) nats."""
        return looked_up(self.masses.log(), x).flatten(1).sum(1)

    def log_density(self, y: Tensor, span: float = 1.0) -> Tensor:
        """Return the log-density of values from 0 to ``span``, (B,) nats."""
        cell = (y.double() * (self.n_levels / span)).floor().clamp(0, self.n_levels - 1)
        return self.log_p(cell) + self.n_dims * math.log(self.n_levels / span)


def near(y: Tensor, scale: float, n_levels: int) -> tuple[Tensor, Tensor]:
    """Return the levels whose cells have middles near values, and the log-densities of normals around these middles.

    If the scale is at most 0.3 levels, normals that are farther away add less than e^-60 to a sum.

    Args:
        y: values (...) in levels.
        scale: scale of the normals.
        n_levels: L.

    Returns:
        Levels (..., 2 REACH + 1), some of which may not exist, and log-densities, which are minus infinity for levels
        that do not exist.
    """
    levels = y.floor()[..., None] + torch.arange(-REACH, REACH + 1)
    normals = td.Normal(levels + 0.5, scale).log_prob(y[..., None])
    return levels.long(), torch.where((levels >= 0) & (levels < n_levels), normals, -math.inf)


class Mixture:
    """Independent sub-pixels, each a mixture of normals around the middles x + 1/2 of the cells.

    Args:
        masses: masses of the components, (C, H, W, L).
        scale: scale of each normal, in levels.
    """

    def __init__(self, masses: Tensor, scale: float) -> None:
        """Store the masses and the scale."""
        self.log_masses, self.scale = masses.log(), scale
        self.n_levels = masses.shape[-1]

    def log_density(self, y: Tensor) -> Tensor:
        """Return the log-density of values in levels, (B,) nats."""
        levels, normals = near(y.double(), self.scale, self.n_levels)
        log_masses = looked_up(self.log_masses[..., None, :], levels.clamp(0, self.n_levels - 1))
        return (log_masses + normals).logsumexp(-1).flatten(1).sum(1)

    def log_p(self, x: Tensor) -> Tensor:
        """Return log P of levels, the integral over their cells, (B,) nats; the edge levels include the tails."""
        edges = torch.arange(self.n_levels + 1).double()
        middles = edges[:-1, None] + 0.5
        edges[0], edges[-1] = -math.inf, math.inf
        shares = td.Normal(middles, self.scale).cdf(edges).diff(dim=1)  # of component k in cell x
        return looked_up((self.log_masses.exp() @ shares).log(), x).flatten(1).sum(1)


class Gauss:
    """Independent normals as a flow: the linear equation dy/dt = v(y) maps them to standard normals at t = 1.

    Args:
        mean: means (C, H, W), in levels.
        scale: standard deviations (C, H, W), in levels.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        """Store the means and the scales."""
        self.mean, self.scale = mean.double(), scale.double()

    def log_density(self, y: Tensor, *, direction: float = 1.0, divergence: float = 1.0) -> Tensor:
        r"""Return the log-density of values in levels, (B,) nats.

        The velocity is :math:`-\log s \, (y - m)`, whose divergence is constant, so that the equation has a solution
        in closed form.

        Args:
            y: values (B, C, H, W), in levels.
            direction: 1 integrates from the data to the noise (right), -1 from the noise to the data.
            divergence: sign of the integral of the divergence; 1 is right.
        """
        rate = -direction * self.scale.log()
        z = (y.double() - self.mean) * rate.exp()
        normal = -0.5 * z.square() - 0.5 * math.log(math.tau)
        return (normal + divergence * rate).flatten(1).sum(1)


def trained(
    model: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor, *, n_steps: int, batch_size: int, seed: int
) -> None:
    """Train with seeded batches, and set the model to evaluation mode; torch's global generator keeps its state."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # callers may have disabled gradients
        torch.manual_seed(seed)
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss(x[torch.randint(len(x), (batch_size,), generator=generator)]).backward()
            optimizer.step()
    model.eval()
