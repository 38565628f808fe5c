"""The normals of latent spaces, and draws that, on a CPU, do not depend on how they are cut into chunks."""

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

ONE_BY_ONE = ("cpu",)  # devices on which every sample is drawn by a call of its own
ROUNDED = 1e-9  # of the sum of shares


class DiagonalNormal:
    r"""A normal density with independent coordinates over the last dimension.

    .. math:: \log p(z) = -\tfrac12 \sum_j \Big( \frac{(z_j - \mu_j)^2}{s_j^2} + \log 2\pi \Big) - \sum_j \log s_j

    Args:
        mean: mu, (..., Z).
        log_scale: log s, (..., Z).
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        """Take the mean and the logarithm of the standard deviation."""
        self.mean = at_least_float32(mean)
        self.log_scale = at_least_float32(log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, summed over the last dimension."""
        terms = -0.5 * (self.to_noise(z).square() + math.log(math.tau)) - self.log_scale
        return terms.sum(-1)

    def expand(self, n: int) -> DiagonalNormal:
        """Return n of a normal of shape (Z,), as one of shape (n, Z)."""
        return DiagonalNormal(self.mean.expand(n, -1), self.log_scale.expand(n, -1))

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean: no draws are needed."""
        return self.mean

    def detach(self) -> DiagonalNormal:
        """Return the same normal without derivatives in its parameters."""
        return DiagonalNormal(self.mean.detach(), self.log_scale.detach())

    def moved(self, shift: Tensor, log_factor: Tensor) -> DiagonalNormal:
        """Return the normal whose mean is ``shift`` standard deviations away, and whose scale is exp(log_factor) times.

        Args:
            shift: (..., Z), in the unit of the standard deviation.
            log_factor: (..., Z).
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
    """What a proposal of latent codes can do."""

    @property
    def mean(self) -> Tensor:
        """A middle of it, (B, Z)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats of z (K, B, Z), (K, B)."""

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, B, Z)."""

    def detach(self) -> LatentDensity:
        """Return the same density without derivatives in its parameters."""


class NormalLink(Protocol):
    """From a stochastic layer to the normal of the next."""

    def __call__(self, inputs: Tensor) -> DiagonalNormal:
        """Return the normal given values of the layer before."""

    def fixed(self, inputs: Tensor) -> DiagonalNormal:
        """Return the same normal, differentiable in its inputs but not in the weights of the link."""


@dataclass(frozen=True)
class MovedLink:
    """A link whose normals are moved (:meth:`DiagonalNormal.moved`), by the same whatever the layer before is.

    Attributes:
        link: as it was.
        shift: (..., Z), of the layer that it leads to.
        log_factor: likewise.
    """

    link: NormalLink
    shift: Tensor
    log_factor: Tensor

    def __call__(self, inputs: Tensor) -> DiagonalNormal:
        """Return the normal given values of the layer before."""
        return self.link(inputs).moved(self.shift, self.log_factor)

    def fixed(self, inputs: Tensor) -> DiagonalNormal:
        """Return the same normal, differentiable in its inputs alone."""
        return self.link.fixed(inputs).moved(self.shift.detach(), self.log_factor.detach())


class NormalChain:
    r"""Normals of several stochastic layers, each given the one before; flat over all of them.

    .. math:: \log p(z_1, \dots, z_n) = \log p(z_1) + \sum_{i > 1} \log p(z_i \mid z_{i-1})

    Args:
        first: of z_1, (..., Z_1).
        rest: from z_{i-1} to the normal of z_i, for i > 1.
        sizes: Z_1, ..., Z_n.
        is_reversed: whether z_n comes first in flat vectors, and z_1 last.
        is_fixed: whether the weights of the links have no derivatives.
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
        """Take the links."""
        self.first, self.rest, self.sizes, self.is_reversed = first, tuple(rest), list(sizes), is_reversed
        self.is_fixed = is_fixed
        self.links = [link.fixed if is_fixed else link for link in self.rest]

    def expand(self, n: int) -> NormalChain:
        """Return n of a chain of shape (Z,), as one of shape (n, Z)."""
        first, how = self.first.expand(n), {"is_reversed": self.is_reversed, "is_fixed": self.is_fixed}
        return NormalChain(first, self.rest, self.sizes, **how)

    def detach(self) -> NormalChain:
        """Return the same chain without derivatives in its parameters; those in z stay."""
        return NormalChain(self.first.detach(), self.rest, self.sizes, is_reversed=self.is_reversed, is_fixed=True)

    def mean_of_each(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean of every layer, (..., Z): that of the first, and averages over draws of the one before."""
        drawn = self.parts(self.rsample(n_samples, generator=generator))
        means = [link(given).mean.mean(0) for link, given in zip(self.links, drawn, strict=False)]
        return self.flat([self.first.mean, *means])

    def parts(self, z: Tensor) -> list[Tensor]:
        """Return z_1, ..., z_n of flat vectors (..., Z)."""
        sizes = self.sizes[::-1] if self.is_reversed else self.sizes
        found = list(z.split(sizes, dim=-1))
        return found[::-1] if self.is_reversed else found

    def flat(self, parts: Sequence[Tensor]) -> Tensor:
        """Return (..., Z): what :meth:`parts` takes apart."""
        return torch.cat(list(parts[::-1] if self.is_reversed else parts), dim=-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, summed over the last dimension."""
        first, *others = parts = self.parts(z)
        log_p = self.first.log_prob(first)
        for link, given, part in zip(self.links, parts, others, strict=False):
            log_p = log_p + link(given).log_prob(part)
        return log_p

    def moved(self, shift: Tensor, log_factor: Tensor) -> NormalChain:
        """Return the chain in which the normal of every layer, given the one before, is moved by its part of these.

        Args:
            shift: (..., Z), flat, in the unit of each standard deviation.
            log_factor: (..., Z) likewise, of the scales.
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
        """The mean of the first layer, and of each other one given that mean, (..., Z): not the mean of the others."""
        means = [self.first.mean]
        for link in self.links:
            means.append(link(means[-1]).mean)
        return self.flat(means)


class CorrelatedNormal:
    r"""A normal with a full covariance, in the noise u that another normal makes its draws z of.

    .. math:: z = T(u), \quad u = c + L \epsilon, \qquad
              \log q(z) = \log q_T(z) - \log \mathcal N(u; 0, I) + \log \mathcal N(u; c, L L^\top)

    With one stochastic layer T shifts and scales each coordinate, and z is normal; with several T depends on the layers
    before.

    Args:
        base: the normal q_T of T, (B, Z).
        center: c, (B, Z).
        factor: L, (B, Z, Z), lower triangular with a positive diagonal.
    """

    def __init__(self, base: DiagonalNormal | NormalChain, center: Tensor, factor: Tensor) -> None:
        """Take the normal, and how its noise is distributed."""
        self.base, self.center, self.factor = base, center, factor
        self.log_determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (B,)

    @property
    def mean(self) -> Tensor:
        """What the middle of the noise makes, (B, Z)."""
        return self.base.from_noise(self.center[None])[0]

    def detach(self) -> CorrelatedNormal:
        """Return the same density without derivatives in its parameters; those in z stay."""
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
        """Draw (K, B, Z); on a CPU the noise of the k-th does not depend on K."""
        return self.from_noise(draw_each(torch.randn, n_samples, self.center, generator))


class LatentMixture:
    r"""A mixture of densities of a latent code, from which each sample draws its component.

    .. math:: q(z) = \sum_i \alpha_i \, q_i(z)

    No weight p / q is larger than :math:`1 / \alpha_i` times that of a component, so that one good component is enough
    (Hesterberg 1995, "Weighted Average Importance Sampling and Defensive Mixture Distributions").

    Args:
        parts: q_i, the first one a normal or a chain of them, (B, Z).
        shares: alpha_i, which add up to one.
    """

    def __init__(self, parts: Sequence[LatentDensity], shares: Sequence[float]) -> None:
        """Take the components."""
        self.parts, self.shares = tuple(parts), torch.tensor(shares, dtype=torch.float64)
        if len(parts) != len(shares) or (self.shares <= 0).any() or abs(float(self.shares.sum()) - 1) > ROUNDED:
            raise ValueError(f"{len(parts)} components need as many positive shares that add up to 1, not {shares}")
        # between the components, on the scale of the normal that chooses one; moved here, once for all draws
        self._edges = torch.special.ndtri(self.shares.cumsum(0)[:-1]).to(parts[0].mean)

    @property
    def mean(self) -> Tensor:
        """Of the first component, (B, Z)."""
        return self.parts[0].mean

    def detach(self) -> LatentMixture:
        """Return the same mixture without derivatives in its parameters."""
        return LatentMixture([part.detach() for part in self.parts], self.shares.tolist())

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats of z (K, B, Z), (K, B)."""
        terms = [part.log_prob(z) + math.log(share) for part, share in zip(self.parts, self.shares, strict=True)]
        return torch.logsumexp(torch.stack(terms), dim=0)

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, B, Z), each sample from a component of its own; on a CPU the k-th does not depend on K.

        It has no derivatives in the shares.
        """
        mean = self.mean
        noise = draw_each(torch.randn, n_samples, mean.new_empty(len(mean), mean.shape[-1] + 1), generator)
        # the first normal of each sample chooses the component; the others make the draw of it
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

    On a CPU one after the other, so that the numbers, and with them every estimate, do not depend on how K is cut into
    chunks. On a GPU, where a call costs more than its numbers, all in one.
    """
    at = partial(draw, how, generator=generator, dtype=like.dtype, device=like.device)
    if like.device.type in ONE_BY_ONE:
        return torch.stack([at(like.shape) for _ in range(n_samples)])
    return at((len(like), n_samples, *like.shape[1:])).movedim(1, 0).contiguous()  # rows first: they may be shared
