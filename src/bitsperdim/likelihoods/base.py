"""What a likelihood is: a batch of masses over the levels 0..L-1, one for each sub-pixel.

They are independent, or coupled inside a pixel: then the last dimensions of the batch are (C, H, W), the channels of
a pixel are in order, and every score of a sub-pixel is given the earlier channels of its pixel in the same ``x``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


def at_least_float32(parameter: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it is float32 or float64 already."""
    return parameter if parameter.dtype in (torch.float32, torch.float64) else parameter.float()


class Likelihood(ABC):
    """A batch of distributions over the levels 0..L-1, one for each sub-pixel.

    Attributes:
        n_levels: L.
    """

    n_levels: int

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, exact, of the batch shape; ``x`` holds integers 0..L-1 and broadcasts.

        Where channels are coupled these are conditional log-masses; their sum is that of the image either way.
        """

    def log_prob_of_images(self, x: Tensor) -> Tensor:
        """Return log p(x) of whole images in nats: of batch shape (..., C, H, W) the sum over the last three."""
        return self.log_prob(x).flatten(-3).sum(-1)

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """Return P(X <= x), of the batch shape; ``x`` holds integers 0..L-1 and broadcasts."""

    @abstractmethod
    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw one integer 0..L-1 from each: uint8 up to 256 levels, int32 beyond."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean in level units, of the batch shape."""

    @property
    def central(self) -> Tensor:
        """The middle in level units, of the batch shape, for looking at: the mean, unless that costs too much."""
        return self.mean

    def given(self, x: Tensor) -> Likelihood:
        """Return p(x_c given x_<c) of every sub-pixel, exact: itself, unless channels are coupled inside a pixel."""
        return self


def as_levels(values: Tensor, n_levels: int) -> Tensor:
    """Return whole numbers 0..L-1 in the smallest of uint8 and int32 that holds them."""
    return values.to(torch.uint8 if n_levels <= 256 else torch.int32)
