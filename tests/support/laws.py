"""Laws: what must hold for every model, applied by the tests to tables of cases.

Each raises AssertionError with the offending value. Exact laws tolerate rounding in float64 only;
statistical ones take the z-score they accept, whose false-alarm rate the caller states.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitsperdim.models import AutoregressiveModel, DensityModel, ImageModel, LatentModel
from support.other_processor import OtherRounding

ROUNDING = 1e-12  # of float64: 4,500 units in the last place of 1, for sums of up to a hundred numbers below a hundred
FAR = 4.9  # a two-sided z of 4.9 is exceeded by chance once in a million


def all_images(image_shape: tuple[int, int, int], n_levels: int) -> Tensor:
    """Return every image, (L^D, C, H, W) uint8."""
    values = itertools.product(range(n_levels), repeat=math.prod(image_shape))
    return torch.tensor(list(values), dtype=torch.uint8).reshape(-1, *image_shape)


def some_images(model: ImageModel, n_images: int, seed: int = 0) -> Tensor:
    """Return random images, (N, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.n_levels, (n_images, *model.image_shape), generator=generator).to(torch.uint8)


def masses_sum_to_one(model: ImageModel) -> None:
    """The masses of all images of an exact model add up to one."""
    total = model.log_weights(all_images(model.image_shape, model.n_levels)).double().exp().sum()
    assert abs(total.item() - 1) < ROUNDING, f"total mass {total.item()}"


def causality_is_two_sided(
    model: AutoregressiveModel,
    sees: Callable[[int, int], bool],
    generator: torch.Generator,
    labels: Tensor | None = None,
) -> None:
    """The i-th conditional depends on the j-th sub-pixel exactly where ``sees(i, j)``: by gradient, and by change.

    Sub-pixels are numbered in memory order (C, H, W). Eight random images (with eight labels, for models that are given
    them), so that a rectifier that happens to be off hides nothing.
    """
    n_dims = math.prod(model.image_shape)
    images = torch.randint(model.n_levels, (8, *model.image_shape), generator=generator)
    x = images.double().requires_grad_()
    log_p = log_masses_of_all_levels(model, x, labels)  # (B, D, L)
    weights = torch.randn(model.n_levels, generator=generator, dtype=torch.float64)
    gradients = torch.zeros(n_dims, n_dims, dtype=torch.float64)
    for i in range(n_dims):
        (gradient,) = torch.autograd.grad((log_p[:, i] @ weights).sum(), x, retain_graph=True)
        gradients[i] = gradient.abs().sum(0).flatten()
    changes = torch.zeros(n_dims, n_dims, dtype=torch.float64)
    with torch.no_grad():
        for j in range(n_dims):
            other = images.flatten(1).clone()
            other[:, j] = (other[:, j] + 1) % model.n_levels
            moved = log_masses_of_all_levels(model, other.reshape(images.shape).double(), labels)
            changes[:, j] = (moved - log_p).abs().sum((0, 2))
    for i, j in itertools.product(range(n_dims), repeat=2):
        for name, found in (("gradient", gradients[i, j].item()), ("change", changes[i, j].item())):
            if sees(i, j):
                assert found > 0, f"conditional {i} should depend on sub-pixel {j}, but its {name} is zero"
            else:
                assert found == 0, f"conditional {i} must not depend on sub-pixel {j}, but its {name} is {found}"


