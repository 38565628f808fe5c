"""Models of one sub-pixel after the other, each given those before it in an order of the model.

Invariants: those of :mod:`bitsperdim.models.base`; whether one looks ahead is asked by
:mod:`bitsperdim.models.look_ahead`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from bitsperdim.likelihoods import Likelihood
from bitsperdim.models.base import ImageModel


class ConditionalModel(ImageModel):
    r"""Each sub-pixel given the ones before: exact.

    .. math:: \log P(x) = \sum_{i=1}^{D} \log p(x_i \mid x_{<i})
    """

    is_exact = True

    @property
    def order(self) -> Tensor:
        """The place of every sub-pixel in the order of the model, (C, H, W) int64: pixel by pixel, channels inside."""
        return sub_pixel_order(self.image_shape, self.device)

    @abstractmethod
    def conditionals(
        self, x: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return p(x_i given x_<i) for all i at once, batch shape (B, C, H, W).

        Args:
            x: (B, C, H, W), 0..L-1, of an integer type or of the model's dtype.
            labels: (B,) int64.
            generator: of dropout, in training mode.
        """

    def unchecked_log_weights(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return log P(x), exact, (1, B) in nats."""
        return self.conditionals(x, labels, generator=generator).log_prob_of_images(x)[None]


def sub_pixel_order(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the place of every sub-pixel, (C, H, W): row by row, pixel by pixel, channel by channel."""
    channels, height, width = shape
    return torch.arange(channels * height * width, device=device).reshape(height, width, channels).permute(2, 0, 1)
