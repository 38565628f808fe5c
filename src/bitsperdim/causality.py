r"""Does a trained autoregressive model look ahead? The check whose answer stands beside its number.

A number is an exact likelihood only if p(x_i given x_<i) does not depend on x_i or anything after it. Cut the order of
the sub-pixels after the m-th; then, for random values v and weights r,

.. math:: \frac{\partial}{\partial x_j} \sum_{i \le m} r_i \log p(x_i = v_i \mid x_{<i}) = 0
          \quad \text{for all } j \ge m

exactly, since zeros of masks and of what is never computed are no rounding. One cut checks all pairs i <= m <= j at
once; several cuts, one of them after the first sub-pixel and one after the last, find any leak that has a derivative
and is not confined to few neighbours. What the masks promise for every pair, by derivatives and by change, is proved
for small models by the tests (``tests/laws.py``); this asks the very weights and images whose likelihood is reported.

Not here: leaks without a derivative, such as rounded inputs, which no model of the family has; whether a model sees
what it should. :func:`receptive_field` shows that for one place.

Invariants (``tests/test_causality.py``): no model of the family leaks (``test_nothing_leaks``); a mask that lets
through one connection is caught (``test_a_leak_is_found``); the receptive field is what the laws promise
(``test_the_receptive_field_is_the_promised_one``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsperdim.models import AutoregressiveModel

N_CUTS = 16


@torch.enable_grad()
def largest_leaked_gradient(
    model: AutoregressiveModel, images: Tensor, *, labels: Tensor | None = None, generator: torch.Generator
) -> float:
    """Return the largest absolute derivative of a log-mass with respect to a value that it must not know: exactly 0.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) uint8, a few.
        labels: (B,) int64, for models that are given the class.
        generator: of the cuts, values and weights, on the device of the model.

    Returns:
        In nats per level.

    Raises:
        FloatingPointError: a derivative is NaN or infinite.
    """
    order = sub_pixel_order(images.shape[1:], images.device)
    x, log_p = random_log_masses(model, images, labels, generator)
    if not log_p.requires_grad:  # a model that looks at nothing
        return 0.0
    largest = 0.0
    for cut in cuts_of(order, generator):
        (gradient,) = torch.autograd.grad(log_p[:, order <= cut].sum(), x, retain_graph=True)
        if not gradient.isfinite().all():
            raise FloatingPointError("a derivative of a log-mass is not finite")
        largest = max(largest, float(gradient[:, order >= cut].abs().max()))
    return largest


def cuts_of(order: Tensor, generator: torch.Generator) -> list[int]:
    """Return where to cut the order of the sub-pixels: after the first, after the last, and at random."""
    cuts = torch.randint(order.numel(), (N_CUTS - 2,), generator=generator, device=order.device).tolist()
    return sorted({0, order.numel() - 1, *cuts})


@torch.enable_grad()
def receptive_field(
    model: AutoregressiveModel,
    images: Tensor,
    row: int,
    column: int,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Return how much the log-masses of one pixel depend on each pixel.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) uint8.
        row: of the pixel.
        column: of the pixel.
        labels: (B,) int64, for models that are given the class.
        generator: of values and weights, on the device of the model.

    Returns:
        (H, W), the absolute derivatives in nats per level, summed over images and channels; exactly 0 is not seen.
    """
    x, log_p = random_log_masses(model, images, labels, generator)
    if not log_p.requires_grad:
        return torch.zeros(images.shape[2:], device=images.device)
    (gradient,) = torch.autograd.grad(log_p[:, :, row, column].sum(), x)
    return gradient.abs().sum((0, 1))


def sub_pixel_order(shape: torch.Size, device: torch.device) -> Tensor:
    """Return the place of every sub-pixel in the order of the model, (C, H, W): pixel by pixel, channels inside."""
    channels, height, width = shape
    return torch.arange(channels * height * width, device=device).reshape(height, width, channels).permute(2, 0, 1)


def random_log_masses(
    model: AutoregressiveModel, images: Tensor, labels: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the images as floating-point numbers that take a gradient, and r log p(v given x_<i), (B, C, H, W)."""
    device, dtype = images.device, next(iter(model.state_dict().values())).dtype
    x = images.to(dtype).requires_grad_()
    values = torch.randint(model.n_levels, images.shape, generator=generator, device=device)
    weights = torch.randn(images.shape, generator=generator, device=device, dtype=dtype)
    return x, weights * model.conditionals(x, labels).log_prob(values)
