r"""Does an autoregressive model look ahead? The check that is part of each of its numbers.

A number is an exact likelihood only if p(x_i given x_<i) does not depend on x_i or anything after it. Cut the order of
the sub-pixels after the m-th: no value from the m-th on may matter for log p(x_i = v_i given x_<i) with i <= m, for
random levels v. One cut checks all pairs i <= m <= j at once. Images do not depend on each other, so that each image of
a batch has a cut of its own; two of the cuts are after the first sub-pixel and after the last, the others at random.
Both tests ask the very weights and images whose likelihood is reported:

*By derivatives.* For random weights r,

.. math:: \frac{\partial}{\partial x_j} \sum_{i \le m} r_i \log p(x_i = v_i \mid x_{<i}) = 0
          \quad \text{for all } j \ge m

exactly, since zeros of masks and of what is never computed are no rounding. This finds a leak of any size that has a
derivative and is not confined to few neighbours. Where a derivative that is allowed overflows, as one of a random level
far out in a narrow density may, a mask makes NaN of it, which says nothing: there the second test decides.

*By change.* Leaks through rounded or compared values, tables that are looked up, or ``detach`` have no derivative. So
all values from the m-th on become random other levels, and no log-mass with i <= m, of v_i or of the image's own level,
may move by more than rounding. Sums are the same bits only where products are added in the same order, which may depend
on where the numbers lie in memory: log-masses have been seen to move by 2 to 4 units of rounding. What is tolerated is
the square root of the unit of rounding, times the log-mass where that is above 1: 3.5e-4 nats in float32, 1.5e-8 in
float64. That is 3,000 units in float32, which leaves room for likelihoods that are a thousand times as sensitive as
their inputs, as narrow logistics are. A leak that nowhere moves the mass of an image's own level by more is worth less
than 5e-4 bits/dim to a model in float32, or than 3.5e-4 of the number where that is above 1 nat per dimension.

Not here: what these miss. A leak without a derivative is missed if it acts in rare cases only, such as for one level of
256; a leak that is confined to few places is missed if no cut falls there. What the masks promise for every pair, by
derivatives and by change, is proved for small models by the tests (``tests/laws.py``). Nor whether a model sees what it
should: :func:`receptive_field` shows that for one place.

Invariants (``tests/models/test_causality.py``): no model of the family leaks (``test_nothing_leaks``); a mask that lets
through one connection is caught (``test_a_leak_is_found``), and so is a leak that has no derivative
(``test_a_leak_without_a_derivative_is_found``); the receptive field is what the laws promise
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

N_CHECKED = 4  # images at most, evenly spaced
N_CUTS = 16  # of all images together
TOLERATED = 0.5  # power of the unit of rounding


def check_causality(model: ConditionalModel, images: Tensor, *, labels: Tensor | None = None, seed: int = 0) -> float:
    """Refuse a model that looks ahead, judged by a few of the images; return its largest leaked gradient, which is 0.

    It is as much work as scoring some 40 images, however many there are. It is done on the CPU, in a copy where the
    model is elsewhere: convolutions of a GPU may round what they do not see.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) uint8 or another integer type.
        labels: (N,) int64, for models that are given the class.
        seed: of the cuts and values.

    Returns:
        In nats per level.

    Raises:
        ValueError: the model looks ahead, is in training mode, or an argument does not fit it.
        FloatingPointError: a log-mass is NaN or +inf.
    """
    model.check_mode("the check of causality")
    model.check(images, labels)
    labels = None if model.n_classes is None else labels
    n_checked = min(N_CHECKED, len(images))
    rows = torch.arange(n_checked) * len(images) // n_checked
    with torch.inference_mode(mode=False):  # which takes derivatives away
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
    """Return the largest absolute derivative of a log-mass with respect to a value that it must not know: exactly 0.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) uint8 or another integer type, a few, on the device of the model.
        labels: (B,) int64, for models that are given the class.
        generator: of the cuts, values and weights, on the device of the model.

    Returns:
        In nats per level.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit it.
    """
    x, log_p = random_log_masses(model, images, labels, generator)
    order = model.order
    if not log_p.requires_grad:  # a model that looks at nothing
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
    """Return by how much a log-mass moves, beyond rounding, when all values that it must not know become other levels.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) uint8 or another integer type, a few, on the device of the model.
        labels: (B,) int64, for models that are given the class.
        generator: of the cuts and values, on the device of the model.

    Returns:
        The largest change in nats; 0 where none is beyond rounding.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit it.
        FloatingPointError: a log-mass is NaN or +inf.
    """
    check_arguments(model, images, labels, generator)
    images = images.long()
    order = model.order
    values = torch.randint(model.n_levels, images.shape, generator=generator, device=images.device)

    def log_masses(x: Tensor) -> Tensor:
        """Of the image's own levels, whose sum is the number, and of the random ones, (2, B, C, H, W)."""
        conditionals = model.conditionals(x, labels)
        return torch.stack([conditionals.log_prob(images), conditionals.log_prob(values)])

    log_p = log_masses(images)
    size = log_p.abs().nan_to_num(posinf=1).clamp(min=1)  # of a mass of 0 too; what is NaN is refused below
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
    """Return where to cut the order of the sub-pixels, (R, B, 1, 1, 1): R times each of the images (B, C, H, W)."""
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
    """Return how much the log-masses of one pixel depend on each pixel.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) uint8 or another integer type, on the device of the model.
        row: of the pixel.
        column: of the pixel.
        labels: (B,) int64, for models that are given the class.
        generator: of values and weights, on the device of the model.

    Returns:
        (H, W), the absolute derivatives in nats per level, summed over images and channels; exactly 0 is not seen.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit it.
    """
    x, log_p = random_log_masses(model, images, labels, generator)
    if not log_p.requires_grad:
        return torch.zeros(images.shape[2:], device=images.device)
    of_pixel = log_p[:, :, row, column].sum()
    (gradient,) = torch.autograd.grad(of_pixel, x, allow_unused=True, materialize_grads=True)
    return gradient.abs().sum((0, 1))


