"""The one evaluator: log P(x) of every image, with what is needed to believe or doubt it.

It draws no image twice, drops none and filters nothing: NaN and +inf raise, -inf (an image that the
model holds impossible) is kept and makes the mean infinite.

Invariants (``tests/estimation/test_estimate.py``):

1. Every image is scored once, whatever the batch size (``test_no_image_is_dropped``).
2. The chunk size changes nothing but rounding (``test_chunks_change_nothing``).
3. Memory holds the network's activations of one chunk and at most ``WEIGHTS_AT_ONCE`` log-weights:
   a K so large that a batch would have more takes fewer images at a time
   (``test_memory_does_not_grow_with_k``).
4. From the prior instead of the encoder the estimate is of the same P(x)
   (``test_proposals.py::test_the_prior_is_a_proposal_of_the_same_mass``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitsperdim.estimation.log_weights import (
    bias,
    bound_against_k,
    effective_sample_size,
    extrapolation,
    jackknife,
    log_mean_exp,
    standard_error,
)
from bitsperdim.estimation.pareto import JUDGED_FROM, pareto_k
from bitsperdim.models.base import ImageModel, Kind, LatentModel, Proposal

WEIGHTS_AT_ONCE = 2**20  # of 8 bytes each, and a few temporary copies
SMALL_ESS = 10  # below it an image's standard error and bias are not to be believed
TOLERATED_SHARE = 0.05  # of images with a small ESS


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
        pareto_k: (N,) shape of the tail of the weights (:func:`bitsperdim.estimation.pareto_k`); NaN where nothing is
            sampled, and for K < 1,000, where it is too noisy to judge by.
        jackknife: (N,) an estimate that is no bound; equals ``log_p`` where nothing is sampled, NaN for K = 1.
        extrapolation: (N,) another one; equals ``log_p`` where nothing is sampled, NaN for K = 1.
        block_sizes: the K of each row of ``bounds``.
        bounds: (len(block_sizes), N) the bound for each block size; nondecreasing along the first axis.
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

    @property
    def small_ess_share(self) -> float:
        """The share of images whose effective sample size is small; 0 where nothing is sampled."""
        return float((self.ess < SMALL_ESS).double().mean()) if self.kind == "lower" else 0.0


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
    progress: Callable[[int, float], None] | None = None,
) -> Estimate:
    """Estimate log P(x) of every image by importance sampling.

    Args:
        model: in evaluation mode, on the device where the work is done.
        images: (N, C, H, W) uint8.
        n_samples: K, importance samples per image; models without variance use 1.
        chunk_size: samples at a time.
        batch_size: images at a time.
        generator: on the device of the model.
        labels: (N,) int64, for models that are given the class.
        noise: (N, C, H, W), the dequantization noise of the first sample.
        proposal: of a latent-variable model; ``prior`` is naive Monte Carlo.
        progress: called after each batch with the number of images done and their mean log P(x).

    Raises:
        ValueError: the model is in training mode, or has no latent variable to draw from the prior.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    if model.training:
        raise ValueError("estimate needs a model in evaluation mode; call model.eval() first")
    options: dict[str, Any] = {}
    if proposal != "encoder":
        if not isinstance(model, LatentModel):
            raise ValueError(f"proposal {proposal!r} needs a model with a latent variable, not {type(model).__name__}")
        options["proposal"] = proposal
    device = next(iter(model.state_dict().values())).device
    is_sampled = model.kind == "lower"
    n_samples = n_samples if is_sampled else 1
    batch_size = max(1, min(batch_size, WEIGHTS_AT_ONCE // n_samples))
    parts: list[dict[str, Tensor]] = []
    sizes: list[int] = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        x = images[rows].to(device)
        labels_x = None if labels is None else labels[rows].to(device)
        if isinstance(model, LatentModel) and proposal == "encoder":
            options["encoded"] = model.encode(x)  # once for all chunks
        chunks = []
        for first in range(0, n_samples, chunk_size):
            log_w = model.log_weights(
                x,
                min(chunk_size, n_samples - first),
                labels=labels_x,
                generator=generator,
                noise=None if noise is None or first > 0 else noise[rows].to(device),
                **options,
            )
            chunks.append(log_w.double())
        log_w = torch.cat(chunks)  # (K, B), on the device: on a GPU the statistics would take longer than the samples
        _refuse_nan(log_w, start)
        sizes, bounds = bound_against_k(log_w)
        log_p = log_mean_exp(log_w)
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
            "bounds": bounds,
        }
        parts.append({name: column.cpu() for name, column in columns.items()})
        if progress:
            done = torch.cat([part["log_p"] for part in parts])
            progress(len(done), float(done.mean()))
    columns = {name: torch.cat([part[name] for part in parts], dim=-1) for name in parts[0]}
    return Estimate(kind=model.kind, n_samples=n_samples, block_sizes=sizes, **columns)


def _refuse_nan(log_w: Tensor, first_image: int) -> None:
    bad = (log_w.isnan() | log_w.isposinf()).any(0)
    if bad.any():
        image = first_image + int(bad.nonzero()[0])
        raise FloatingPointError(f"a log-weight of image {image} is NaN or +inf")
