"""Models of each sub-pixel given the earlier ones, in an order that belongs to the model.

Invariants: see :mod:`bitsperdim.models.base`; :mod:`bitsperdim.models.look_ahead` checks whether a model looks ahead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from bitsperdim.likelihoods import Likelihood
from bitsperdim.models.base import ImageModel


class ConditionalModel(ImageModel):
    r"""A model of each sub-pixel given the earlier ones; its log-likelihood is exact.

    .. math:: \log P(x) = \sum_{i=1}^{D} \log p(x_i \mid x_{<i})
    """

    is_exact = True

    @property
    def order(self) -> Tensor:
        """The position of every sub-pixel in the order of the model, (C, H, W) int64.

        The default order is pixel by pixel, and channel by channel within a pixel.
        """
        return sub_pixel_order(self.image_shape, self.device)

    @abstractmethod
    def conditionals(
        self, x: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return p(x_i given x_<i) for all i at once, batch shape (B, C, H, W).

        Args:
            x: images (B, C, H, W), values 0..L-1, of an integer type or of the dtype of the model.
            labels: class labels, (B,) int64.
            generator: random number generator for dropout in training mode.
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
        """Return the exact log P(x) in nats, (1, B)."""
        return self.conditionals(x, labels, generator=generator).log_prob_of_images(x)[None]


def sub_pixel_order(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the position of every sub-pixel in the raster order, (C, H, W).

    The order is row by row, pixel by pixel, channel by channel.
    """
    channels, height, width = shape
    return torch.arange(channels * height * width, device=device).reshape(height, width, channels).permute(2, 0, 1)