def check_arguments(model: ConditionalModel, images: Tensor, labels: Tensor | None, generator: torch.Generator) -> None:
    """Refuse a model in training mode, and what does not fit it, with ValueError."""
    model.check_mode("the check of causality")
    model.check(images, labels)
    model.check_places(images, labels, generator)


def random_log_masses(
    model: ConditionalModel, images: Tensor, labels: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the images as floating-point numbers that take a gradient, and r log p(v given x_<i), (B, C, H, W)."""
    check_arguments(model, images, labels, generator)
    device, dtype = images.device, model.dtype
    x = images.to(dtype).requires_grad_()
    values = torch.randint(model.n_levels, images.shape, generator=generator, device=device)
    weights = torch.randn(images.shape, generator=generator, device=device, dtype=dtype)
    return x, weights * model.conditionals(x, labels).log_prob(values)


def check_scorable(
    model: ImageModel, images: Tensor, labels: Tensor | None, noise: Tensor | None, *, seed: int = 0
) -> float | None:
    """Refuse what has no number: images, labels or noise that are not the model's, or a model that looks ahead.

    Args:
        model: to be scored.
        images: (N, C, H, W), all that are to be scored: the values are read once, not again in each chunk.
        labels: (N,) int64.
        noise: (N, C, H, W).
        seed: of the check of causality (:func:`bitsperdim.models.look_ahead.check_causality`).

    Returns:
        The ``largest_leaked_gradient`` of an autoregressive model, which is 0; None of others.

    Raises:
        ValueError: saying what it is.
        FloatingPointError: a log-mass or a derivative is not finite.
    """
    model.check_mode("estimate")
    model.check(images, labels, noise)
    if isinstance(model, DensityModel) and noise is not None and noise.shape != images.shape:
        raise ValueError(f"noise must have the shape of the images, {tuple(images.shape)}, not {tuple(noise.shape)}")
    if isinstance(model, ConditionalModel):
        return check_causality(model, images, labels=labels, seed=seed)
    return None
