"""Checks that a repeated computation gives the same number: with the same seed, alone or in a batch, in training mode.

A correct model fails these checks only with the probability that their level states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from bitsperdim.auditing.check import LEVEL, N_LOOKED_AT, Case, Check, failed, not_applicable, passed
from bitsperdim.core.units import nats_to_bits_per_dim
from bitsperdim.evaluation.evaluate import ask, scored
from bitsperdim.evaluation.images import Data
from bitsperdim.models.external.methods import module_of

ROUNDING = 1e-4  # tolerated rounding for another shape: this share of log P, plus as many nats per sub-pixel
Z = float(-ndtri(LEVEL / 2))


def repeatable(case: Case) -> Check:
    """Score the same images twice, with the same random numbers."""
    name = "repeatable"
    if case.asked is None:
        return not_applicable(name, "Only numbers were given, without a model.")
    rows = case.rows()
    images, labels = case.images(rows), case.labels(rows)
    first, second = (case.scores(images, labels=labels).log_p for _ in range(2))
    size = case.in_bits_per_dim(float((second - first).abs().max()))
    if size == 0 or torch.equal(first, second):
        words = "Scored twice with the same seed, the same images get identical numbers."
        return passed(name, words, "random numbers that do not depend on the seed, such as dropout", 0.0)
    if size <= case.in_bits_per_dim(_rounding(case, first)):
        words = f"Scored twice with the same seed, numbers differ by {size:.1g} bits/dim, which is rounding."
        catches = "random numbers that do not depend on the seed"
        return passed(name, words, catches, case.in_bits_per_dim(_rounding(case, first)))
    return failed(
        name,
        f"Scored twice with the same seed, log P(x) of an image differs by up to {size:.2g} bits/dim: the model draws "
        f"random numbers that no seed governs, or keeps a state.",
        size,
    )


def alone_or_in_a_batch(case: Case) -> Check:
    """Score images alone, in a batch, and among other images."""
    name = "alone or in a batch"
    if case.asked is None:
        return not_applicable(name, "Only numbers were given, without a model.")
    rows = case.rows(min(8, N_LOOKED_AT))
    images, labels = case.images(rows), case.labels(rows)
    together = case.scores(images, labels=labels)
    alone = [
        case.scores(
            images[index : index + 1], labels=None if labels is None else labels[index : index + 1], seed=index + 1
        )
        for index in range(len(images))
    ]
    others = (case.data.n_levels - 1) - images
    mixed = torch.cat([images, others])
    among = case.scores(mixed, labels=None if labels is None else torch.cat([labels, labels]), seed=len(images) + 1)
    found: list[tuple[str, Tensor, Tensor]] = [
        ("alone", torch.cat([each.log_p for each in alone]), torch.cat([each.standard_error for each in alone])),
        ("among inverted images", among.log_p[: len(images)], among.standard_error[: len(images)]),
    ]
    catches = "a number that depends on the other images in the batch, as with batch statistics"
    if not case.is_sampled:
        worst = max((values - together.log_p).abs().max() for _, values, _ in found)
        tolerance = _rounding(case, together.log_p)
        if float(worst) <= tolerance:
            words = "Each image gets the same number alone, in a batch and among other images."
            return passed(name, words, catches, case.in_bits_per_dim(tolerance))
        where, values, _ = max(found, key=lambda item: float((item[1] - together.log_p).abs().max()))
        size = case.in_bits_per_dim(float((values - together.log_p).abs().max()))
        return failed(
            name,
            f"log P(x) of an image {where} is off by up to {size:.2g} bits/dim from the same image in a batch.",
            size,
        )
    level_z = float(-ndtri(LEVEL / 2 / len(found)))
    for where, values, errors in found:
        difference = float((values - together.log_p).mean())
        error = float((errors.square() + together.standard_error.square()).sum().sqrt()) / len(images)
        error = max(error, float((values - together.log_p).std()) / len(images) ** 0.5)
        if abs(difference) > level_z * error + _rounding(case, together.log_p):
            size = case.in_bits_per_dim(abs(difference))
            return failed(
                name,
                f"The mean of log P(x) of images {where} is off by {size:.2g} bits/dim from that in a batch.",
                size,
                LEVEL,
            )
    error = max(
        float((errors.square() + together.standard_error.square()).sum().sqrt()) / len(images) for _, _, errors in found
    )
    words = "The numbers alone, in a batch and among other images agree within their Monte Carlo errors."
    return passed(name, words, catches, case.in_bits_per_dim(2 * level_z * error), LEVEL)


def training_mode(model: object, data: Data, asking: Mapping[str, Any], scoring: Mapping[str, Any]) -> Check:
    """Report the number that a model would get in training mode, and leave the model in evaluation mode."""
    name = "evaluation mode"
    module = module_of(model)
    if module is None:
        return not_applicable(name, "The model has no torch.nn.Module.")
    part = data.subset(min(N_LOOKED_AT, len(data.images)), 0)
    module.eval()
    asked = ask(model, part, **asking)
    in_evaluation = -scored(asked, part, **{**scoring, "proposal": "encoder", "checkpoint": None}).nats
    images = torch.from_numpy(part.images).to(asked.model.device)
    labels = None if part.labels is None else torch.from_numpy(part.labels).to(asked.model.device)
    n_samples = 1 if asked.model.is_exact else int(scoring["n_samples"])
    module.train()
    with torch.no_grad():
        log_w = asked.model.unchecked_log_weights(images, n_samples, labels=labels).double()
    module.eval()
    in_training = float((torch.logsumexp(log_w, 0) - math.log(len(log_w))).mean())
    size = nats_to_bits_per_dim(abs(in_training - in_evaluation), data.image_shape)
    if size <= ROUNDING:
        words = (
            "The model was given in training mode, which does not change its number; it is scored in evaluation mode."
        )
        return passed(name, words, "dropout or batch statistics in use", ROUNDING)
    return failed(
        name,
        f"The model was given in training mode, in which {len(part.images)} images have a number {size:.2g} bits/dim "
        f"away; it is scored in evaluation mode, but call model.eval() yourself.",
        size,
    )


def _rounding(case: Case, log_p: Tensor) -> float:
    """Return the tolerated rounding, in nats per image, between two shapes of the same computation."""
    scale = 1.0 if case.model.dtype == torch.float32 else 1e-6 if case.model.dtype == torch.float64 else 1e2
    return ROUNDING * scale * (float(log_p.abs().max()) + float(np.prod(case.data.image_shape)))
