"""The one evaluator: log P(x) of every image, with the diagnostics that show whether to trust it.

It scores every image exactly once and filters nothing. NaN and +inf raise an error. An image to which the model gives
probability 0 has log P(x) = -inf; it is kept and makes the mean infinite. Before the first image is scored, images that
do not fit the model are refused, and so is an autoregressive model that looks ahead (:func:`check_scorable`).

Invariants (``tests/evaluation/test_estimate.py``):

1. Every image is scored once, whatever the batch size (``test_no_image_is_dropped``).
2. The chunk size changes nothing but rounding (``test_chunks_change_nothing``).
3. Memory holds the network's activations for one chunk and at most ``WEIGHTS_AT_ONCE`` log-weights. If K is so large
   that a batch would have more log-weights, fewer images are scored at a time
   (``test_memory_does_not_grow_with_k``).
4. With the prior instead of the encoder as the proposal, the estimate is of the same P(x)
   (``test_proposals.py::test_the_prior_is_a_proposal_of_the_same_mass``).
5. The numbers of an image depend on its batch and the generator, and on nothing before them: parts that are scored
   separately and joined equal the whole (``test_parts_are_joined_to_the_whole``).
6. There is no exact estimate for an autoregressive model without a check that it does not look ahead
   (``test_a_model_that_looks_ahead_is_not_exact``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import (
    bias,
    bound_against_k,
    bound_sizes,
    effective_sample_size,
    extrapolation,
    jackknife,
    log_mean_exp,
    standard_error,
)
from bitsperdim.estimators.pareto import JUDGED_FROM, pareto_k
from bitsperdim.likelihoods import LatentDensity
from bitsperdim.models.base import ImageModel, Kind
from bitsperdim.models.conditional import ConditionalModel
from bitsperdim.models.density import DensityModel, NoiseFrom, NoiseName
from bitsperdim.models.inputs import check_counts
from bitsperdim.models.latent import LatentModel, Proposal
from bitsperdim.models.look_ahead import check_scorable

PER_IMAGE = ("log_p", "standard_error", "bias", "elbo", "ess", "pareto_k", "jackknife", "extrapolation")
WEIGHTS_AT_ONCE = 2**20  # log-weights in memory, of 8 bytes each, with a few temporary copies
SEQUENTIAL_CHUNKS = 4  # chunks at once: only the activations of one sub-pixel are in memory, not of all sub-pixels
FEWEST_PILOTS, MOST_PILOTS = 64, 256  # fewer samples tell little, and more samples hardly tell more
COARSER = (2, 4)  # factors by which steps are longer when the solver error is measured
SMALL_ESS = 10  # below this ESS, the standard error and the bias of an image cannot be trusted


@dataclass(frozen=True)
class Estimate:
    """log P(x) of N images, nats, float64, on the CPU.

    Attributes:
        kind: ``exact``; ``lower`` for a stochastic lower bound in expectation; ``density`` for a density at integers,
            which is not a likelihood.
        n_samples: number of importance samples K; 1 if nothing is sampled.
        log_p: estimate of log P(x), (N,).
        standard_error: Monte Carlo standard error, (N,); 0 if nothing is sampled, infinite for K = 1.
        bias: estimated bias of ``log_p``, (N,), never positive; 0 if nothing is sampled, minus infinity for K = 1.
        elbo: mean log-weight, (N,); equals ``log_p`` if nothing is sampled.
        ess: effective sample size, (N,), between 1 and K.
        pareto_k: shape of the tail of the weights, (N,) (:func:`bitsperdim.estimators.pareto.pareto_k`); NaN if nothing
            is sampled, and for K < 1,000, where it is too noisy to judge by.
        jackknife: jackknife estimate, (N,), which is not a bound; equals ``log_p`` if nothing is sampled; NaN for K = 1
            and if the model draws bounds, which are not importance weights.
        extrapolation: extrapolated estimate, (N,), which is not a bound; the special values are those of ``jackknife``.
        block_sizes: the K of each row of ``bounds``.
        bounds: bound for each block size, (len(block_sizes), N); nondecreasing along the first axis.
        largest_leaked_gradient: result of the causality check, which is 0; None if the model is not autoregressive.
        noise: name of the dequantization noise of a density; None for other models.
        solver: differences between the first sample of each image and the same sample with longer steps, (N, 2), for
            :func:`bitsperdim.estimators.solver.solver_error`; None: no equation is solved.
        costs: gradients, pilot samples and rounds of the refinement of each proposal, (N, 3); None if no proposal was
            refined.
    """

    kind: Kind
    n_samples: int
    log_p: Tensor
    standard_error: Tensor
    bias: Tensor
    elbo: Tensor
    ess: Tensor
    pareto_k: Tensor
    jackknife: Tensor
    extrapolation: Tensor
    block_sizes: list[int]
    bounds: Tensor
    largest_leaked_gradient: float | None = None
    noise: NoiseName | None = None
    solver: Tensor | None = None
    costs: Tensor | None = None

    @property
    def small_ess_share(self) -> float:
        """The share of images whose effective sample size is below 10; 0 if nothing is sampled."""
        return float((self.ess < SMALL_ESS).double().mean()) if self.kind == "lower" else 0.0

    @staticmethod
    def of_rows(
        model: ImageModel, n_samples: int, rows: Tensor, leak: float | None, noise_from: NoiseFrom = "own"
    ) -> Estimate:
        """Build an estimate from the rows that :func:`estimated_rows` returned for the parts of the images.

        Args:
            model: model that the rows were estimated with.
            n_samples: requested number of samples K.
            rows: rows of all parts in order, (N, n_columns(model, n_samples)).
            leak: return value of :func:`check_scorable` for this model.
            noise_from: source of the noise of a density when the rows were estimated.

        Raises:
            ValueError: the model is autoregressive, and there was no check whether it looks ahead.
        """
        if isinstance(model, ConditionalModel) and leak is None:
            raise ValueError("an estimate of an autoregressive model needs the return value of check_scorable")
        k, n = samples_of(model, n_samples), len(PER_IMAGE)
        columns = dict(zip(PER_IMAGE, rows[:, :n].T.contiguous(), strict=True))
        sizes = bound_sizes(k)
        return Estimate(
            model.kind,
            k,
            **columns,
            block_sizes=sizes,
            bounds=rows[:, n : n + len(sizes)].T.contiguous(),
            largest_leaked_gradient=leak,
            noise=model.name_of_noise(noise_from) if isinstance(model, DensityModel) else None,
            solver=None if model.solver_order is None else rows[:, n + len(sizes) :],
        )


@torch.no_grad()
def estimate(
    model: ImageModel,
    images: Tensor,
    n_samples: int,
    *,
    chunk_size: int,
    batch_size: int,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
    noise: Tensor | None = None,
    proposal: Proposal = "encoder",
    noise_from: NoiseFrom = "own",
    progress: Callable[[int, float], None] | None = None,
) -> Estimate:
    """Estimate log P(x) of every image by importance sampling.

    Args:
        model: model in evaluation mode, on the device on which to compute.
        images: images, (N, C, H, W), uint8 or another integer type, values 0..L-1, on any device.
        n_samples: number K of importance samples per image; models that sample nothing use 1.
        chunk_size: number of samples at a time.
        batch_size: number of images at a time.
        generator: random number generator on the device of the model, used for all images in turn.
        labels: class labels, (N,), int64, for models that are conditioned on the class; other models ignore them.
        noise: dequantization noise of the first sample, (N, C, H, W), in [0, 1); only density models use it.
        proposal: proposal of a latent-variable model; ``prior`` is naive Monte Carlo.
        noise_from: source of the noise of a density model; ``sequential`` is best for a density that is one triangular
            map.
        progress: function that is called after each batch with the number of scored images and their mean log P(x).

    Raises:
        ValueError: the model is in training mode or looks ahead; ``proposal`` is ``prior``, but the model has no latent
            variable; or an argument does not fit the model.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    check_counts(n_samples=n_samples, chunk_size=chunk_size, batch_size=batch_size)
    model.check_places(generator=generator)
    leak = check_scorable(model, images, labels, noise)
    labels = None if model.n_classes is None else labels  # a model that is not class-conditional ignores any labels
    noise = noise if isinstance(model, DensityModel) else None
    size, parts, total = images_at_once(model, n_samples, batch_size), [], 0.0
    for start in range(0, len(images), size):
        at = slice(start, start + size)
        part = estimated_rows(
            model,
            images[at],
            n_samples,
            chunk_size=chunk_size,
            generator=generator,
            labels=None if labels is None else labels[at],
            noise=None if noise is None else noise[at],
            proposal=proposal,
            noise_from=noise_from,
            first_image=start,
        )
        parts.append(part)
        if progress:
            total += float(part[:, 0].sum())
            progress(start + len(part), total / (start + len(part)))
    return Estimate.of_rows(model, n_samples, torch.cat(parts), leak, noise_from)


