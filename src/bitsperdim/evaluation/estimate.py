"""The one evaluator: log P(x) of every image, with what is needed to believe or doubt it.

It draws no image twice, drops none and filters nothing: NaN and +inf raise, -inf (an image that the
model holds impossible) is kept and makes the mean infinite. Before it scores the first image it refuses what is not
images of the model, and an autoregressive model that looks ahead (:func:`check_scorable`).

Invariants (``tests/evaluation/test_estimate.py``):

1. Every image is scored once, whatever the batch size (``test_no_image_is_dropped``).
2. The chunk size changes nothing but rounding (``test_chunks_change_nothing``).
3. Memory holds the network's activations of one chunk and at most ``WEIGHTS_AT_ONCE`` log-weights:
   a K so large that a batch would have more takes fewer images at a time
   (``test_memory_does_not_grow_with_k``).
4. From the prior instead of the encoder the estimate is of the same P(x)
   (``test_proposals.py::test_the_prior_is_a_proposal_of_the_same_mass``).
5. An image's numbers depend on its batch and the generator, on nothing before: parts that are scored apart and joined
   are the whole (``test_parts_are_joined_to_the_whole``).
6. There is no exact estimate of an autoregressive model that was not asked whether it looks ahead
   (``test_a_model_that_looks_ahead_is_not_exact``).
"""

from __future__ import annotations

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
WEIGHTS_AT_ONCE = 2**20  # of 8 bytes each, and a few temporary copies
SEQUENTIAL_CHUNKS = 4  # at once: in memory are the activations of one sub-pixel, and not of all
FEWEST_PILOTS, MOST_PILOTS = 64, 256  # fewer say little, and more hardly more
SMALL_ESS = 10  # below it an image's standard error and bias are not to be believed


@dataclass(frozen=True)
class Estimate:
    """log P(x) of N images, nats, float64, on the CPU.

    Attributes:
        kind: ``exact``; ``lower`` for a stochastic lower bound in expectation; ``density`` for a density at integers,
            which is no likelihood.
        n_samples: K; 1 where nothing is sampled.
        log_p: (N,) the estimate.
        standard_error: (N,) Monte Carlo standard error; 0 where nothing is sampled, infinite for K = 1.
        bias: (N,) of ``log_p``, estimated, never positive; 0 where nothing is sampled, minus infinity for K = 1.
        elbo: (N,) the mean log-weight; equals ``log_p`` where nothing is sampled.
        ess: (N,) effective sample size, between 1 and K.
        pareto_k: (N,) shape of the tail of the weights (:func:`bitsperdim.estimators.pareto.pareto_k`); NaN where
            nothing is sampled, and for K < 1,000, where it is too noisy to judge by.
        jackknife: (N,) an estimate that is no bound; equals ``log_p`` where nothing is sampled, NaN for K = 1 and
            where bounds are drawn, which are no weights.
        extrapolation: (N,) another one; likewise.
        block_sizes: the K of each row of ``bounds``.
        bounds: (len(block_sizes), N) the bound for each block size; nondecreasing along the first axis.
        largest_leaked_gradient: what the check of causality found, 0; None of a model that is not autoregressive.
        noise: what the samples of a density came from; None of other models.
        costs: (N, 3) gradients, pilot samples and rounds of the refinement of each proposal; None where there was none.
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
    costs: Tensor | None = None

    @property
    def small_ess_share(self) -> float:
        """The share of images whose effective sample size is small; 0 where nothing is sampled."""
        return float((self.ess < SMALL_ESS).double().mean()) if self.kind == "lower" else 0.0

    @staticmethod
    def of_rows(
        model: ImageModel, n_samples: int, rows: Tensor, leak: float | None, noise_from: NoiseFrom = "own"
    ) -> Estimate:
        """Join what :func:`estimated_rows` returned for parts of the images.

        Args:
            model: that the rows are of.
            n_samples: K that was asked for.
            rows: (N, n_columns(model, n_samples)), those of all parts, in order.
            leak: what :func:`check_scorable` returned for this model.
            noise_from: of a density, as it was when they were estimated.

        Raises:
            ValueError: the model is autoregressive, and it was not asked whether it looks ahead.
        """
        if isinstance(model, ConditionalModel) and leak is None:
            raise ValueError("an estimate of an autoregressive model needs what check_scorable returned")
        k, n = samples_of(model, n_samples), len(PER_IMAGE)
        columns = dict(zip(PER_IMAGE, rows[:, :n].T.contiguous(), strict=True))
        sizes = bound_sizes(k)
        return Estimate(
            *(model.kind, k),
            **columns,
            block_sizes=sizes,
            bounds=rows[:, n:].T.contiguous(),
            largest_leaked_gradient=leak,
            noise=model.name_of_noise(noise_from) if isinstance(model, DensityModel) else None,
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
        model: in evaluation mode, on the device where the work is done.
        images: (N, C, H, W) uint8 or another integer type, values 0..L-1, on any device.
        n_samples: K, importance samples per image; models without variance use 1.
        chunk_size: samples at a time.
        batch_size: images at a time.
        generator: on the device of the model; it runs through all images.
        labels: (N,) int64, for models that are given the class; others ignore them.
        noise: (N, C, H, W) in [0, 1), the dequantization noise of the first sample; only density models use it.
        proposal: of a latent-variable model; ``prior`` is naive Monte Carlo.
        noise_from: of a density model; ``sequential`` is its best where it is one triangular map.
        progress: called after each batch with the number of images done and their mean log P(x).

    Raises:
        ValueError: the model is in training mode, looks ahead, or has no latent variable to draw from the prior; or
            an argument does not fit it.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    check_counts(n_samples=n_samples, chunk_size=chunk_size, batch_size=batch_size)
    model.check_places(generator=generator)
    leak = check_scorable(model, images, labels, noise)
    labels = None if model.n_classes is None else labels  # which are then ignored, whatever they are
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
    """Estimate log P(x) of images that fit into memory together: part of what :meth:`Estimate.of_rows` joins.

    Whether the model looks ahead is not asked here, but once for all parts, by :func:`check_scorable`.

    Args:
        model: as of :func:`estimate`, and so are all others.
        images: (B, C, H, W) uint8, B at most :func:`images_at_once`.
        n_samples: K.
        chunk_size: samples at a time.
        generator: on the device of the model.
        labels: (B,) int64.
        noise: (B, C, H, W).
        proposal: of a latent-variable model.
        noise_from: of a density model.
        encoded: what its samples come from, (B, Z), in place of the encoder's q(z given x).
        first_image: the number of the first of them, for messages.
        after_chunk: called with the number of log-weights that a chunk has added.

    Returns:
        (B, n_columns(model, n_samples)) float64, on the CPU: of each image the columns :data:`PER_IMAGE` of an
        estimate, and then its bounds.

    Raises:
        ValueError: the model is in training mode, or has no latent variable to draw from the prior; or an argument
            does not fit it.
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
        options["encoded"] = model.encode(x) if encoded is None else encoded  # once for all chunks
    n_samples = samples_of(model, n_samples)
    if isinstance(model, DensityModel) and noise_from != "own":
        if noise_from == "sequential":
            chunk_size *= SEQUENTIAL_CHUNKS
            if n_pilot := pilot_samples(n_samples):
                noise_from = model.shifted(x, n_pilot, chunk_size, generator)
        options["noise_from"] = noise_from
    chunks = []
    for first in range(0, n_samples, chunk_size):
        given = None if noise is None or first > 0 else noise.to(device)
        log_w = model.unchecked_log_weights(x, min(chunk_size, n_samples - first), noise=given, **options)
        chunks.append(log_w.double())  # what is said of them is computed where they are, too
        after_chunk(log_w.numel())
    log_w = torch.cat(chunks)  # (K, B)
    _refuse_nan(log_w, first_image)
    return (rows_of_bounds if model.draws_bounds else rows_of_weights)(log_w, is_sampled=model.kind == "lower")


