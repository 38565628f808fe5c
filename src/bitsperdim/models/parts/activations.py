r"""Activations of the PixelCNN++, with few passes over memory and hand-written derivatives.

These maps are as large as those of the convolutions. If each formula is a chain of operations that autograd records one
by one, a network on a CPU spends as much time on activations as on the products of its convolutions. With

.. math:: e(x) = \big(\max(x, \varepsilon), \max(-x, \varepsilon)\big), \qquad \varepsilon = \exp(-|x|) - 1 \le 0

both halves of a concatenated exponential linear unit need only one exponential. The derivative follows from the values
alone: it is 1 + min(value, 0). The exponential is computed in float32 if the map has fewer digits.

Invariants (``tests/models/test_activations.py``): values and derivatives equal those of torch's own operations
(``test_they_are_the_formulas``, ``test_derivatives``); the given share of values is dropped, independently
(``test_a_share_is_dropped``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

from bitsperdim.core.randomness import draw

BITS_8 = 2**8
SMALLEST_DROPOUT = 1 / BITS_8  # each share of dropout is rounded to a multiple of this
EXACT = (torch.float32, torch.float64)


class _ConcatenatedELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        n_images, n_maps, height, width = x.shape
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        shape = (n_images, 2 * n_maps, height, width)
        values = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        below = x.abs().neg_()
        # expm1 takes several times as long as exp; for a less precise result, exp in float32 is precise enough
        below = below.expm1_() if x.dtype in EXACT else below.float().exp_().sub_(1).to(x.dtype)
        torch.maximum(x, below, out=values[:, :n_maps])
        torch.maximum(x.neg(), below, out=values[:, n_maps:])
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        n_maps = values.shape[1] // 2
        change = values.clamp(max=0).add_(1).mul_(gradient)
        return change[:, :n_maps] - change[:, n_maps:]


def concatenated_elu(x: Tensor) -> Tensor:
    """Return the exponential linear units of x and of -x, (B, 2n, H, W) for (B, n, H, W)."""
    values: Tensor = _ConcatenatedELU.apply(x)
    return values


def add_gated(x: Tensor, change_and_gate: Tensor) -> Tensor:
    """Return x + a * sigmoid(b) for maps (B, n, H, W) and (a, b) (B, 2n, H, W)."""
    change, gate = change_and_gate.chunk(2, 1)
    return torch.addcmul(x, change, torch.sigmoid(gate.contiguous(memory_format=torch.channels_last)))


def check_dropout(dropout: float) -> None:
    """Raise ValueError if a dropout rate would be rounded to 0."""
    if 0 < dropout < SMALLEST_DROPOUT:
        raise ValueError(f"dropout must be 0, or at least {SMALLEST_DROPOUT}, not {dropout}")


def dropped_out(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Apply dropout: set a random share of the values to zero, and scale up the others.

    Each value uses its own 8 random bits, so the share is rounded to a multiple of 1/256. Drawing whole words of 64
    bits is about ten times faster than one Bernoulli variable for each value.
    """
    n_images, n_maps, height, width = x.shape
    n_dropped = round(share * BITS_8)
    numbers = draw(random_bytes, (n_images, height, width, n_maps), generator, device=x.device).permute(0, 3, 1, 2)
    # the values are scaled, not the mask: in low precision the mask would round the scale, equally for all values
    return (x * (numbers >= n_dropped).to(x.dtype)).mul_(BITS_8 / (BITS_8 - n_dropped))


def random_bytes(
    shape: Sequence[int], *, generator: torch.Generator | None, dtype: None, device: torch.device | None
) -> Tensor:
    """Return random whole numbers from 0 to 255, uint8."""
    n_bytes = math.prod(shape)
    words = torch.empty(-(-n_bytes // 8), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[:n_bytes].view(*shape)