@torch.no_grad()
def estimated_rows(
    model: ImageModel,
    images: Tensor,
    n_samples: int,
    *,
    chunk_size: int,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
    noise: Tensor | None = None,
    proposal: Proposal = "encoder",
    noise_from: NoiseFrom = "own",
    encoded: LatentDensity | None = None,
    first_image: int = 0,
    after_chunk: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Estimate log P(x) of images that fit into memory together; :meth:`Estimate.of_rows` joins such parts.

    This function does not check whether the model looks ahead: :func:`check_scorable` does so once for all parts.

    Args:
        model: model in evaluation mode, on the device on which to compute.
        images: images, (B, C, H, W), uint8 or another integer type, with B at most :func:`images_at_once`.
        n_samples: number K of importance samples per image.
        chunk_size: number of samples at a time.
        generator: random number generator on the device of the model.
        labels: class labels, (B,), int64.
        noise: dequantization noise of the first sample, (B, C, H, W).
        proposal: proposal of a latent-variable model.
        noise_from: source of the noise of a density model.
        encoded: density from which latent codes are sampled, (B, Z), in place of the encoder's q(z given x).
        first_image: index of the first of these images, for error messages.
        after_chunk: function that is called after each chunk with the number of new log-weights.

    Returns:
        One row for each image, (B, n_columns(model, n_samples)) float64, on the CPU: the columns :data:`PER_IMAGE` of
        an estimate, followed by the bounds, and by the solver differences if an equation is solved.

    Raises:
        ValueError: the model is in training mode; ``proposal`` is ``prior``, but the model has no latent variable; or
            an argument does not fit the model.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    model.check_mode("estimate")
    model.check(images, labels, noise)
    device = model.device
    x = images.to(device)
    options: dict[str, Any] = {"labels": None if labels is None else labels.to(device), "generator": generator}
    if proposal != "encoder":
        if not isinstance(model, LatentModel):
            raise ValueError(f"proposal {proposal!r} needs a model with a latent variable, not {type(model).__name__}")
        options["proposal"] = proposal
    elif isinstance(model, LatentModel):
        options["encoded"] = model.encode(x) if encoded is None else encoded  # encode only once, not in each chunk
    n_samples = samples_of(model, n_samples)
    if isinstance(model, DensityModel) and noise_from != "own":
        if noise_from == "sequential":
            chunk_size *= SEQUENTIAL_CHUNKS
            if n_pilot := pilot_samples(n_samples):
                noise_from = model.shifted(x, n_pilot, chunk_size, generator)
        options["noise_from"] = noise_from
    if model.solver_order is not None and generator is None:
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,))))
        options["generator"] = generator
    state = None if generator is None else generator.get_state()
    chunks = []
    for first in range(0, n_samples, chunk_size):
        given = None if noise is None or first > 0 else noise.to(device)
        log_w = model.unchecked_log_weights(x, min(chunk_size, n_samples - first), noise=given, **options)
        chunks.append(log_w.double())  # kept on the device, so that the statistics are computed there too
        after_chunk(log_w.numel())
    log_w = torch.cat(chunks)  # (K, B)
    _refuse_nan(log_w, first_image)
    rows = (rows_of_bounds if model.draws_bounds else rows_of_weights)(log_w, is_sampled=model.kind == "lower")
    if model.solver_order is None or state is None or generator is None:
        return rows
    end = generator.get_state()
    values = [log_w[0]]
    for coarser in COARSER:  # the first sample once more, with longer steps
        generator.set_state(state)
        given = None if noise is None else noise.to(device)
        options["coarser"] = coarser
        values.append(model.unchecked_log_weights(x, 1, noise=given, **options)[0].double())
        after_chunk(len(x))
    generator.set_state(end)
    pairs = itertools.pairwise(values)  # both may be -inf
    differences = torch.stack([torch.where(a == b, 0.0, a - b) for a, b in pairs], dim=1)
    return torch.cat([rows, differences.cpu()], dim=1)


