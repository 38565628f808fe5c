"""What ``evaluate`` says of a model: numbers with their errors, per image and on the whole test set; pictures.

Every number here is a function of the weights, the test images and the parameters: no time, no
device, no commit.

Errors, which are not to be added up:

- the *test-set error* is the spread of log P(x) over images / sqrt(N): how much the number would
  move with another test set. It contains the Monte Carlo noise already.
- the *Monte Carlo error* is what another draw of the K samples would change.
- the *bias* of the importance-weighted bound is reported apart, and flagged where it exceeds the
  test-set error: then the number says more about K than about the model.

With several seeds the number is the mean over seeds of the same images; ``bpd_seed_spread`` is
their standard deviation. Pictures are those of the first seed.

Invariants (``tests/test_evaluation.py``): the mean of ``per_image.csv`` is the number in
``metrics.json``; errors follow their formulas; an impossible image makes the number infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitsperdim.data.preparation import Description, PreparedImages
from bitsperdim.estimation import Estimate, estimate
from bitsperdim.models import ImageModel, LatentModel, n_parameters
from bitsperdim.params import EvaluateSection
from bitsperdim.pictures import write_grid
from bitsperdim.units import bits_per_dim, nats_to_bits_per_dim

PER_IMAGE_COLUMNS = ("seed", "image", "log_p", "standard_error", "bias", "elbo", "ess")
BOUND_COLUMNS = ("n_samples", "bpd", "nll_nats", "standard_error_nats")


@dataclass(frozen=True)
class Evaluation:
    """What is written for one model.

    Attributes:
        metrics: for ``metrics.json``.
        per_image: rows for ``per_image.csv``.
        bound: rows for ``bound_against_k.csv``, the mean over seeds and images.
    """

    metrics: dict[str, Any]
    per_image: list[dict[str, float | int]]
    bound: list[dict[str, float | int]]


def evaluate_seed(
    model: ImageModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    device: torch.device,
    progress: Any = None,  # noqa: ANN401 - a callable, see estimate
) -> Estimate:
    """Estimate the whole test set under one seed's weights."""
    labels = prepared.labels.get("test")
    return estimate(
        model.to(device).eval(),
        torch.from_numpy(prepared.images["test"]),
        section.n_samples,
        chunk_size=section.chunk_size,
        batch_size=section.batch_size,
        generator=torch.Generator(device).manual_seed(section.seed),
        labels=None if labels is None else torch.from_numpy(labels),
        noise=torch.from_numpy(prepared.noise["test"]),
        progress=progress,
    )


def summarise(estimates: Mapping[int, Estimate], model: ImageModel, description: Description) -> Evaluation:
    """Turn the estimates of all seeds into metrics and rows.

    Args:
        estimates: seed -> estimate, at least one, of the same images.
        model: any of the seeds' models, for what does not depend on weights.
        description: of the images.
    """
    shape = description.image_shape
    first = next(iter(estimates.values()))
    log_p = torch.stack([item.log_p for item in estimates.values()])  # (seeds, N)
    n_seeds, n_images = log_p.shape
    over_seeds = log_p.mean(0)
    elbo = torch.stack([item.elbo for item in estimates.values()]).mean()
    bias = float(torch.stack([item.bias for item in estimates.values()]).mean())
    variances = torch.stack([item.standard_error for item in estimates.values()]).square()
    monte_carlo_error = math.sqrt(float(variances.sum())) / (n_seeds * n_images)
    test_error = spread_over_images(over_seeds)
    ess = torch.stack([item.ess for item in estimates.values()])
    nll = -float(over_seeds.mean())
    metrics: dict[str, Any] = {
        "kind": first.kind,
        "protocol": description.protocol,
        "test_sha256": description.test_sha256,
        "n_images": n_images,
        "n_seeds": n_seeds,
        "n_samples": first.n_samples,
        "n_parameters": n_parameters(model),
        "bpd": bits_per_dim(-nll, shape),
        "bpd_standard_error": nats_to_bits_per_dim(test_error, shape),
        "bpd_monte_carlo_error": nats_to_bits_per_dim(monte_carlo_error, shape),
        "nll_nats": nll,
        "nll_nats_standard_error": test_error,
        "nll_nats_monte_carlo_error": monte_carlo_error,
        "log_p_bias_nats": bias,
        "bias_exceeds_standard_error": abs(bias) > test_error,
        "elbo_nats": float(elbo),
        "ess_median": float(ess.median()),
        "ess_smallest": float(ess.min()),
        "n_impossible_images": int(over_seeds.isneginf().sum()),
    }
    if n_seeds > 1:
        per_seed = bits_per_dim(log_p.mean(1), shape)
        metrics["bpd_seed_spread"] = float(per_seed.std())
        metrics["bpd_by_seed"] = {str(seed): float(value) for seed, value in zip(estimates, per_seed, strict=True)}
    return Evaluation(metrics, _per_image(estimates), _bound(estimates, shape))


