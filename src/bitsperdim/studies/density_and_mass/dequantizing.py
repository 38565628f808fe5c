r"""The cost of each way of dequantizing: one flow on the real images, trained in the same way with four kinds of noise.

======================  ==================  ===============================================
way                     dequantization      K of the training objective
======================  ==================  ===============================================
``uniform``             ``uniform``         1: fresh noise at every presentation
``uniform_fixed``       ``uniform_fixed``   1: each training image keeps its first draw
``variational``         ``variational``     1: the noise is learned too
``importance_weighted`` ``uniform``         several (Hoogeboom et al. 2020)
======================  ==================  ===============================================

All flows are evaluated in the same way: by the importance-weighted bound on the same test images with the same number
of samples, drawn from each model's own noise, which is fresh. Differences are paired image by image. Each flow is
trained once, with one seed, so the errors do not contain the variation between seeds.

Invariants (``tests/studies/test_dequantizing.py``): the flows differ only in their noise, and the rows are those of
the trained models (``test_the_rows_are_those_of_the_models``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bitsperdim.core.files import StoredArray, reading
from bitsperdim.core.labels import TOLERATED_SHARE
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.data.prepared import SPLITS, PreparedImages, load_prepared
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.estimators.paired import paired_difference
from bitsperdim.evaluation.estimate import Estimate, estimate
from bitsperdim.training.trained import Trained
from bitsperdim.training.trainer import train

if TYPE_CHECKING:
    from bitsperdim.config.families.base import TrainSection
    from bitsperdim.config.params import DequantizingSection

WAYS = ("uniform", "uniform_fixed", "variational", "importance_weighted")
REFERENCE = "uniform"
CHUNK = 16  # samples at a time
BATCH = 100  # images at a time


def some_images(folder: Path, n_images: int) -> PreparedImages:
    """Read at most ``n_images`` of each split, evenly spread over it, with the noise of the splits that are evaluated.

    Test images come with the index of the first test image that is equal, which may not be among the images read.

    Raises:
        InputError: the images are missing or damaged.
    """
    found = PreparedImages(load_prepared(folder, ()).description, {})
    for split in SPLITS:
        for name, into, splits in (
            ("images", found.images, SPLITS),
            ("noise", found.noise, SPLITS[1:]),
            ("same_as", found.same_as, SPLITS[2:]),
        ):
            path = folder / split / f"{name}.npy"
            if split in splits:
                with reading(path, "dequantize"):
                    array = StoredArray(path)
                    rows = np.arange(min(len(array), n_images)) * len(array) // min(len(array), n_images)
                    into[split] = array[rows]
    return found


def train_all(
    section: DequantizingSection, shared: TrainSection, images: PreparedImages, seed: int, device: torch.device
) -> dict[str, Trained]:
    """Train the flow with every way of dequantizing.

    Args:
        section: settings of the flow, its changes to ``train``, and K.
        shared: shared settings of the trainer.
        images: images of all splits; the test images are not used.
        seed: seed of every training run.
        device: device for the computations.
    """
    return {
        way: train(f"the flow of {way} noise", section.flow(way), shared, images, seed=seed, device=device)
        for way in WAYS
    }


def evaluate_all(
    section: DequantizingSection, trained: dict[str, Trained], images: PreparedImages, seed: int, device: torch.device
) -> dict[str, Estimate]:
    """Estimate log P of the test images under every flow."""
    return {
        way: estimate(
            item.model.to(device).eval(),
            torch.from_numpy(images.images["test"]),
            section.n_samples,
            chunk_size=CHUNK,
            batch_size=BATCH,
            generator=stream("study_evaluation", seed, device=device),
            noise=torch.from_numpy(images.noise["test"]),
        )
        for way, item in trained.items()
    }


def rows(
    section: DequantizingSection,
    trained: dict[str, Trained],
    estimates: dict[str, Estimate],
    shape: tuple[int, int, int],
    same_as: np.ndarray,
) -> Sequence[dict[str, Any]]:
    """Return one row for each way.

    All numbers are in bits per dimension. ``train_bpd`` is the objective in the epoch whose weights are scored, with
    the K of training; with fixed noise it is not a bound. ``elbo_bpd`` and ``bpd`` are upper bounds for the test
    images, with one sample and with all samples. The paired difference is taken from fresh uniform noise; it is
    negative if this way is better. Copies of an image, which have the same number in ``same_as`` (N,), count once in
    the errors. ``too_few_samples`` is 1 if the bias exceeds the standard error, or if too many images have a small
    effective sample size.
    """
    reference = estimates[REFERENCE].log_p.numpy()
    found = []
    for way, item in estimates.items():
        log_p = item.log_p.numpy()
        pair = paired_difference(log_p, reference, same_as)
        spread = mean_error(item.log_p, torch.from_numpy(same_as))
        bias = float(item.bias.mean())
        found.append(
            {
                "way": way,
                "train_samples": section.flow(way).n_train_samples,
                "n_parameters": trained[way].model.n_parameters,
                "train_bpd": float(trained[way].curve[trained[way].best_epoch - 1]["train_bpd"]),
                "best_epoch": trained[way].best_epoch,
                "validation_bpd": bits_per_dim(trained[way].validation_log_p, shape),
                "elbo_bpd": bits_per_dim(float(item.elbo.mean()), shape),
                "bpd": bits_per_dim(float(item.log_p.mean()), shape),
                "bpd_standard_error": nats_to_bits_per_dim(spread, shape),
                "difference_bpd": bits_per_dim(pair.nats, shape),
                "difference_bpd_standard_error": nats_to_bits_per_dim(pair.standard_error, shape),
                "bias_bpd": nats_to_bits_per_dim(bias, shape),
                "ess_median": float(item.ess.median()),
                "too_few_samples": int(abs(bias) > spread or item.small_ess_share > TOLERATED_SHARE),
            }
        )
    return found


def compare_ways(
    section: DequantizingSection, shared: TrainSection, folder: Path, seed: int, device: torch.device
) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    """Train and evaluate the flow with every way of dequantizing; return the metrics and the rows.

    Raises:
        InputError: the images are missing or damaged, or a training run failed.
        FloatingPointError: a log-weight is NaN or +inf.
    """
    images = some_images(folder, section.n_images)
    trained = train_all(section, shared, images, seed, device)
    estimates = evaluate_all(section, trained, images, seed, device)
    shape = images.description.image_shape
    metrics = {
        "kind": "lower",
        "n_train": len(images.images["train"]),
        "n_test": len(images.images["test"]),
        "n_test_distinct": len(np.unique(images.same_as["test"])),
        "n_test_of_all": images.description.n_images["test"],
        "n_samples": section.n_samples,
        "n_train_samples": section.train_samples,
        "epochs": section.flow(REFERENCE).settings(shared).epochs,
        "transform": section.transform,
    }
    return metrics, rows(section, trained, estimates, shape, images.same_as["test"])
