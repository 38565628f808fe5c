"""The diagonal normal of latent spaces, and draws that do not depend on how they are cut into chunks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitsperdim.likelihoods.base import at_least_float32


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
        standardised = (z - self.mean) * torch.exp(-self.log_scale)
        terms = -0.5 * (standardised.square() + math.log(math.tau)) - self.log_scale
        return terms.sum(-1)

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (K, ..., Z), differentiable in the parameters; the k-th draw does not depend on K."""
        noise = draw_each(torch.randn, n_samples, self.mean, generator)
        return self.mean + torch.exp(self.log_scale) * noise


def draw_each(
    draw: object, n_samples: int, like: Tensor, generator: torch.Generator | None
) -> Tensor:  # (K, *like.shape)
    """Draw ``n_samples`` times with the shape, dtype and device of ``like``, one after the other.

    One call for all would be a little faster, but its numbers would depend on how K is cut into
    chunks, and with them every estimate.
    """
    draws = [
        draw(like.shape, generator=generator, dtype=like.dtype, device=like.device)  # type: ignore[operator]
        for _ in range(n_samples)
    ]
    return torch.stack(draws)
