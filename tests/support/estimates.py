"""Images, estimates and settings of the evaluator that several of its tests use."""

import numpy as np
import torch

from bitsperdim.config.params import EvaluateSection
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.estimators.log_weights import (
    bias,
    bound_against_k,
    effective_sample_size,
    extrapolation,
    jackknife,
    log_mean_exp,
    standard_error,
)
from bitsperdim.estimators.pareto import pareto_k
from bitsperdim.evaluation import summary
from bitsperdim.evaluation.estimate import Estimate
from support.cases import SMALL, small_model

SECTION = EvaluateSection(
    n_samples=12,
    chunk_size=5,
    batch_size=4,
    n_pictures=9,
    seed=0,
    proposal="encoder",
    annealed={"n_images": 3, "n_simulated": 2, "n_chains": 4, "n_steps": 3, "n_leapfrog": 2},  # type: ignore[arg-type]
)


def prepared(name: str, n: int = 10) -> PreparedImages:
    _, _, shape, n_levels = SMALL[name]
    rng = np.random.default_rng(0)
    images = {split: rng.integers(n_levels, size=(n, *shape), dtype=np.uint8) for split in ("train", "test")}
    description = Description(shape, n_levels, n_levels, "none", {"test": n}, "hash", "tag")
    return PreparedImages(description, images, noise={"test": rng.random((n, *shape), dtype=np.float32)})


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def fixed(log_p: list[float], standard_error: float = 0.0, bias: float = 0.0) -> Estimate:
    values = torch.tensor(log_p, dtype=torch.float64)
    return Estimate(
        kind="lower",
        n_samples=2,
        log_p=values,
        standard_error=torch.full_like(values, standard_error),
        bias=torch.full_like(values, bias),
        elbo=values - 1,
        ess=torch.full_like(values, 1.5),
        pareto_k=torch.full_like(values, torch.nan),
        jackknife=values + 1,
        extrapolation=values + 1,
        block_sizes=[1, 2],
        bounds=torch.stack([values - 1, values]),
    )


def summarise(estimates: dict[int, Estimate]) -> summary.Evaluation:
    description = Description((1, 2, 2), 3, 3, "none", {"test": 3}, "hash", "tag")
    return summary.summarise(estimates, small_model("vae-categorical"), description)


def estimated(log_w: torch.Tensor) -> Estimate:
    """What the evaluator says of log-weights (K, B)."""
    sizes, bounds = bound_against_k(log_w)
    return Estimate(
        kind="lower",
        n_samples=len(log_w),
        log_p=log_mean_exp(log_w),
        standard_error=standard_error(log_w),
        bias=bias(log_w),
        elbo=log_w.mean(0),
        ess=effective_sample_size(log_w),
        pareto_k=pareto_k(log_w) if len(log_w) >= 1_000 else torch.full_like(log_w[0], torch.nan),
        jackknife=jackknife(log_w),
        extrapolation=extrapolation(log_w),
        block_sizes=sizes,
        bounds=bounds,
    )
