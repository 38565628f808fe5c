"""All seeds of a model scored on the test images, and beside the first what other methods say of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bitsperdim.config.params import EvaluateSection
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.evaluation import contrast, latent_code, scoring
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.models import ImageModel
from bitsperdim.runtime.checkpoints import Checkpoint

Scored = tuple[dict[int, Estimate], contrast.Contrast | None, dict[str, Any]]


def score_seeds(
    name: str,
    trained: Mapping[int, ImageModel],
    prepared: PreparedImages,
    section: EvaluateSection,
    places: Mapping[int, Checkpoint],
    device: torch.device,
) -> Scored:
    """Score the test images under the weights of every seed.

    Args:
        name: of the model, for what is announced.
        trained: seed -> model, at least one.
        prepared: with the test split, and the training split if noise is fitted.
        section: of the evaluation.
        places: seed -> where its finished images are kept.
        device: where it is done.

    Returns:
        Seed -> estimate; what some images are given by what was refined or replaced; metrics of a latent code. The last
        two are of the first seed.

    Raises:
        InputError: a model cannot be evaluated.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    estimates = {
        seed: scoring.evaluate_seed(
            *(model, prepared, section, seed, device),
            title=f"evaluate {name} seed {seed}",
            checkpoint=places[seed],
        )
        for seed, model in trained.items()
    }
    seed, model = next(iter(trained.items()))
    of_first = (model, prepared, estimates[seed], section, device, places[seed])
    return estimates, contrast.contrast(*of_first), latent_code.of_the_code(*of_first)
