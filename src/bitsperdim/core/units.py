"""Units: nats, bits, bits per dimension. Only this file uses log(2).

A *dimension* is one sub-pixel: an image of C channels, H rows and W columns has D = C*H*W of them.
A larger log-likelihood in nats is better, and fewer bits per dimension are better: hence the minus sign in
:func:`bits_per_dim`.

Invariants (``tests/core/test_units.py``):

1. One nat is 1 / ln 2 bits (``test_a_fair_coin_costs_one_bit_per_dimension``).
2. D counts sub-pixels, not pixels (``test_colour_channels_count_as_dimensions``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # not imported at run time: the report converts units without torch
    import numpy as np
    import torch

Number = TypeVar("Number", float, "np.ndarray", "torch.Tensor")

NATS_PER_BIT = math.log(2.0)


def n_dims(image_shape: tuple[int, int, int]) -> int:
    """Return D = C*H*W, the number of sub-pixels of an image of shape (C, H, W)."""
    channels, height, width = image_shape
    return channels * height * width


def nats_to_bits(nats: Number) -> Number:
    """Convert nats to bits."""
    return nats / NATS_PER_BIT


def bits_per_dim(log_p: Number, image_shape: tuple[int, int, int]) -> Number:
    r"""Convert the log-likelihood of an image to bits per dimension.

    .. math:: \mathrm{bpd} = -\frac{\log P(x)}{D \ln 2}

    Args:
        log_p: log P(x) in nats per image, any shape; larger is better.
        image_shape: (C, H, W).

    Returns:
        Bits per dimension, with the shape of ``log_p``; smaller is better.
    """
    return -log_p / (n_dims(image_shape) * NATS_PER_BIT)


def nats_to_bits_per_dim(nats: Number, image_shape: tuple[int, int, int]) -> Number:
    """Convert an error, a spread or a difference from nats per image to bits per dimension (no sign change)."""
    return nats / (n_dims(image_shape) * NATS_PER_BIT)
