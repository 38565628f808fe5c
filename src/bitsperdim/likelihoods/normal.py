"""Normals of latent spaces, and draws that, on a CPU, do not depend on how they are split into chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from bitsperdim.core.randomness import draw
from bitsperdim.likelihoods.base import at_least_float32

ONE_BY_ONE = ("cpu",)  # devices on which every sample is drawn by a separate call
ROUNDED = 1e-9  # largest error of the sum of shares


class DiagonalNormal:
    r"""A normal density with independent coordinates over the last dimension.

    .. math:: \log p(z) = -\tfrac12 \sum_j \Big( \frac{(z_j - \mu_j)^2}{s_j^2} + \log 2\pi \Big) - \sum_j \log s_j

    Args:
        mean: mean mu, (..., Z).
        log_scale: logarithm log s of the standard deviation, (..., Z).
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        """Store the mean and the logarithm of the standard deviation."""
        self.mean = at_least_float32(mean)
        self.log_scale = at_least_float32(log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, summed over the last dimension."""
        terms = -0.5 * (self.to_noise(z).square() + math.log(math.tau)) - self.log_scale
        return terms.sum(-1)

    def expand(self, n: int) -> DiagonalNormal:
        """Repeat a normal of shape (Z,) n times, as one normal of shape (n, Z)."""
        return DiagonalNormal(self.mean.expand(n, -1), self.log_scale.expand(n, -1))

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean, which needs no draws."""
        return self.mean

    def detach(self) -> DiagonalNormal:
        """Return the same normal without derivatives in its parameters."""
        return DiagonalNormal(self.mean.detach(), self.log_scale.detach())

    def moved(self, shift: Tensor, log_factor: Tensor) -> DiagonalNormal:
        """Return the normal with a shifted mean and a scaled standard deviation.

        Args:
            shift: shift of the mean, (..., Z), in units of the standard deviation.
            log_factor: logarithm of the factor of the standard deviation, (..., Z).
        """
        return DiagonalNormal(self.mean + torch.exp(self.log_scale) * shift, self.log_scale + log_factor)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the draws that standard normal noise (K, ..., Z) makes, differentiable in the parameters."""
        return self.mean + torch.exp(self.log_scale) * noise

    def to_noise(self, z: Tensor) -> Tensor:
        """Return the standard normal noise that makes the draws z, (K, ..., Z)."""
        return (z - self.mean) * torch.exp(-self.log_scale)

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, ..., Z), differentiable in the parameters; on a CPU the k-th does not depend on K."""
        return self.from_noise(draw_each(torch.randn, n_samples, self.mean, generator))


class LatentDensity(Protocol):
    """Interface of a density of latent codes."""

    @property
    def mean(self) -> Tensor:
        """A central value of the density, (B, Z)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats of z (K, B, Z), (K, B)."""

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, B, Z)."""

    def detach(self) -> LatentDensity:
        """Return the same density without derivatives in its parameters."""


class NormalLink(Protocol):
    """Map from the values of a stochastic layer to the normal of the next layer."""

    def __call__(self, inputs: Tensor) -> DiagonalNormal:
        """Return the normal given the values of the layer before."""

    def fixed(self, inputs: Tensor) -> DiagonalNormal:
        """Return the same normal, differentiable in its inputs but not in the weights of the link."""


@dataclass(frozen=True)
class MovedLink:
    """A link whose normals are moved (:meth:`DiagonalNormal.moved`) by an amount that is equal for all inputs.

    Attributes:
        link: original link.
        shift: shift of the means of the next layer, (..., Z).
        log_factor: logarithm of the factor of the standard deviations of the next layer, (..., Z).
    """

    link: NormalLink
    shift: Tensor
    log_factor: Tensor

    def __call__(self, inputs: Tensor) -> DiagonalNormal:
        """Return the moved normal given the values of the layer before."""
        return self.link(inputs).moved(self.shift, self.log_factor)

    def fixed(self, inputs: Tensor) -> DiagonalNormal:
        """Return the same normal, differentiable in its inputs only."""
        return self.link.fixed(inputs).moved(self.shift.detach(), self.log_factor.detach())


class NormalChain:
    r"""Normals of several stochastic layers, each given the layer before; vectors z are flat over all layers.

    .. math:: \log p(z_1, \dots, z_n) = \log p(z_1) + \sum_{i > 1} \log p(z_i \mid z_{i-1})

    Args:
        first: normal of z_1, (..., Z_1).
        rest: links from z_{i-1} to the normal of z_i, for i > 1.
        sizes: dimensions Z_1, ..., Z_n of the layers.
        is_reversed: whether z_n comes first in flat vectors, and z_1 last.
        is_fixed: whether the links are used without derivatives in their weights.
    """

    def __init__(
        self,
        first: DiagonalNormal,
        rest: Sequence[NormalLink],
        sizes: Sequence[int],
        *,
        is_reversed: bool,
        is_fixed: bool = False,
    ) -> None:
        """Store the first normal and the links."""
        self.first, self.rest, self.sizes, self.is_reversed = first, tuple(rest), list(sizes), is_reversed
        self.is_fixed = is_fixed
        self.links = [link.fixed if is_fixed else link for link in self.rest]

    def expand(self, n: int) -> NormalChain:
        """Repeat a chain of shape (Z,) n times, as one chain of shape (n, Z)."""
        first, how = self.first.expand(n), {"is_reversed": self.is_reversed, "is_fixed": self.is_fixed}
        return NormalChain(first, self.rest, self.sizes, **how)

    def detach(self) -> NormalChain:
        """Return the same chain without derivatives in its parameters; derivatives in z remain."""
        return NormalChain(self.first.detach(), self.rest, self.sizes, is_reversed=self.is_reversed, is_fixed=True)

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean of every layer, (..., Z).

        The mean of the first layer is exact. The means of the others are averages over draws of the layer before.

        Args:
            n_samples: number of draws.
            generator: random number generator of the draws.
        """
        drawn = self.parts(self.rsample(n_samples, generator=generator))
        means = [link(given).mean.mean(0) for link, given in zip(self.links, drawn, strict=False)]
        return self.flat([self.first.mean, *means])

    def parts(self, z: Tensor) -> list[Tensor]:
        """Split flat vectors (..., Z) into z_1, ..., z_n."""
        sizes = self.sizes[::-1] if self.is_reversed else self.sizes
        found = list(z.split(sizes, dim=-1))
        return found[::-1] if self.is_reversed else found

    def flat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join z_1, ..., z_n to flat vectors (..., Z), the inverse of :meth:`parts`."""
        return torch.cat(list(parts[::-1] if self.is_reversed else parts), dim=-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, summed over the last dimension."""
        first, *others = parts = self.parts(z)
        log_p = self.first.log_prob(first)
        for link, given, part in zip(self.links, parts, others, strict=False):
            log_p = log_p + link(given).log_prob(part)
        return log_p

    def moved(self, shift: Tensor, log_factor: Tensor) -> NormalChain:
        """Return the chain in which the normal of every layer, given the layer before, is moved.

        Args:
            shift: shifts of the means, flat, (..., Z), in units of each standard deviation.
            log_factor: logarithms of the factors of the standard deviations, flat, (..., Z).
        """
        shifts, factors = self.parts(shift), self.parts(log_factor)
        links = [MovedLink(*each) for each in zip(self.rest, shifts[1:], factors[1:], strict=True)]
        how = {"is_reversed": self.is_reversed, "is_fixed": self.is_fixed}
        return NormalChain(self.first.moved(shifts[0], factors[0]), links, self.sizes, **how)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the draws that standard normal noise (K, ..., Z) makes, differentiable in the parameters."""
        first, *others = self.parts(noise)
        drawn = [self.first.from_noise(first)]
        for link, each in zip(self.links, others, strict=True):
            drawn.append(link(drawn[-1]).from_noise(each))
        return self.flat(drawn)

    def to_noise(self, z: Tensor) -> Tensor:
        """Return the standard normal noise that makes the draws z, (K, ..., Z)."""
        first, *others = parts = self.parts(z)
        noise = [self.first.to_noise(first)]
        for link, given, each in zip(self.links, parts, others, strict=False):
            noise.append(link(given).to_noise(each))
        return self.flat(noise)

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, ..., Z), differentiable in the parameters; on a CPU the k-th does not depend on K."""
        like = self.first.mean.new_empty(*self.first.mean.shape[:-1], sum(self.sizes))
        return self.from_noise(draw_each(torch.randn, n_samples, like, generator))

    @property
    def mean(self) -> Tensor:
        """The mean of each layer given the mean of the layer before, (..., Z); exact only for the first layer."""
        means = [self.first.mean]
        for link in self.links:
            means.append(link(means[-1]).mean)
        return self.flat(means)


