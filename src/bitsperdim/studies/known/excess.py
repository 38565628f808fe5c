r"""What each family lacks on images whose likelihood is known.

Models of several families are trained on draws of a known distribution, as ``train`` trains them, and asked for the
likelihood of test images that are further draws, as ``evaluate`` asks them. Then the divergence of each from the truth
is no longer hidden in the entropy of the images, which nobody knows of photographs: it is the *excess*, the mean of
:math:`\log P_{true}(x) - \log P(x)`, in bits/dim, with an error that is that of the differences. What is a bound is too
high by its own gap besides, which :mod:`.estimators` is about.

And no model may beat the truth: :func:`bitsperdim.estimators.truth.against_truth` tests each of them.

Beside them stand the truth itself, the entropy of independent sub-pixels (estimated, its bias taken off), log2 L, and
the entropy rate of the distribution: the mean of -log P over all draws, of which the test images are a part.

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

CHUNK, BATCH = 16, 120  # samples and images at a time


def study(
    section: ExcessSection, shared: TrainSection, seed: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Train every family on every source, and hold each against the truth.

    Args:
        section: sources, images and families.
        shared: the trainer.
        seed: of images, trainings and samples.
        device: where models are trained and scored.

    Returns:
        The metrics of this part, and the rows of ``excess.csv``.

    Raises:
        InputError: a distribution is not defined for such images, or a training stopped.
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
    """Score the test images.

    Args:
        model: trained, in evaluation mode.
        images: with the test split.
        n_samples: K.
        seed: of the samples.
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
    """Return what is said of one model: its number, what it lacks, and whether it is refuted.

    Args:
        scores: of the test images.
        model: that they are of.
        images: that were scored.
        log_p_true: (N,) nats, the truth of each test image.
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
        source: of the images.
        images: of all splits.
        log_p_true: (N,) nats, of the test images.
    """
    shape, test = images.description.image_shape, images.images["test"]
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