def rows_of_weights(log_w: Tensor, *, is_sampled: bool) -> Tensor:
    """Return the rows for :meth:`Estimate.of_rows`, (B, columns) float64, on the CPU, from log-weights (K, B) float64.

    Args:
        log_w: log-weights in nats.
        is_sampled: whether they come from random samples; otherwise their errors are 0.
    """
    n_samples, log_p = len(log_w), log_mean_exp(log_w)
    none, unknown = torch.zeros_like(log_p), torch.full_like(log_p, torch.nan)
    without_bias = (jackknife(log_w), extrapolation(log_w)) if n_samples > 1 else (unknown, unknown)
    columns = {
        "log_p": log_p,
        "standard_error": standard_error(log_w) if is_sampled else none,
        "bias": bias(log_w) if is_sampled else none,
        "elbo": log_w.mean(0),
        "ess": effective_sample_size(log_w),
        "pareto_k": pareto_k(log_w) if n_samples >= JUDGED_FROM else unknown,
        "jackknife": without_bias[0] if is_sampled else log_p,
        "extrapolation": without_bias[1] if is_sampled else log_p,
    }
    return torch.stack([*(columns[name] for name in PER_IMAGE), *bound_against_k(log_w)[1]], dim=1).cpu()


def rows_of_bounds(drawn: Tensor, *, is_sampled: bool = True) -> Tensor:
    """Return the rows for :meth:`Estimate.of_rows` from draws of a lower bound, (K, B) float64, nats.

    The mean of the draws is a lower bound in expectation, even for few draws. All draws have the same weight, for any
    K, and nothing can be extrapolated from K.
    """
    n_samples, n_images = drawn.shape
    log_p = drawn.mean(0)
    unknown = torch.full((n_images,), torch.inf, dtype=drawn.dtype, device=drawn.device)
    columns = {
        "log_p": log_p,
        "standard_error": drawn.std(0) / n_samples**0.5 if n_samples > 1 else unknown,
        "bias": torch.zeros_like(log_p),
        "elbo": log_p,
        "ess": torch.full_like(log_p, n_samples),
        "pareto_k": torch.full_like(log_p, torch.nan),
        "jackknife": torch.full_like(log_p, torch.nan),  # draws of a bound do not estimate log P(x)
        "extrapolation": torch.full_like(log_p, torch.nan),
    }
    of_sizes = [log_p] * len(bound_sizes(n_samples))
    return torch.stack([*(columns[name] for name in PER_IMAGE), *of_sizes], dim=1).cpu()


