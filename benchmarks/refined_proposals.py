"""What refined proposals cost beside the encoder's: 784-200-200-50, Bernoulli, K = 5,000, the default parameters.

The same images are evaluated with both, in turns, so that what else the machine does hits both; the ratio is the median
over turns. The refinement's share is that of the images' gradients and pilot samples. Images of which few samples count
get more rounds: how many do depends on the model, and the second row is of the worst case, in which all do. The goal
is a ratio of 2 at most.

    python benchmarks/refined_proposals.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from unittest import mock

import torch
from importance_sampling import CHUNK, N_SAMPLES, model_and_images
from measuring import heading, seconds, table
from torch import Tensor

from bitsperdim.config.params import RefinedSection
from bitsperdim.evaluation import covariance, refined
from bitsperdim.evaluation.estimate import estimated_rows
from bitsperdim.models.vae import VAE

N_IMAGES, N_TURNS = 20, 3


def evaluated(model: VAE, images: Tensor, section: RefinedSection | None) -> refined.Refined | None:
    found = None if section is None else refined.refine(model, images, section, refined.generators_of(range(N_IMAGES)))
    generator = torch.Generator().manual_seed(1)
    proposal = None if found is None else found.proposal
    estimated_rows(model, images, N_SAMPLES, chunk_size=CHUNK, generator=generator, encoded=proposal)
    return found


def ratio(model: VAE, images: Tensor) -> list[str]:
    section, found, ratios = RefinedSection(), None, []
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
    model, images = model_and_images(N_IMAGES)
    heading(f"Refined proposals, 784-200-200-50, K = {N_SAMPLES:,}, {N_IMAGES} images")
    rows = [["as it comes", *ratio(model, images)]]
    with mock.patch.object(covariance, "ENOUGH_ESS", 2.0):
        rows.append(["every image gets all rounds", *ratio(model, images)])
    table(("images", "time, encoder = 1", "gradients for each image", "rounds"), rows)


if __name__ == "__main__":
    main()