def spread_over_images(log_p: torch.Tensor) -> float:
    """Return the standard deviation over images / sqrt(N), in nats; infinite for one image or an infinite log_p."""
    if len(log_p) < 2 or not bool(log_p.isfinite().all()):
        return math.inf
    return float(log_p.std()) / math.sqrt(len(log_p))


def _per_image(estimates: Mapping[int, Estimate]) -> list[dict[str, float | int]]:
    rows = []
    for seed, item in estimates.items():
        columns = {name: getattr(item, name).tolist() for name in PER_IMAGE_COLUMNS[2:]}
        for image in range(len(item.log_p)):
            rows.append({"seed": seed, "image": image, **{name: column[image] for name, column in columns.items()}})
    return rows


def _bound(estimates: Mapping[int, Estimate], shape: tuple[int, int, int]) -> list[dict[str, float | int]]:
    sizes = next(iter(estimates.values())).block_sizes
    bounds = torch.stack([item.bounds for item in estimates.values()]).mean(0)  # (sizes, N)
    rows: list[dict[str, float | int]] = []
    for size, bound in zip(sizes, bounds, strict=True):
        mean = float(bound.mean())
        row = {"n_samples": size, "bpd": bits_per_dim(mean, shape), "nll_nats": -mean}
        rows.append({**row, "standard_error_nats": spread_over_images(bound)})
    return rows


@torch.no_grad()
def draw_pictures(
    folder: Path, model: ImageModel, prepared: PreparedImages, section: EvaluateSection, device: torch.device
) -> None:
    """Write ``samples.png`` and, for models with a latent code, ``reconstructions.png``.

    In the latter each test image stands above the mean of p(x given z) at the mean of its code.
    """
    model = model.to(device).eval()
    generator = torch.Generator(device).manual_seed(section.seed)
    labels = prepared.labels.get("test")
    drawn_labels = None if labels is None else torch.from_numpy(np.resize(labels, section.n_pictures)).to(device)
    samples = model.sample(section.n_pictures, labels=drawn_labels, generator=generator).cpu().numpy()
    write_grid(folder / "samples.png", samples, model.n_levels)
    if isinstance(model, LatentModel):
        n_columns = max(1, math.isqrt(section.n_pictures))
        x = torch.from_numpy(prepared.images["test"][: n_columns * max(1, n_columns // 2)]).to(device)
        pairs = torch.stack([x.double(), model.reconstruct(x).double()]).cpu().numpy()  # (2, B, C, H, W)
        grey = np.rint(pairs * 255 / (model.n_levels - 1)).astype(np.uint8)
        rows = [grey[:, start : start + n_columns] for start in range(0, len(x), n_columns)]
        interleaved = np.concatenate([row.reshape(-1, *model.image_shape) for row in rows])
        write_grid(folder / "reconstructions.png", interleaved, 256, n_columns)
