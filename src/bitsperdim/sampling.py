"""Sampling from autoregressive models, one sub-pixel after the other.

Not here yet: the cache that computes only what depends on the new pixel; each step is a full
forward pass of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsperdim.models.base import AutoregressiveModel


@torch.no_grad()
def ancestral_sample(
    model: AutoregressiveModel,
    n_images: int,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw images in the order of the model: row by row, pixel by pixel, channel by channel.

    Args:
        model: any autoregressive model.
        n_images: B.
        labels: (B,) int64, for models that are given the class.
        generator: on the device of the model.

    Returns:
        (B, C, H, W) uint8.
    """
    channels, height, width = model.image_shape
    device = next(iter(model.state_dict().values())).device
    x = torch.zeros(n_images, channels, height, width, dtype=torch.uint8, device=device)
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                drawn = model.conditionals(x, labels).sample(generator=generator)
                x[:, channel, row, column] = drawn[:, channel, row, column]
    return x
