r"""The check whether an autoregressive model looks ahead; it runs before each of its results is computed.

The result is an exact likelihood only if p(x_i given x_<i) does not depend on x_i or any later value. The check cuts
the order of the sub-pixels after the m-th one. No value from the m-th on may change log p(x_i = v_i given x_<i) for
i <= m and random levels v. One cut checks all pairs i <= m <= j at once. Images do not depend on each other, so each
image of a batch has its own cut. Two of the cuts are after the first and after the last sub-pixel; the others are
random. Both tests use the same weights as the reported likelihood, and some of its images.

*Test by derivatives.* For random weights r,

.. math:: \frac{\partial}{\partial x_j} \sum_{i \le m} r_i \log p(x_i = v_i \mid x_{<i}) = 0
          \quad \text{for all } j \ge m

This holds exactly, because a masked or absent connection gives a derivative of exactly zero, without rounding. The test
finds a leak of any size that has a derivative and is not confined to few neighbours. An allowed derivative may
overflow, for example that of a random level far from the centre of a narrow density. A mask turns it into NaN, which
gives no information; in this case the second test decides.

*Test by change.* Leaks through rounding, comparisons, look-up tables or ``detach`` have no derivative. This test
therefore replaces all values from the m-th on by other random levels. No log-mass with i <= m, of v_i or of the level
in the image, may then change by more than rounding. Sums are equal bit by bit only if the products are added in the
same order, which may depend on the position of the numbers in memory: changes of log-masses by 2 to 4 units of rounding
have been observed. The tolerance is the square root of the unit of rounding, multiplied by the log-mass if that is
above 1: 3.5e-4 nats in float32, 1.5e-8 in float64. This is 3,000 units in float32. It allows for likelihoods that are a
thousand times as sensitive as their inputs, such as narrow logistics. A leak may change the mass of the levels in the
image by less than the tolerance everywhere. In float32 such a leak improves the result by less than 5e-4 bits/dim, or
by less than 3.5e-4 of the result if that is above 1 nat per dimension.

**Limits.** The check misses a leak without a derivative that acts only in rare cases, such as for one level of 256. It
misses a leak that is confined to few positions if no cut falls there. For small models, the tests prove the promise of
the masks for every pair, by derivatives and by change (``tests/support/laws.py``). The check does not show whether a
model sees all values that it should see; :func:`receptive_field` shows this for one position.

Invariants (``tests/models/test_causality.py``): no model of the family leaks (``test_nothing_leaks``); the check finds
a mask that lets one connection through (``test_a_leak_is_found``) and a leak without a derivative
(``test_a_leak_without_a_derivative_is_found``); the receptive field is the promised one
(``test_the_receptive_field_is_the_promised_one``).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from bitsperdim.core.randomness import stream
from bitsperdim.models.base import ImageModel
from bitsperdim.models.conditional import ConditionalModel
from bitsperdim.models.density import DensityModel

N_CHECKED = 4  # largest number of images that are checked, evenly spaced
N_CUTS = 16  # number of cuts in all images together
TOLERATED = 0.5  # power of the unit of rounding that is tolerated


def check_causality(model: ConditionalModel, images: Tensor, *, labels: Tensor | None = None, seed: int = 0) -> float:
    """Check with a few of the images that a model does not look ahead.

    The check costs as much as evaluating about 40 images, for any number of images. It runs on the CPU, on a copy of
    the model if the model is on another device, because rounding in a GPU convolution may depend on values outside of
    its mask.

    Args:
        model: model in evaluation mode.
        images: (N, C, H, W) uint8 or another integer type.
        labels: class labels, (N,) int64, for models that are conditioned on labels.
        seed: seed for the cuts and the random values.

    Returns:
        The largest leaked gradient in nats per level, which is 0.

    Raises:
        ValueError: the model looks ahead or is in training mode, or an argument does not fit the model.
        FloatingPointError: a log-mass is NaN or +inf.
    """
    model.check_mode("the check of causality")
    model.check(images, labels)
    labels = None if model.n_classes is None else labels
    n_checked = min(N_CHECKED, len(images))
    rows = torch.arange(n_checked) * len(images) // n_checked
    with torch.inference_mode(mode=False):  # inference mode would disable derivatives
        x = images[rows.to(images.device)].cpu()
        given = None if labels is None else labels[rows.to(labels.device)].cpu()
        placed = model if model.device.type == "cpu" else copy.deepcopy(model).cpu()
        generator = stream("causality", seed)
        gradient = largest_leaked_gradient(placed, x, labels=given, generator=generator)
        change = largest_leaked_change(placed, x, labels=given, generator=generator)
    if gradient != 0 or change != 0:
        by = f"{gradient:.3g} nats per level" if gradient != 0 else f"{change:.3g} nats with the levels"
        raise ValueError(
            f"the model looks ahead: a log-mass changes by {by} of values that it must not know, so that its number is "
            f"not a likelihood; mend its masks"
        )
    return gradient


@torch.enable_grad()
def largest_leaked_gradient(
    model: ConditionalModel, images: Tensor, *, labels: Tensor | None = None, generator: torch.Generator
) -> float:
    """Return the largest derivative of a log-mass with respect to a value that it must not know.

    Args:
        model: model in evaluation mode.
        images: a few images, (B, C, H, W) uint8 or another integer type, on the device of the model.
        labels: class labels, (B,) int64, for models that are conditioned on labels.
        generator: random number generator for cuts, values and weights, on the device of the model.

    Returns:
        The absolute derivative in nats per level; exactly 0 for a model that does not look ahead.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit the model.
    """
    x, log_p = random_log_masses(model, images, labels, generator)
    order = model.order
    if not log_p.requires_grad:  # the model does not use the image at all
        return 0.0
    largest = 0.0
    for cut in cuts_of(images, generator):
        before = log_p[(order <= cut) & log_p.isfinite()].sum()
        (gradient,) = torch.autograd.grad(before, x, retain_graph=True, allow_unused=True, materialize_grads=True)
        leaked = gradient[order >= cut]
        largest = max([largest, *leaked[leaked.isfinite() & (leaked != 0)].abs().tolist()])
    return largest


@torch.no_grad()
def largest_leaked_change(
    model: ConditionalModel, images: Tensor, *, labels: Tensor | None = None, generator: torch.Generator
) -> float:
    """Return the largest change of a log-mass if all values that it must not know become other levels.

    Args:
        model: model in evaluation mode.
        images: a few images, (B, C, H, W) uint8 or another integer type, on the device of the model.
        labels: class labels, (B,) int64, for models that are conditioned on labels.
        generator: random number generator for cuts and values, on the device of the model.

    Returns:
        The largest change in nats; 0 if no change exceeds the tolerance for rounding.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit the model.
        FloatingPointError: a log-mass is NaN or +inf.
    """
    check_arguments(model, images, labels, generator)
    images = images.long()
    order = model.order
    values = torch.randint(model.n_levels, images.shape, generator=generator, device=images.device)

    def log_masses(x: Tensor) -> Tensor:
        """Return the log-masses of the levels in the images and of the random levels, (2, B, C, H, W)."""
        conditionals = model.conditionals(x, labels)
        return torch.stack([conditionals.log_prob(images), conditionals.log_prob(values)])

    log_p = log_masses(images)
    size = log_p.abs().nan_to_num(posinf=1).clamp(min=1)  # 1 also for a mass of 0; NaN raises an error below
    tolerance = torch.finfo(log_p.dtype).eps ** TOLERATED * size
    largest = 0.0
    for cut in cuts_of(images, generator):
        steps = torch.randint(1, model.n_levels, images.shape, generator=generator, device=images.device)
        moved = log_masses(torch.where(order >= cut, (images + steps) % model.n_levels, images))
        if (log_p.isnan() | log_p.isposinf() | moved.isnan() | moved.isposinf()).any():
            raise FloatingPointError("a log-mass is NaN or +inf")
        change = torch.where(moved == log_p, 0.0, (moved - log_p).abs())  # both may be -inf
        leaked = change[(order <= cut) & (change > tolerance)].tolist()
        largest = max([largest, *leaked])
    return largest


def cuts_of(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the cuts of the sub-pixel order, (R, B, 1, 1, 1): R cuts for each of the images (B, C, H, W)."""
    n_images, n_places = len(images), images[0].numel()
    shape = (math.ceil(N_CUTS / n_images), n_images)
    cuts = torch.randint(n_places, shape, generator=generator, device=images.device)
    cuts[0, 0], cuts[-1, -1] = 0, n_places - 1
    return cuts[..., None, None, None]


