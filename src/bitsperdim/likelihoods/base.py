"""Interface of a likelihood: a batch of masses over the levels 0..L-1, one for each sub-pixel.

The masses of the sub-pixels are independent, or coupled inside a pixel. If they are coupled, the last dimensions of the
batch are (C, H, W), and the channels of a pixel have an order. The log-mass of a sub-pixel is then conditioned on the
earlier channels of its pixel in the same ``x``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


def at_least_float32(parameter: Tensor) -> Tensor:
    """Convert a tensor to float32, unless it is float32 or float64 already."""
    return parameter if parameter.dtype in (torch.float32, torch.float64) else parameter.float()


class Likelihood(ABC):
    """A batch of distributions over the levels 0..L-1, one for each sub-pixel.

    Attributes:
        n_levels: L.
    """

    n_levels: int

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the exact log p(x) in nats, of the batch shape; ``x`` holds integers 0..L-1 and broadcasts.

        If channels are coupled, these are conditional log-masses. In both cases their sum is log P(x) of the image.
        """

    def log_prob_of_images(self, x: Tensor) -> Tensor:
        """Return log p(x) of whole images in nats: the sum over the last three dimensions of (..., C, H, W)."""
        return self.log_prob(x).flatten(-3).sum(-1)

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X <= x), of the batch shape; ``x`` holds integers 0..L-1 and broadcasts."""

    @abstractmethod
    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw one integer 0..L-1 from each distribution: uint8 for up to 256 levels, int32 for more."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean in level units, of the batch shape."""

    @property
    def central(self) -> Tensor:
        """A central value in level units, of the batch shape, for display: the mean, unless it costs too much."""
        return self.mean

    def given(self, x: Tensor) -> Likelihood:
        """Return the exact p(x_c given x_<c) of every sub-pixel, which is ``self`` unless channels are coupled."""
        return self


def as_levels(values: Tensor, n_levels: int) -> Tensor:
    """Convert whole numbers 0..L-1 to uint8 if it can hold them, and to int32 otherwise."""
    return values.to(torch.uint8 if n_levels <= 256 else torch.int32)
