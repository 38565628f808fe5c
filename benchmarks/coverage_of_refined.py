"""Measure how often Monte Carlo intervals contain log P(x), for default models with a latent code.

Run it after `dvc repro`: `PYTHONPATH=src python benchmarks/coverage_of_refined.py [MODEL ...]`. It takes about ten
minutes per model on one core.

The reference for log P(x) of each image is the estimate from K = 10^6 samples of the refined proposal. The samples come
in batches, each with its own random numbers and its own refinement, so that their spread gives the error of the
reference. It is compared with independent evaluations at the K of `params.yaml`, with the refined proposal and with the
encoder's. Each evaluation refines again. Two intervals are tested: the bound plus or minus 1.96 of its Monte Carlo
errors, and the jackknife plus or minus 1.96 of its total error (`nll_jackknife_nats_error`).

Shares are shares of (image, evaluation) pairs. Errors are computed from the spread over evaluations; they do not
include the variation over images or models. Mass that no sample of a refined proposal reaches is missing in both the
reference and the evaluations.
"""

import math
import sys
from pathlib import Path

import torch
from measuring import heading, table
from torch import Tensor

from bitsperdim import models
from bitsperdim.config.params import EvaluateSection, read_params
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import load_prepared
from bitsperdim.estimators.pareto import pareto_k_limit
from bitsperdim.evaluation import refined
from bitsperdim.evaluation.estimate import Estimate, estimated_rows

N_IMAGES, N_EVALUATIONS = 40, 20
K_OF_TRUTH, N_BATCHES, AT_ONCE = 1_000_000, 10, 64
ERRORS = 1.96  # half-width of the intervals, in errors


def log_p(model: models.LatentModel, images: Tensor, section: EvaluateSection, seed: int, k: int) -> Estimate:
    """Return an evaluation with the proposal of the section; each seed gives independent random numbers."""
    proposal = None
    if section.proposal == "refined":
        proposal = refined.refine(model, images, section.refined, refined.generators_of(range(len(images)), seed, 0))
    rows = estimated_rows(
        model,
        images,
        k,
        chunk_size=section.chunk_size,
        generator=stream("evaluation", seed, 0, 0),
        encoded=None if proposal is None else proposal.proposal,
    )
    return Estimate.of_rows(model, k, rows, None)


def truth_of(model: models.LatentModel, images: Tensor, section: EvaluateSection) -> tuple[Tensor, Tensor]:
    """Return the reference for log P(x) and its Monte Carlo error, (N,) nats each."""
    k = K_OF_TRUTH // N_BATCHES
    seeds = range(1_000, 1_000 + N_BATCHES)  # no evaluation uses these seeds
    asked = section.model_copy(update={"chunk_size": AT_ONCE})
    of_batches = torch.stack([log_p(model, images, asked, seed, k).log_p for seed in seeds])
    mean = torch.logsumexp(of_batches, dim=0) - math.log(N_BATCHES)
    return mean, (of_batches - mean).exp().std(0) / N_BATCHES**0.5


def shown(values: Tensor, more: float = 0.0, factor: float = 1.0, digits: int = 4) -> str:
    """Return the text of the mean over evaluations and its error, to which another error is added in quadrature."""
    error = math.hypot(float(values.std()) / len(values) ** 0.5, more)
    return f"{factor * float(values.mean()):.{digits}f} ± {factor * error:.{digits}f}"


def row(found: list[Estimate], truth: Tensor, error: Tensor) -> list[str]:
    """Return the cells of the table for all evaluations of one proposal.

    Args:
        found: the evaluations.
        truth: the reference for log P(x), (N,) nats.
        error: Monte Carlo error of the reference, (N,) nats.
    """

    def of_all(name: str) -> Tensor:
        return torch.stack([getattr(item, name) for item in found])  # (R, N)

    bound, noise, jackknife = of_all("log_p"), of_all("standard_error"), of_all("jackknife")
    of_jackknife = (noise.square() + (jackknife - of_all("extrapolation")).square()).sqrt()
    of_mean = noise.square().sum(1).sqrt() / len(truth)
    error_of_truth = float(error.square().sum().sqrt()) / len(truth)
    covered = ((bound - truth).abs() <= ERRORS * noise).double().mean(1)
    by_jackknife = ((jackknife - truth).abs() <= ERRORS * of_jackknife).double().mean(1)
    mean_covered = ((bound - truth).mean(1).abs() <= ERRORS * of_mean).double()
    heavy = (of_all("pareto_k") > pareto_k_limit(found[0].n_samples)).double()
    return [
        shown(covered, factor=100, digits=1),
        shown(by_jackknife, factor=100, digits=1),
        f"{int(mean_covered.sum())} of {len(found)}",
        shown((bound - truth).mean(1), error_of_truth),
        shown((jackknife - truth).mean(1), error_of_truth),
        f"{float(noise.mean()):.4f}",
        f"{100 * float(heavy.mean()):.0f} %",
    ]


@torch.no_grad()
def main() -> None:
    """Print a table for each model."""
    params = read_params(Path("params.yaml"))
    test = torch.from_numpy(load_prepared(Path("data/dequantized"), ("test",)).images["test"])
    images = test[torch.randperm(len(test), generator=stream("contrast_images", 0))[:N_IMAGES]]
    section = params.evaluate.model_copy(update={"proposal": "refined"})
    seed = params.seeds[0]
    for name in sys.argv[1:] or ("vae", "iwae"):
        model = models.load(Path("models") / name / str(seed), params.section(name).family).eval()
        if not isinstance(model, models.LatentModel):
            sys.exit(f"{name} has no latent code.")
        truth, error = truth_of(model, images, section)
        of_mean = float(error.square().sum().sqrt()) / len(truth)
        heading(f"{name}: {len(images)} test images, {N_EVALUATIONS} evaluations at K = {section.n_samples:,}")
        print(
            f"log P(x) by K = {K_OF_TRUTH:,}: mean {float(truth.mean()):.4f} ± {of_mean:.4f} nats; error of an image: "
            f"median {float(error.median()):.4f}, largest {float(error.max()):.4f}"
        )
        print()
        rows = []
        for proposal in ("refined", "encoder"):
            asked = section.model_copy(update={"proposal": proposal})
            found = [log_p(model, images, asked, i, section.n_samples) for i in range(N_EVALUATIONS)]
            rows.append([proposal, *row(found, truth, error)])
        table(
            (
                "proposal",
                "bound covers, %",
                "jackknife covers, %",
                "interval of the mean covers",
                "bias of the bound, nats",
                "bias of the jackknife, nats",
                "stated error per image, nats",
                "heavy tails",
            ),
            rows,
        )


if __name__ == "__main__":
    main()