class CorrelatedNormal:
    r"""A normal with a full covariance in the space of the noise u, from which another normal computes its draws z.

    .. math:: z = T(u), \quad u = c + L \epsilon, \qquad
              \log q(z) = \log q_T(z) - \log \mathcal N(u; 0, I) + \log \mathcal N(u; c, L L^\top)

    With one stochastic layer, T shifts and scales each coordinate, and z is normal. With several layers, T depends on
    the layers before.

    Args:
        base: normal q_T that defines T, (B, Z).
        center: mean c of the noise, (B, Z).
        factor: Cholesky factor L of the covariance of the noise, (B, Z, Z), lower triangular with a positive diagonal.
    """

    def __init__(self, base: DiagonalNormal | NormalChain, center: Tensor, factor: Tensor) -> None:
        """Store the normal, and the mean and Cholesky factor of its noise."""
        self.base, self.center, self.factor = base, center, factor
        self.log_determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (B,)

    @property
    def mean(self) -> Tensor:
        """The value of z for the mean of the noise, (B, Z)."""
        return self.base.from_noise(self.center[None])[0]

    def detach(self) -> CorrelatedNormal:
        """Return the same density without derivatives in its parameters; derivatives in z remain."""
        return CorrelatedNormal(self.base.detach(), self.center.detach(), self.factor.detach())

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the draws that standard normal noise (K, B, Z) makes."""
        return self.base.from_noise(self.center + (noise.movedim(0, 1) @ self.factor.mT).movedim(0, 1))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats of z (K, B, Z), (K, B)."""
        u = self.base.to_noise(z)
        centered = (u - self.center).movedim(0, -1)  # (B, Z, K)
        noise = torch.linalg.solve_triangular(self.factor, centered, upper=False)
        squares = u.square().sum(-1) - noise.square().sum(1).mT
        return self.base.log_prob(z) + 0.5 * squares - self.log_determinant

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, B, Z); on a CPU the noise of the k-th draw does not depend on K."""
        return self.from_noise(draw_each(torch.randn, n_samples, self.center, generator))


class LatentMixture:
    r"""A mixture of densities of a latent code, in which a component is drawn for each sample.

    .. math:: q(z) = \sum_i \alpha_i \, q_i(z)

    No weight p / q is larger than :math:`1 / \alpha_i` times the weight p / q_i of a component, so that one good
    component is enough (Hesterberg 1995, "Weighted Average Importance Sampling and Defensive Mixture Distributions").

    Args:
        parts: components q_i, (B, Z); the first component is a normal or a chain of normals.
        shares: positive shares alpha_i, whose sum is one.

    Raises:
        ValueError: the shares do not fit the components, are not positive, or their sum is not one.
    """

    def __init__(self, parts: Sequence[LatentDensity], shares: Sequence[float]) -> None:
        """Store the components and their shares."""
        self.parts, self.shares = tuple(parts), torch.tensor(shares, dtype=torch.float64)
        if len(parts) != len(shares) or (self.shares <= 0).any() or abs(float(self.shares.sum()) - 1) > ROUNDED:
            raise ValueError(f"{len(parts)} components need as many positive shares that add up to 1, not {shares}")
        # edges between the components, as quantiles of the normal that selects one; computed once for all draws
        self._edges = torch.special.ndtri(self.shares.cumsum(0)[:-1]).to(parts[0].mean)

    @property
    def mean(self) -> Tensor:
        """The mean of the first component, (B, Z)."""
        return self.parts[0].mean

    def detach(self) -> LatentMixture:
        """Return the same mixture without derivatives in its parameters."""
        return LatentMixture([part.detach() for part in self.parts], self.shares.tolist())

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats of z (K, B, Z), (K, B)."""
        terms = [part.log_prob(z) + math.log(share) for part, share in zip(self.parts, self.shares, strict=True)]
        return torch.logsumexp(torch.stack(terms), dim=0)

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, B, Z), with a separately drawn component for each sample.

        On a CPU the k-th draw does not depend on K. Draws have no derivatives in the shares.
        """
        mean = self.mean
        noise = draw_each(torch.randn, n_samples, mean.new_empty(len(mean), mean.shape[-1] + 1), generator)
        # the first normal number of each sample selects the component; the others are the noise of the draw from it
        chosen = torch.bucketize(noise[..., 0].contiguous(), self._edges)[..., None]  # (K, B, 1)
        drawn = self._of_part(0, n_samples, noise[..., 1:], generator)
        for i in range(1, len(self.parts)):
            drawn = torch.where(chosen == i, self._of_part(i, n_samples, noise[..., 1:], generator), drawn)
        return drawn

    def _of_part(self, i: int, n_samples: int, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        part = self.parts[i]
        if isinstance(part, DiagonalNormal | NormalChain | CorrelatedNormal):
            return part.from_noise(noise)
        return part.rsample(n_samples, generator=generator)


def draw_each(
    how: Callable[..., Tensor], n_samples: int, like: Tensor, generator: torch.Generator | None
) -> Tensor:  # (K, *like.shape)
    """Draw ``n_samples`` times with the shape (B, ...), dtype and device of ``like``.

    On a CPU each sample is drawn by its own call, so that the numbers, and all estimates from them, do not depend on
    how K is split into chunks. On a GPU a call costs more than the numbers that it draws, so one call draws all.

    Args:
        how: function that draws random numbers, such as ``torch.randn``.
        n_samples: number K of samples.
        like: tensor with the shape, dtype and device of one sample.
        generator: random number generator; None: the default generator of the device.
    """
    at = partial(draw, how, generator=generator, dtype=like.dtype, device=like.device)
    if like.device.type in ONE_BY_ONE:
        return torch.stack([at(like.shape) for _ in range(n_samples)])
    return (
        at((len(like), n_samples, *like.shape[1:])).movedim(1, 0).contiguous()
    )  # rows first: processes may share them