def log_masses_of_all_levels(model: AutoregressiveModel, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the log-mass of every level of every conditional, (B, D, L): all that a head says."""
    conditionals = model.conditionals(x, labels)
    levels = [conditionals.log_prob(torch.tensor(level)) for level in range(model.n_levels)]
    return torch.stack(levels, -1).flatten(1, 3)


def room_for(single: Tensor, double: Tensor) -> float:
    """Return how far apart two computations of the same numbers in float32 may be: eight times the error of one.

    The error of one is its largest distance from the same computation in float64. Another computation (other shapes,
    another order of additions, another processor) has an error of its own, of the same size but for the order: a sum of
    n numbers one after the other errs by up to n roundings, in pairs by log2(n), at random by sqrt(n). For the sums of
    tens of numbers of these tests those are apart by a factor of 7 at most, and two errors may add up: 1 + 7.
    """
    return 8 * float((single.double() - double).abs().max())


def room_for_rounding(work: Callable[[], Tensor]) -> float:
    """Return how far apart two computations of the same numbers in float64 may be: eight times what rounding changes.

    There is no wider type to compare with. Instead each operand of a product or sum is moved by one unit in its last
    place, and what comes of it is compared with ``work`` as it is. Eight as in :func:`room_for`.
    """
    plain = work()
    with OtherRounding():
        return max(ROUNDING, 8 * float((work() - plain).detach().abs().max()))


def images_are_independent(model: ImageModel, generator: torch.Generator) -> None:
    """No log-weight depends on the other images of the batch, in training mode either."""
    for training in (True, False):
        model.train(training)
        images = torch.randint(model.n_levels, (5, *model.image_shape), generator=generator, dtype=torch.int64).to(
            torch.uint8
        )
        changed = images.clone()
        changed[1:] = model.n_levels - 1 - changed[1:]
        first = model.log_weights(images, 3, generator=torch.Generator().manual_seed(1))
        second = model.log_weights(changed, 3, generator=torch.Generator().manual_seed(1))
        assert torch.equal(first[:, 0], second[:, 0]), "the first image's log-weights moved with the others"
        assert not torch.equal(first[:, 1:], second[:, 1:]), "the other images' log-weights do not see their images"


def weights_average_to(
    model: ImageModel,
    images: Tensor,
    masses: Tensor,
    generator: torch.Generator,
    n_samples: int = 20_000,
    **options: Any,
) -> None:
    """E[w] = P(x) within Monte Carlo error: one image in a million fails by chance."""
    w = model.log_weights(images, n_samples, generator=generator, **options).double().exp()  # (K, B)
    z = (w.mean(0) - masses) / (w.std(0) / math.sqrt(n_samples))
    assert z.abs().max() < FAR, f"the mean weight is {z.abs().max().item():.1f} standard errors off"


def masses_by_quadrature(
    model: LatentModel, images: Tensor, half_width: float = 9.0, n_nodes: int | None = None
) -> Tensor:
    """Integrate p(x given z) p(z) over a latent of one or two dimensions, (B,) masses, by the trapezoid rule.

    For smooth integrands that vanish at the ends the rule converges faster than any power; the
    normal tail beyond 9 is below 1e-18. With 161 nodes in one dimension, and 81 along each of two, the masses of the
    cases are those of twice as many nodes to 1e-4 where networks have kinks, and to 2e-7 elsewhere: a fiftieth of
    the error of 20,000 samples, and less.
    """
    latent_size = model.prior().mean.shape[-1]
    n_nodes = n_nodes or (161 if latent_size == 1 else 81)
    nodes = torch.linspace(-half_width, half_width, n_nodes, dtype=torch.float64)
    grid = torch.cartesian_prod(*[nodes] * latent_size).reshape(-1, 1, latent_size)  # (K, 1, Z)
    volume = (nodes[1] - nodes[0]) ** latent_size
    log_p = model.log_joint(images, grid.expand(-1, len(images), -1))  # (K, B)
    return log_p.exp().sum(0) * volume


def masses_of_cells(model: DensityModel, n_nodes: int = 24) -> torch.Tensor:
    """Integrate the density over every cell with Gauss-Legendre nodes, (L^D,) for D = 2 or 3."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    u, w = torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
    n_dims = model.n_dims
    noise = torch.cartesian_prod(*[u] * n_dims)  # (nodes, D)
    volume = torch.cartesian_prod(*[w] * n_dims).prod(1) / model.n_levels**n_dims
    images = all_images(model.image_shape, model.n_levels).flatten(1).double()
    y = (images[:, None] + noise) / model.n_levels  # (images, nodes, D)
    density = model.log_density(y.reshape(-1, *model.image_shape)).exp().reshape(len(images), -1)
    return density @ volume


def receptive_field(kernel_size: int, n_blocks: int) -> set[tuple[int, int]]:
    """Return the offsets (rows, columns) that the stack promises, by adding up the masks' offsets on paper."""

    def mask(size: int) -> set[tuple[int, int]]:
        reach = range(-(size // 2), size // 2 + 1)
        return {(row, column) for row, column in itertools.product(reach, repeat=2) if (row, column) < (0, 0)} | {
            (0, 0)
        }

    field = mask(kernel_size)
    for _ in range(n_blocks):
        field = {(a + c, b + d) for a, b in field for c, d in mask(3)}
    return field


def gated_receptive_field(kernel_size: int, n_layers: int) -> set[tuple[int, int]]:
    """Return the offsets that two stacks without a blind spot promise, by adding up the windows on paper."""
    reach, wide = kernel_size // 2, range(-1, 2)
    vertical = set(itertools.product(range(-reach, 0), range(-reach, reach + 1)))
    horizontal = vertical | {(0, column) for column in range(-reach, 0)}
    for _ in range(n_layers):
        vertical = {(a + c, b + d) for a, b in vertical for c, d in itertools.product((-1, 0), wide)}
        horizontal = {(a, b + d) for a, b in horizontal for d in (-1, 0)} | {(0, -1)} | vertical
    return horizontal


Sees = Callable[[int, int], bool]


def sees_offsets(shape: tuple[int, int, int], field: set[tuple[int, int]] | None) -> Sees:
    """Return whether conditional i depends on sub-pixel j, numbered in memory order, for a field of offsets.

    Args:
        shape: (C, H, W).
        field: (rows, columns) that are seen whatever the channel; None: all pixels that come before.
    """
    _, height, width = shape

    def predicate(i: int, j: int) -> bool:
        (channel_i, row_i, column_i), (channel_j, row_j, column_j) = (
            (k // (height * width), k // width % height, k % width) for k in (i, j)
        )
        offset = (row_j - row_i, column_j - column_i)
        if offset == (0, 0):
            return channel_j < channel_i
        return offset < (0, 0) if field is None else offset in field

    return predicate


def pixelcnn_sees(shape: tuple[int, int, int], kernel_size: int, n_blocks: int) -> Sees:
    """Return what a PixelCNN promises."""
    return sees_offsets(shape, receptive_field(kernel_size, n_blocks))


def scattered(model: ImageModel, seed: int = 2, spread: float = 0.2) -> ImageModel:
    """Return the model in float64 and evaluation mode with random weights, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model
