"""Scoring of all seeds of a model on the test images, and further methods on some images for the first seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bitsperdim.config.params import EvaluateSection
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.evaluation import contrast, latent_code, scoring
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.evaluation.summary import Evaluation, summarise
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
    """Score the test images with the weights of every seed.

    Args:
        name: name of the model, for announcements.
        trained: mapping from seed to model, with at least one model.
        prepared: prepared images with the test split, and with the training split if noise is fitted.
        section: evaluation settings.
        places: mapping from seed to the place where its finished images are stored.
        device: device on which to compute.

    Returns:
        Mapping from seed to estimate; the comparison with the replaced method on some images; metrics of a latent code.
        The last two belong to the first seed.

    Raises:
        InputError: a model cannot be evaluated.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    estimates = {
        seed: scoring.evaluate_seed(
            model,
            prepared,
            section,
            seed,
            device,
            title=f"evaluate {name} seed {seed}",
            checkpoint=places[seed],
        )
        for seed, model in trained.items()
    }
    seed, model = next(iter(trained.items()))
    of_first = (model, prepared, estimates[seed], section, device, places[seed])
    return estimates, contrast.contrast(*of_first), latent_code.of_the_code(*of_first)


def summarised(
    scored: Scored,
    model: ImageModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    seen: tuple[np.ndarray, np.ndarray],
) -> Evaluation:
    """Compute metrics and rows of all seeds.

    Args:
        scored: result of :func:`score_seeds`.
        model: model of any of the seeds.
        prepared: prepared images with the test split.
        section: evaluation settings.
        seen: result of :func:`bitsperdim.evaluation.training_images.seen`.
    """
    estimates, before, of_the_code = scored
    in_train, near_train = seen
    return summarise(
        estimates,
        model,
        prepared.description,
        scoring.proposal_of(model, section),
        same_as=prepared.same_as["test"],
        in_train=in_train,
        near_train=near_train,
        log_p_true=prepared.log_p_true.get("test"),
        of_the_code=of_the_code,
        contrast=before,
    )