def images_at_once(model: ImageModel, n_samples: int, batch_size: int) -> int:
    """Return how many images are scored at a time: ``batch_size``, or fewer if their weights need too much memory."""
    return max(1, min(batch_size, WEIGHTS_AT_ONCE // samples_of(model, n_samples)))


def n_columns(model: ImageModel, n_samples: int) -> int:
    """Return how many numbers :func:`estimated_rows` returns for each image."""
    n_differences = 0 if model.solver_order is None else len(COARSER)
    return len(PER_IMAGE) + len(bound_sizes(samples_of(model, n_samples))) + n_differences


def pilot_samples(n_samples: int) -> int:
    """Return how many samples of each image are drawn to find the shift of sequential noise, and then discarded."""
    n_pilot = min(MOST_PILOTS, n_samples // 4)
    return n_pilot if n_pilot >= FEWEST_PILOTS else 0


def samples_of(model: ImageModel, n_samples: int) -> int:
    """Return the number of samples K, or 1 for a model that needs no samples."""
    return n_samples if model.kind == "lower" else 1


def _refuse_nan(log_w: Tensor, first_image: int) -> None:
    bad = (log_w.isnan() | log_w.isposinf()).any(0)
    if bad.any():
        image = first_image + int(bad.nonzero()[0])
        raise FloatingPointError(f"a log-weight of image {image} is NaN or +inf")