def rows_of_weights(log_w: Tensor, *, is_sampled: bool) -> Tensor:
    """Return what :meth:`Estimate.of_rows` joins, (B, columns) float64, on the CPU, of log-weights (K, B) float64."""
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
    """Return the same of draws of a bound, (K, B) float64 nats: their mean is a bound as it is, however few there are.

    No samples are weighted: every one counts, whatever K is, and nothing can be extrapolated from K.
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
        "jackknife": torch.full_like(log_p, torch.nan),  # of log P(x) they say nothing
        "extrapolation": torch.full_like(log_p, torch.nan),
    }
    of_sizes = [log_p] * len(bound_sizes(n_samples))
    return torch.stack([*(columns[name] for name in PER_IMAGE), *of_sizes], dim=1).cpu()


def images_at_once(model: ImageModel, n_samples: int, batch_size: int) -> int:
    """Return how many images are scored at a time: ``batch_size``, or as many as memory has room for their weights."""
    return max(1, min(batch_size, WEIGHTS_AT_ONCE // samples_of(model, n_samples)))


def n_columns(model: ImageModel, n_samples: int) -> int:
    """Return how many numbers :func:`estimated_rows` gives of an image."""
    return len(PER_IMAGE) + len(bound_sizes(samples_of(model, n_samples)))


def pilot_samples(n_samples: int) -> int:
    """Return how many samples of each image are thrown away, to shift sequential noise by what they say."""
    n_pilot = min(MOST_PILOTS, n_samples // 4)
    return n_pilot if n_pilot >= FEWEST_PILOTS else 0


def samples_of(model: ImageModel, n_samples: int) -> int:
    """Return K, or 1 for a model from which nothing is sampled."""
    return n_samples if model.kind == "lower" else 1


def _refuse_nan(log_w: Tensor, first_image: int) -> None:
    bad = (log_w.isnan() | log_w.isposinf()).any(0)
    if bad.any():
        image = first_image + int(bad.nonzero()[0])
        raise FloatingPointError(f"a log-weight of image {image} is NaN or +inf")