@torch.enable_grad()
def receptive_field(
    model: ConditionalModel,
    images: Tensor,
    row: int,
    column: int,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Return how much the log-masses of one pixel depend on each pixel of the image.

    Args:
        model: model in evaluation mode.
        images: (B, C, H, W) uint8 or another integer type, on the device of the model.
        row: row of the pixel.
        column: column of the pixel.
        labels: class labels, (B,) int64, for models that are conditioned on labels.
        generator: random number generator for values and weights, on the device of the model.

    Returns:
        Absolute derivatives in nats per level, (H, W), summed over images and channels; exactly 0 for a pixel outside
        of the receptive field.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit the model.
    """
    x, log_p = random_log_masses(model, images, labels, generator)
    if not log_p.requires_grad:
        return torch.zeros(images.shape[2:], device=images.device)
    of_pixel = log_p[:, :, row, column].sum()
    (gradient,) = torch.autograd.grad(of_pixel, x, allow_unused=True, materialize_grads=True)
    return gradient.abs().sum((0, 1))


def check_arguments(model: ConditionalModel, images: Tensor, labels: Tensor | None, generator: torch.Generator) -> None:
    """Check the arguments of this module.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit the model.
    """
    model.check_mode("the check of causality")
    model.check(images, labels)
    model.check_places(images, labels, generator)


def random_log_masses(
    model: ConditionalModel, images: Tensor, labels: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the images as floating-point numbers that require a gradient, and r log p(v given x_<i).

    Both have shape (B, C, H, W); r are random weights and v random levels.
    """
    check_arguments(model, images, labels, generator)
    device = images.device
    dtype = model.dtype
    x = images.to(dtype).requires_grad_()
    values = torch.randint(model.n_levels, images.shape, generator=generator, device=device)
    weights = torch.randn(images.shape, generator=generator, device=device, dtype=dtype)
    return x, weights * model.conditionals(x, labels).log_prob(values)


def check_scorable(
    model: ImageModel, images: Tensor, labels: Tensor | None, noise: Tensor | None, *, seed: int = 0
) -> float | None:
    """Check that a model can be evaluated: its images, labels and noise, and that it does not look ahead.

    Args:
        model: model to evaluate.
        images: all images to evaluate, (N, C, H, W); their values are read once here, and not again in each chunk.
        labels: class labels, (N,) int64.
        noise: dequantization noise, (N, C, H, W).
        seed: seed for the check of causality (:func:`bitsperdim.models.look_ahead.check_causality`).

    Returns:
        The ``largest_leaked_gradient`` of an autoregressive model, which is 0; None for other models.

    Raises:
        ValueError: images, labels or noise do not fit the model, or the model looks ahead or is in training mode.
        FloatingPointError: a log-mass is NaN or +inf.
    """
    model.check_mode("estimate")
    model.check(images, labels, noise)
    if isinstance(model, DensityModel) and noise is not None and noise.shape != images.shape:
        raise ValueError(f"noise must have the shape of the images, {tuple(images.shape)}, not {tuple(noise.shape)}")
    if isinstance(model, ConditionalModel):
        return check_causality(model, images, labels=labels, seed=seed)
    return None
