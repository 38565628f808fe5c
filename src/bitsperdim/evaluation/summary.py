"""Summary of the evaluation of a model: numbers with their errors, per image and for the whole test set.

:mod:`bitsperdim.core.metrics` lists the keys of ``metrics.json`` with their units.

Every number here is a function of the weights, the test images and the parameters. It does not depend on the time, the
device or the commit.

There are these kinds of errors, which must not be added up:

- The *test-set error* is the spread of log P(x) over images / sqrt(N): how much the number would change with another
  test set. It already contains the Monte Carlo noise. Copies of an image count once
  (:func:`bitsperdim.estimators.log_weights.mean_error`).
- The *Monte Carlo error* is how much the number would change with another draw of the K samples.
- The *solver error* is what the steps of a differential equation leave (:mod:`bitsperdim.estimators.solver`). If it is
  more than a tenth of the Monte Carlo error, the number is an ``estimate`` and not a bound.
- The *bias* of the importance-weighted bound is reported separately, and flagged if it exceeds the test-set error: then
  the number depends more on K than on the model.

The Monte Carlo error and the bias can be trusted only if the effective sample size is not small;
``ess_below_10_share`` is the share of the images for which it is small. From K = 1,000 on, ``pareto_k_high_share`` is
the share of the images whose weights have such a heavy tail that neither can be trusted at any affordable K.
``too_few_samples`` is set if either share is above 5 %, or if the bias is above the test-set error.

``nll_jackknife_nats`` and ``nll_extrapolated_nats`` remove the leading bias; they are estimates, not bounds. The
jackknife gets an error, as an estimate of log P(x) of these images, only if the weights are known to have light tails:
K is at least 1,000, at most 2 % of the images have a small effective sample size, and at most 2 % have a k-hat above
the limit. This error is the root of the sum of the squares of the Monte Carlo error and of the difference between the
two estimates. Both estimates remove the bias that falls as 1 / K, in different ways, and differ in the bias that does
not. In all other cases the error of the two estimates is not known, and is not reported.

With several seeds, the number is the mean over seeds for the same images; ``bpd_seed_spread`` is the standard deviation
over seeds. Each seed has its own importance samples, but all seeds share the dequantization noise of the first sample.
Pictures show the model of the first seed.

Images are scored in blocks, each with its own random numbers. Several processes can therefore share the blocks, and
interrupted evaluation resumes with the remaining ones: see :mod:`bitsperdim.runtime.shards`.

Test images that are also training images (:mod:`bitsperdim.data.repeated`) measure how well a model memorizes. If there
are any, ``bpd_without_training_images`` is the number for the other images. If some test images are nearly training
images (:mod:`bitsperdim.data.near`), ``bpd_without_near_training_images`` is the number without both kinds.

For images that were drawn from a known distribution, ``truth`` compares the model with that distribution.

A flow without dequantization noise has the kind ``density``: its number is a density at integers, which is not a
likelihood, and is not compared with other numbers.

Invariants (``tests/evaluation/test_summary.py``): the mean of ``per_image.csv`` is the number in ``metrics.json``;
errors follow their formulas; an image with probability 0 makes the number infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitsperdim.core.files import write_csv
from bitsperdim.core.labels import TOLERATED_SHARE
from bitsperdim.core.metrics import Metrics, TruthMetrics
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.data.prepared import Description
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.estimators.pareto import JUDGED_FROM, pareto_k_limit
from bitsperdim.estimators.solver import SolverError, solver_error
from bitsperdim.estimators.truth import LEVEL, against_truth
from bitsperdim.evaluation.contrast import Contrast
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.models import ImageModel, LatentModel

OF_ESTIMATES = ("log_p", "standard_error", "bias", "elbo", "ess", "pareto_k")
PER_IMAGE_COLUMNS = ("seed", "image", *OF_ESTIMATES, "same_as", "in_train", "near_train")
BOUND_COLUMNS = ("n_samples", "bpd", "nll_nats", "standard_error_nats")
CONTRAST_COLUMNS = ("contrast_bpd", "gain_nats", "gain_nats_standard_error")  # only if there is a contrast
NEGLIGIBLE = 0.1  # largest share of the Monte Carlo error for which a solver error is negligible
LIGHT_SHARE = 0.02  # largest share of images with a small ESS or a heavy tail for which the jackknife gets an error


@dataclass(frozen=True)
class Evaluation:
    """Results of the evaluation of one model, as they are written to files.

    Attributes:
        metrics: content of ``metrics.json``.
        per_image: rows of ``per_image.csv``.
        bound: rows of ``bound_against_k.csv``, means over seeds and images. If some images were scored again with the
            replaced proposal or noise, the curve of that method is the curve of all images, shifted by the paired
            difference on those images.
    """

    metrics: Metrics
    per_image: list[dict[str, float | int]]
    bound: list[dict[str, float | int]]

    @property
    def bound_columns(self) -> tuple[str, ...]:
        """The columns of ``bound_against_k.csv``."""
        return (*BOUND_COLUMNS, *(CONTRAST_COLUMNS if CONTRAST_COLUMNS[0] in self.bound[0] else ()))

    def write(self, folder: Path) -> None:
        """Write ``per_image.csv``, ``bound_against_k.csv`` and ``metrics.json`` into a folder."""
        write_csv(folder / "per_image.csv", PER_IMAGE_COLUMNS, self.per_image)
        write_csv(folder / "bound_against_k.csv", self.bound_columns, self.bound)
        self.metrics.write(folder / "metrics.json")


def summarise(
    estimates: Mapping[int, Estimate],
    model: ImageModel,
    description: Description,
    proposal: str | None = "encoder",
    *,
    same_as: np.ndarray | None = None,
    in_train: np.ndarray | None = None,
    near_train: np.ndarray | None = None,
    log_p_true: np.ndarray | None = None,
    of_the_code: Mapping[str, Any] | None = None,
    contrast: Contrast | None = None,
) -> Evaluation:
    """Compute metrics and rows from the estimates of all seeds.

    Args:
        estimates: mapping from seed to estimate, at least one, all for the same images.
        model: model of any of the seeds, for properties that do not depend on the weights.
        description: description of the images.
        proposal: proposal from which the samples of a latent code were drawn.
        same_as: for each test image, the index of the first equal one, (N,); None: all are distinct.
        in_train: whether each test image is also a training image, (N,); None: no test image is.
        near_train: whether each test image is nearly a training image, (N,); None: no test image is.
        log_p_true: true log-probability of each test image, (N,), in nats; None: it is not known.
        of_the_code: metrics of a latent code from :func:`bitsperdim.evaluation.latent_code.of_the_code`.
        contrast: scores of some images with the encoder's proposal, if it was refined, or with the density's own noise,
            if it was replaced.

    Raises:
        pydantic.ValidationError: a metric is missing, is unknown, or has another type than in its definition.
    """
    shape = description.image_shape
    first = next(iter(estimates.values()))
    log_p = torch.stack([item.log_p for item in estimates.values()])  # (seeds, N)
    n_seeds, n_images = log_p.shape
    groups = torch.arange(n_images) if same_as is None else torch.from_numpy(same_as)
    seen = torch.zeros(n_images, dtype=torch.bool) if in_train is None else torch.from_numpy(in_train)
    near = torch.zeros_like(seen) if near_train is None else torch.from_numpy(near_train) & ~seen
    over_seeds = log_p.mean(0)
    elbo = torch.stack([item.elbo for item in estimates.values()]).mean()
    bias = float(torch.stack([item.bias for item in estimates.values()]).mean())
    variances = torch.stack([item.standard_error for item in estimates.values()]).square()
    monte_carlo_error = math.sqrt(float(variances.sum())) / (n_seeds * n_images)
    test_error = mean_error(over_seeds, groups)
    ess = torch.stack([item.ess for item in estimates.values()])
    small_ess = sum(item.small_ess_share for item in estimates.values()) / n_seeds
    if model.draws_bounds and first.n_samples > 1:
        small_ess = 0.0  # draws of a bound have no weights; a single draw does not show its Monte Carlo error
    bias_exceeds = abs(bias) > test_error
    k_hat = torch.stack([item.pareto_k for item in estimates.values()])
    high_k = float((k_hat > pareto_k_limit(first.n_samples)).double().mean())
    nll = -float(over_seeds.mean())
    solver = _solver_error(estimates, model)
    is_estimate = solver is not None and not solver.nats <= NEGLIGIBLE * monte_carlo_error
    metrics: dict[str, Any] = {
        "kind": "estimate" if is_estimate else first.kind,
        "protocol": protocol_of(model, description),
        "test_sha256": description.test_sha256,
        "n_images": n_images,
        "n_distinct_images": len(groups.unique()),
        "n_training_images": int(seen.sum()),
        "n_near_training_images": int(near.sum()),
        "n_seeds": n_seeds,
        "n_samples": first.n_samples,
        "n_parameters": model.n_parameters,
        "bpd": bits_per_dim(-nll, shape),
        "bpd_standard_error": nats_to_bits_per_dim(test_error, shape),
        "bpd_monte_carlo_error": nats_to_bits_per_dim(monte_carlo_error, shape),
        "nll_nats": nll,
        "nll_nats_standard_error": test_error,
        "nll_nats_monte_carlo_error": monte_carlo_error,
        "log_p_bias_nats": bias,
        "bias_exceeds_standard_error": bias_exceeds,
        "too_few_samples": bias_exceeds or small_ess > TOLERATED_SHARE or high_k > TOLERATED_SHARE,
        "elbo_nats": float(elbo),
        "ess_median": float(ess.median()),
        "ess_smallest": float(ess.min()),
        "ess_below_10_share": small_ess,
        "n_impossible_images": int(over_seeds.isneginf().sum()),
    }
    if (
        first.kind == "lower" and first.n_samples > 1 and math.isfinite(nll) and not model.draws_bounds
    ):  # an infinite number has no bias to remove
        for name, values in (("jackknife", "jackknife"), ("extrapolated", "extrapolation")):
            found = torch.stack([getattr(item, values) for item in estimates.values()])
            metrics[f"nll_{name}_nats"] = -float(found.mean())
        disagreement = metrics["nll_jackknife_nats"] - metrics["nll_extrapolated_nats"]
        is_light = first.n_samples >= JUDGED_FROM and max(small_ess, high_k) <= LIGHT_SHARE
        if is_light and math.isfinite(disagreement):
            metrics["nll_jackknife_nats_error"] = math.hypot(monte_carlo_error, disagreement)
    if first.kind == "lower" and first.n_samples >= JUDGED_FROM:
        metrics |= {
            "pareto_k_limit": pareto_k_limit(first.n_samples),
            "pareto_k_high_share": high_k,
        }
        if bool((~k_hat.isnan()).any()):
            metrics["pareto_k_median"] = float(k_hat[~k_hat.isnan()].median())
    if 0 < int(seen.sum()) < n_images:
        metrics["bpd_without_training_images"] = bits_per_dim(float(over_seeds[~seen].mean()), shape)
    if bool(near.any()) and bool((others := ~(seen | near)).any()):
        error = nats_to_bits_per_dim(mean_error(over_seeds[others], groups[others]), shape)
        metrics["bpd_without_near_training_images"] = bits_per_dim(float(over_seeds[others].mean()), shape)
        metrics["bpd_without_near_training_images_standard_error"] = error
    if isinstance(model, LatentModel):
        metrics["proposal"] = proposal
    if first.noise is not None:
        metrics["noise"] = first.noise
    if solver is not None:
        metrics["solver"] = {
            "error_nats": solver.nats,
            "error_bpd": nats_to_bits_per_dim(solver.nats, shape),
            "order": model.solver_order,
            "observed_order": solver.observed_order,
        }
    if first.costs is not None:
        costs = torch.cat([item.costs for item in estimates.values() if item.costs is not None])
        gradients, pilot, _ = costs.mean(0).tolist()
        metrics["refined"] = {
            "gradients_per_image": gradients,
            "pilot_samples_per_image": pilot,
            "has_covariance": bool((costs[:, 2] > 0).any()),
            "more_rounds_share": float((costs[:, 2] > 1).double().mean()),
        }
    if contrast is not None:
        metrics["contrast"] = contrast.metrics(shape)
    if n_seeds > 1:
        per_seed = bits_per_dim(log_p.mean(1), shape)
        metrics["bpd_seed_spread"] = float(per_seed.std()) if bool(per_seed.isfinite().all()) else math.inf
        metrics["bpd_by_seed"] = {str(seed): float(value) for seed, value in zip(estimates, per_seed, strict=True)}
    leaks = [item.largest_leaked_gradient for item in estimates.values() if item.largest_leaked_gradient is not None]
    if leaks:
        metrics["largest_leaked_gradient"] = max(leaks)
    if log_p_true is not None and first.kind != "density":
        metrics["truth"] = _against_truth(estimates, model, log_p_true, shape)
    metrics |= origin_of(model)
    return Evaluation(
        Metrics(**metrics, **(of_the_code or {})),
        _per_image(estimates, groups, seen, near),
        _bound(estimates, shape, groups, contrast),
    )


def _solver_error(estimates: Mapping[int, Estimate], model: ImageModel) -> SolverError | None:
    """Return the solver error of the mean over images and seeds; None if no equation is solved."""
    found = [item.solver for item in estimates.values() if item.solver is not None]
    return solver_error(torch.cat(found), model.solver_order) if found and model.solver_order is not None else None


def _against_truth(
    estimates: Mapping[int, Estimate], model: ImageModel, log_p_true: np.ndarray, shape: tuple[int, int, int]
) -> TruthMetrics:
    """Compare every seed with the truth, each at an equal share of the level; the excess is for the mean over seeds."""
    of_seeds = [
        against_truth(
            item.log_p.numpy(),
            log_p_true,
            bound_errors=item.standard_error.numpy() if model.draws_bounds else None,
            n_draws=item.n_samples,
            solver_error=0.0 if (solver := _solver_error({0: item}, model)) is None else solver.nats,
            level=LEVEL / len(estimates),
        )
        for item in estimates.values()
    ]
    strongest = max(of_seeds, key=lambda found: found.evidence - found.critical)
    over_seeds = torch.stack([item.log_p for item in estimates.values()]).mean(0)
    mean = against_truth(over_seeds.numpy(), log_p_true)
    return TruthMetrics(
        bpd=bits_per_dim(float(log_p_true.mean()), shape),
        excess_bpd=nats_to_bits_per_dim(mean.excess, shape),
        excess_bpd_standard_error=nats_to_bits_per_dim(mean.standard_error, shape),
        evidence_nats=strongest.evidence,
        critical_nats=strongest.critical,
        level=LEVEL,
        is_refuted=any(found.is_refuted for found in of_seeds),
    )


def origin_of(model: ImageModel) -> dict[str, Any]:
    """Return the origin of a model that was made elsewhere, and whether its kind is verified or only declared.

    The kind is verified for logits, because they are normalized here and were checked not to look ahead. For every
    other method the kind is only declared by the model.
    """
    if model.origin is None:
        return {}
    kept = {key: value for key, value in model.origin.items() if key != "files"}
    return {"origin": kept, "verified": model.origin["offers"] == "logits"}


def protocol_of(model: ImageModel, description: Description) -> str:
    """Return the protocol tag of a number; it shows whether the model is conditioned on labels."""
    return description.protocol if model.n_classes is None else description.protocol_given_labels()


def _per_image(
    estimates: Mapping[int, Estimate], same_as: torch.Tensor, in_train: torch.Tensor, near_train: torch.Tensor
) -> list[dict[str, float | int]]:
    rows = []
    of_images = {"same_as": same_as.tolist(), "in_train": in_train.int().tolist()}
    of_images["near_train"] = near_train.int().tolist()
    for seed, item in estimates.items():
        columns = {name: getattr(item, name).tolist() for name in OF_ESTIMATES} | of_images
        for image in range(len(item.log_p)):
            rows.append({"seed": seed, "image": image, **{name: column[image] for name, column in columns.items()}})
    return rows


def _bound(
    estimates: Mapping[int, Estimate], shape: tuple[int, int, int], same_as: torch.Tensor, contrast: Contrast | None
) -> list[dict[str, float | int]]:
    sizes = next(iter(estimates.values())).block_sizes
    bounds = torch.stack([item.bounds for item in estimates.values()]).mean(0)  # (sizes, N)
    rows: list[dict[str, float | int]] = []
    for place, (size, bound) in enumerate(zip(sizes, bounds, strict=True)):
        mean = float(bound.mean())
        row = {"n_samples": size, "bpd": bits_per_dim(mean, shape), "nll_nats": -mean}
        row["standard_error_nats"] = mean_error(bound, same_as)
        if contrast is not None:
            gain, error = contrast.gain(place)
            row |= dict(zip(CONTRAST_COLUMNS, (bits_per_dim(mean - gain, shape), gain, error), strict=True))
        rows.append(row)
    return rows
