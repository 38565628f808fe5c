r"""The covariance of a refined proposal, from the slope of the gradient of log p(x, z).

Among all normals, the one with the highest evidence lower bound satisfies (Opper and Archambeau 2009, "The Variational
Gaussian Approximation Revisited", equations 6 and 7)

.. math:: \Sigma^{-1} = - \mathbb E_q[\nabla^2 \log p(x, z)], \qquad \mathbb E_q[\nabla \log p(x, z)] = 0

No second derivative is needed: by Stein's lemma, the expected second derivative under a normal is the slope of the
linear regression of the gradient on z. Each round therefore draws some samples from the current normal and computes the
gradient at each of them. It fits the gradients by least squares with :math:`a - P \epsilon`, where :math:`\epsilon` is
the standard normal noise of the samples. The next normal has the covariance :math:`P^{-1}` and the mean
:math:`P^{-1} a` in these coordinates. If log p(x, z) is a quadratic function of z, one round finds the posterior
exactly.

All this is done in the coordinates of the noise of the normal at which the refinement starts
(:class:`bitsperdim.likelihoods.CorrelatedNormal`), so that several stochastic layers need no special case. P is made
symmetric, and its eigenvalues are kept between 1/10 and 10: one round changes no variance by more than a factor of ten.

The effective sample size of the same samples measures the quality of the current normal. The normal with the largest
effective sample size, as a share of the samples, is kept; it may be the one without correlations. Images whose share is
below 0.3 get another round with twice as many samples. All samples that are drawn here are discarded afterwards.

Invariants (``tests/evaluation/test_covariance.py``):

1. In a conjugate model one round finds the posterior (``test_one_round_finds_a_normal_posterior``).
2. The density is the density of the draws (``test_the_density_is_that_of_the_draws``).
3. A fit that is worse than the normal before it is not used (``test_a_worse_fit_is_not_taken``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsperdim.config.params import RefinedSection
from bitsperdim.estimators.log_weights import effective_sample_size
from bitsperdim.likelihoods import CorrelatedNormal
from bitsperdim.models import LatentModel
from bitsperdim.models.latent import LatentNormal

NUMBERS_AT_ONCE = 2**15  # random numbers per image in memory
LARGEST = 256  # largest dimension of a latent code; in larger codes the coordinates stay independent
DRAWS_PER_NUMBER = 2.5  # fewest samples in the first round, per dimension of the code
ENOUGH_ESS = 0.3  # share of the samples; if the effective sample size is smaller, another round follows
MOST = 10.0  # largest factor by which one round changes a variance


@dataclass(frozen=True)
class Fitted:
    """Normals with a covariance for B images, and their cost.

    Attributes:
        normal: fitted normals, (B, Z), widened.
        n_gradients: number of gradients of log p(x, z) with respect to z for each image, (B,) int64.
        n_pilot: number of samples without a gradient for each image, (B,) int64.
        n_rounds: number of rounds for each image, (B,) int64.
    """

    normal: CorrelatedNormal
    n_gradients: Tensor
    n_pilot: Tensor
    n_rounds: Tensor


@dataclass(frozen=True)
class Moments:
    """Means over the n samples of each image, float64.

    Attributes:
        share: effective sample size as a share of n, (B,).
        noise: mean of the standard normal noise of the samples, (B, Z).
        gradient: mean gradient of log p(x, z) with respect to that noise, (B, Z).
        squares: mean outer product of the noise with itself, (B, Z, Z).
        products: mean outer product of the noise with the gradient, (B, Z, Z).
    """

    share: Tensor
    noise: Tensor
    gradient: Tensor
    squares: Tensor
    products: Tensor


def is_small_enough(normal: LatentNormal) -> bool:
    """Return whether a latent code has few enough dimensions for a covariance."""
    return normal.mean.shape[-1] <= LARGEST


@torch.no_grad()
def fitted(
    model: LatentModel,
    x: Tensor,
    start: Callable[[Tensor], LatentNormal],
    section: RefinedSection,
    generators: Sequence[torch.Generator],
) -> Fitted:
    """Fit a normal with a covariance for each image.

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        start: function from the indices (b,) of some images to the normals (b, Z) at which their fits start, not
            widened.
        section: settings of the refinement.
        generators: random number generator of each image, on the CPU.
    """
    everything = torch.arange(len(x), device=x.device)
    whole = start(everything)
    size = whole.mean.shape[-1]
    center, factor = torch.zeros_like(whole.mean), torch.eye(size).to(whole.mean).repeat(len(x), 1, 1)
    best_center, best_factor = center.clone(), factor.clone()
    best_share = torch.full((len(x),), -1.0, dtype=torch.float64, device=x.device)
    n_gradients, n_pilot, n_rounds = torch.zeros(3, len(x), dtype=torch.int64)
    at = everything  # indices of the images that are not finished
    for turn in range(section.n_rounds + 1):
        is_last = turn == section.n_rounds  # the samples only measure the quality of the last fit; no fit follows
        n_steps = math.ceil(max(section.n_pilot, DRAWS_PER_NUMBER * size) / section.n_samples)
        n_steps *= 2 ** min(turn, section.n_rounds - 1)
        present = CorrelatedNormal(start(at).detach(), center[at], section.widening * factor[at])
        theirs = [generators[i] for i in at.tolist()]
        moments = moments_of(model, x[at], present, n_steps, section.n_samples, theirs, with_gradient=not is_last)
        better = moments.share > best_share[at]
        best_share[at[better]] = moments.share[better]
        best_center[at[better]], best_factor[at[better]] = center[at[better]], factor[at[better]]
        (n_pilot if is_last else n_gradients)[at.cpu()] += n_steps * section.n_samples
        if is_last:
            break
        going_on = (best_share[at] < ENOUGH_ESS) | (turn == 0)
        center[at], factor[at] = next_normal(present, moments)
        at = at[going_on]
        n_rounds[at.cpu()] += 1
        if not len(at):
            break
    return Fitted(CorrelatedNormal(whole, best_center, section.widening * best_factor), n_gradients, n_pilot, n_rounds)


def moments_of(
    model: LatentModel,
    x: Tensor,
    present: CorrelatedNormal,
    n_steps: int,
    n_samples: int,
    generators: Sequence[torch.Generator],
    *,
    with_gradient: bool,
) -> Moments:
    """Draw samples from the current normals and return their moments.

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        present: current normals, (B, Z), without derivatives.
        n_steps: number of parts in which the samples are drawn.
        n_samples: number of samples in each part, which are in memory with derivatives; n is n_steps * n_samples.
        generators: random number generator of each image, on the CPU.
        with_gradient: whether to compute gradients; without them the moments are zero.
    """
    center, n = present.center, n_steps * n_samples
    size = center.shape[-1]
    noise_mean, gradient_mean = torch.zeros(2, len(x), size, dtype=torch.float64, device=x.device)
    squares, products = torch.zeros(2, len(x), size, size, dtype=torch.float64, device=x.device)
    log_w = []
    for noise in noise_of_steps(center, n_steps, n_samples, generators):
        with torch.set_grad_enabled(with_gradient):
            noise.requires_grad_(with_gradient)
            z = present.from_noise(noise)
            # log p(x, u), up to a constant, of the noise u from which `present.base` computes z
            log_p = model.log_joint(x, z) - present.base.log_prob(z) - 0.5 * present.base.to_noise(z).square().sum(-1)
            gradient = torch.autograd.grad(log_p.sum(), noise)[0] if with_gradient else torch.zeros_like(noise)
        noise = noise.detach()
        log_w.append((log_p.detach() + 0.5 * noise.square().sum(-1)).double())
        if with_gradient:
            rows, slopes = noise.movedim(0, 1).double() / n, gradient.movedim(0, 1).double()  # (B, k, Z)
            noise_mean += rows.sum(1)
            gradient_mean += slopes.sum(1) / n
            squares += rows.mT @ (n * rows)
            products += rows.mT @ slopes
    return Moments(effective_sample_size(torch.cat(log_w)) / n, noise_mean, gradient_mean, squares, products)


def next_normal(present: CorrelatedNormal, moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the center (B, Z) and the factor (B, Z, Z) of the next normals, from the moments of the current ones.

    An image whose moments are not finite, for example because no sample gives it any probability, keeps its normal.
    """
    usable = (moments.gradient.isfinite() & moments.products.isfinite().all(-1)).all(-1)[:, None, None]
    variance = moments.squares - moments.noise[:, :, None] * moments.noise[:, None]
    products = moments.products - moments.noise[:, :, None] * moments.gradient[:, None]
    slope = torch.linalg.solve(variance, torch.where(usable, products, -variance))  # -P, not yet symmetric
    eigenvalues, axes = torch.linalg.eigh(-0.5 * (slope + slope.mT))
    eigenvalues = eigenvalues.clamp(1 / MOST, MOST)
    precision = (axes * eigenvalues[:, None]) @ axes.mT
    at_center = torch.where(usable[:, 0], moments.gradient, 0.0)[..., None] + precision @ moments.noise[..., None]
    shift = axes @ ((axes.mT @ at_center) / eigenvalues[..., None])
    present_factor = present.factor.double()
    root = present_factor @ (axes * eigenvalues[:, None].rsqrt())
    factor = torch.linalg.cholesky(root @ root.mT)
    center = present.center + torch.where(usable, present_factor @ shift, 0.0)[..., 0].to(present.center.dtype)
    return center, torch.where(usable, factor, present_factor).to(present.factor.dtype)


def noise_of_steps(
    like: Tensor, n_steps: int, n_samples: int, generators: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """Yield standard normal noise (k, B, Z) for each step; the noise of each image comes from its own generator.

    Args:
        like: tensor (B, Z) with the dtype and device of the result.
        n_steps: number of tensors to yield.
        n_samples: number k of samples in each step.
        generators: random number generator of each image, on the CPU.
    """
    n_at_once = max(1, NUMBERS_AT_ONCE // (n_samples * like.shape[-1]))
    for first in range(0, n_steps, n_at_once):
        shape = (min(n_at_once, n_steps - first), n_samples, like.shape[-1])
        drawn = [torch.randn(shape, generator=each, dtype=like.dtype) for each in generators]
        yield from torch.stack(drawn, dim=2).to(like.device)
