r"""The excess of each model family over the truth, on images whose likelihood is known.

Models of several families are trained on draws from a known distribution, as ``train`` does, and score test images that
are further draws, as ``evaluate`` does. For photographs, the divergence of a model from the truth cannot be separated
from the unknown entropy of the images. Here it can: it is estimated by the *excess*, the mean of
:math:`\log P_{true}(x) - \log P(x)`, in bits/dim, whose error is that of the differences. If the number of a model is a
bound, its excess also contains the gap of the bound, which :mod:`.estimators` studies.

No model may beat the truth: :func:`bitsperdim.estimators.truth.against_truth` tests each model.

The study also reports yardsticks: the truth itself, the entropy of independent sub-pixels (an estimate with its bias
removed), log2 L, and the entropy rate of the distribution. The entropy rate is the mean of -log P over all draws,
including the test images.

Invariants (``tests/studies/test_known_excess.py``): the numbers are those of models that are trained and scored one by
one; a model that beats the truth is refuted, and the truth itself is not; one seed gives one set of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bitsperdim.core.randomness import stream
from bitsperdim.core.units import bits_per_dim, nats_to_bits, nats_to_bits_per_dim
from bitsperdim.data.prepared import SPLITS, PreparedImages
from bitsperdim.data.yardsticks import empirical_entropy
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.estimators.truth import LEVEL, against_truth
from bitsperdim.evaluation.estimate import Estimate, estimate
from bitsperdim.evaluation.summary import summarise
from bitsperdim.sources.known import KNOWN, KnownDistribution
from bitsperdim.studies.known.drawn import drawn
from bitsperdim.training.trainer import train

if TYPE_CHECKING:
    from bitsperdim.config.families.base import TrainSection
    from bitsperdim.config.known import ExcessSection
    from bitsperdim.models import ImageModel

Rows = Sequence[Mapping[str, Any]]

CHUNK = 16  # samples at a time
BATCH = 120  # images at a time


def study(
    section: ExcessSection, shared: TrainSection, seed: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Train every family on every source, and compare each model with the truth.

    Args:
        section: sources, images and families.
        shared: shared settings of the trainer.
        seed: seed of images, training runs and samples.
        device: device on which models are trained and scored.

    Returns:
        The metrics of this part, and the rows of ``excess.csv``.

    Raises:
        InputError: a distribution is not defined for images of this shape and levels, or a training run failed.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    n_images = {"train": section.n_train, "validation": section.n_validation, "test": section.n_test}
    sources, rows = {}, []
    for name in section.sources:
        source = KNOWN[name](section.image_shape, section.n_levels, section.strength, section.n_components)
        images = drawn(source, n_images, seed)
        log_p_true = source.log_p(images.images["test"])
        found = {}
        for model_name, family in section.families.items():
            title = f"{model_name} on {name}"
            model = train(title, family, shared, images, seed=seed, device=device).model.to(device).eval()
            scores = scored(model, images, section.n_samples, seed)
            found[model_name] = {"family": family.family, **of_model(scores, model, images, log_p_true)}
            rows.append({"source": name, "model": model_name, **found[model_name]})
        sources[name] = {**of_truth(source, images, log_p_true), "models": found}
    metrics = {
        **{f"n_{split}": n_images[split] for split in SPLITS},
        "n_levels": section.n_levels,
        "image_shape": list(section.image_shape),
        "n_samples": section.n_samples,
        "level": LEVEL,
        "sources": sources,
    }
    return metrics, {"excess": rows}


def scored(model: ImageModel, images: PreparedImages, n_samples: int, seed: int) -> Estimate:
    """Return the estimate of log P for the test images.

    Args:
        model: trained model in evaluation mode.
        images: images that include the test split.
        n_samples: K.
        seed: seed of the samples.
    """
    return estimate(
        model,
        torch.from_numpy(images.images["test"]),
        n_samples,
        chunk_size=CHUNK,
        batch_size=BATCH,
        generator=stream("known_evaluation", seed, device=model.device),
        noise=torch.from_numpy(images.noise["test"]),
    )


def of_model(scores: Estimate, model: ImageModel, images: PreparedImages, log_p_true: np.ndarray) -> dict[str, Any]:
    """Return the numbers of one model, its excess over the truth, and whether it is refuted.

    Args:
        scores: estimate for the test images.
        model: the model that was scored.
        images: the images that were scored.
        log_p_true: (N,) true log P of each test image, nats.
    """
    numbers = summarise({0: scores}, model, images.description).metrics
    shape = images.description.image_shape
    errors = scores.standard_error.numpy() if model.draws_bounds else None
    found = against_truth(scores.log_p.numpy(), log_p_true, bound_errors=errors, n_draws=scores.n_samples)
    return {
        "kind": numbers.kind,
        "n_parameters": numbers.n_parameters,
        "n_samples": numbers.n_samples,
        "bpd": numbers.bpd,
        "bpd_standard_error": numbers.bpd_standard_error,
        "bpd_monte_carlo_error": numbers.bpd_monte_carlo_error,
        "bias_bpd": nats_to_bits_per_dim(numbers.log_p_bias_nats, shape),
        "too_few_samples": numbers.too_few_samples,
        "excess_bpd": nats_to_bits_per_dim(found.excess, shape),
        "excess_bpd_standard_error": nats_to_bits_per_dim(found.standard_error, shape),
        "evidence_nats": found.evidence,
        "critical_nats": found.critical,
        "is_refuted": found.is_refuted,
    }


def of_truth(source: KnownDistribution, images: PreparedImages, log_p_true: np.ndarray) -> dict[str, Any]:
    """Return the yardsticks of one source, in bits/dim.

    Args:
        source: distribution of the images.
        images: images of all splits.
        log_p_true: (N,) true log P of the test images, nats.
    """
    shape = images.description.image_shape
    test = images.images["test"]
    entropy, bias = empirical_entropy(test)
    of_all = np.concatenate([log_p_true, *(source.log_p(images.images[split]) for split in SPLITS[:2])])
    return {
        "protocol": images.description.protocol,
        "test_sha256": images.description.test_sha256,
        "strength": source.strength,
        "n_components": source.n_components or 0,
        "truth_bpd": bits_per_dim(float(log_p_true.mean()), shape),
        "truth_bpd_standard_error": nats_to_bits_per_dim(mean_error(torch.from_numpy(log_p_true)), shape),
        "entropy_rate_bpd": bits_per_dim(float(of_all.mean()), shape),
        "entropy_rate_bpd_standard_error": nats_to_bits_per_dim(mean_error(torch.from_numpy(of_all)), shape),
        "independent_bpd": entropy - bias,
        "uniform_bpd": nats_to_bits(math.log(source.n_levels)),
    }
