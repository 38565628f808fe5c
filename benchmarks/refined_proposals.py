"""Measure the cost of refined proposals relative to the encoder's: 784-200-200-50, Bernoulli, K = 5,000, the defaults.

The model is the trained model of the recipe ``mnist-dynamic-vae-l1``, and the images are drawn from it. They are
evaluated with both proposals in turns, so that other load on the machine affects both; the ratio is the median over
turns. The refinement costs gradients and pilot samples. Images with a small effective sample size get more rounds. The
second row shows the worst case, in which all images get all rounds. The target is a ratio of at most 2.

    python benchmarks/refined_proposals.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from importance_sampling import CHUNK, N_SAMPLES
from measuring import heading, seconds, table
from torch import Tensor

from bitsperdim import models
from bitsperdim.config.params import RefinedSection
from bitsperdim.evaluation import covariance, refined
from bitsperdim.evaluation.estimate import estimated_rows
from bitsperdim.models.vae import VAE

N_IMAGES, N_TURNS = 100, 5
TRAINED = Path(__file__).resolve().parents[1] / "recipes" / "weights" / "mnist-dynamic-vae-l1" / "vae" / "0"


def evaluated(model: VAE, images: Tensor, section: RefinedSection | None) -> refined.Refined | None:
    found = None if section is None else refined.refine(model, images, section, refined.generators_of(range(N_IMAGES)))
    generator = torch.Generator().manual_seed(1)
    proposal = None if found is None else found.proposal
    estimated_rows(model, images, N_SAMPLES, chunk_size=CHUNK, generator=generator, encoded=proposal)
    return found


def ratio(model: VAE, images: Tensor) -> list[str]:
    section = RefinedSection()
    ratios = []
    works: list[Callable[[], object]] = [
        lambda: evaluated(model, images, None),
        lambda: evaluated(model, images, section),
    ]
    for _ in range(N_TURNS):
        plain, more = (seconds(work) for work in works)
        ratios.append(more / plain)
    found = evaluated(model, images, section)
    assert found is not None
    gradients, rounds = found.n_gradients.double().mean(), found.n_rounds.double().mean()
    return [f"{statistics.median(ratios):.2f}", f"{float(gradients):.0f}", f"{float(rounds):.2f}"]


def main() -> None:
    model = models.load(TRAINED, "vae").eval()
    assert isinstance(model, VAE)
    with torch.no_grad():
        images = model.sample(N_IMAGES, generator=torch.Generator().manual_seed(0))
    heading(f"Refined proposals, 784-200-200-50, K = {N_SAMPLES:,}, {N_IMAGES} images")
    rows = [["default", *ratio(model, images)]]
    with mock.patch.object(covariance, "ENOUGH_ESS", 2.0):
        rows.append(["every image gets all rounds", *ratio(model, images)])
    table(("images", "time, encoder = 1", "gradients per image", "rounds"), rows)


if __name__ == "__main__":
    main()
