r"""What each way of dequantizing costs: one flow on the real images, trained alike, its noise drawn in four ways.

======================  ==================  ===============================================
way                     dequantization      K of the training objective
======================  ==================  ===============================================
``uniform``             ``uniform``         1: fresh noise at every presentation
``uniform_fixed``       ``uniform_fixed``   1: each training image keeps its first draw
``variational``         ``variational``     1: the noise is learned too
``importance_weighted`` ``uniform``         several (Hoogeboom et al. 2020)
======================  ==================  ===============================================

All are evaluated alike: the importance-weighted bound on the same test images with the same number of samples, from
each model's own noise, which is fresh. Differences are paired image by image. It is one training each, of one
seed: what another seed would change is not in the error.

Invariants (``tests/studies/test_dequantizing.py``): the flows differ in their noise alone, and the rows are those of
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
from bitsperdim.training.trainer import Trained, train

if TYPE_CHECKING:
    from bitsperdim.config.families.base import TrainSection
    from bitsperdim.config.params import DequantizingSection

WAYS = ("uniform", "uniform_fixed", "variational", "importance_weighted")
REFERENCE = "uniform"
CHUNK, BATCH = 16, 100  # samples and images at a time


def some_images(folder: Path, n_images: int) -> PreparedImages:
    """Read at most ``n_images`` of each split, evenly spread over it, with the noise of those that are evaluated.

    Test images come with the numbers of those that they equal, which may not be among the ones that are read.

    Raises:
        InputError: there are no images, or they are damaged.
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
    """Train the flow in every way.

    Args:
        section: the flow, its own changes to ``train``, K.
        shared: the trainer.
        images: of all splits; the test images are not looked at.
        seed: of every training.
        device: where the work is done.
    """
    return {
        way: train(f"the flow of {way} noise", section.flow(way), shared, images, seed=seed, device=device)
        for way in WAYS
    }


def evaluate_all(
    section: DequantizingSection, trained: dict[str, Trained], images: PreparedImages, seed: int, device: torch.device
) -> dict[str, Estimate]:
    """Estimate the test images under every flow."""
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

    All in bits per dimension. ``train_bpd`` is the objective in the epoch whose weights are scored, with the K of
    training: where noise was fixed it bounds nothing. ``elbo_bpd`` and ``bpd`` are upper bounds of the test images,
    with one sample and with all; the paired difference is to fresh uniform noise, and negative where this way is
    better. Copies of an image, those with one number in ``same_as`` (N,), count once in the errors.
    ``too_few_samples`` is 1 where the bias exceeds the standard error, or too many images rest on few samples.
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
    """Train, evaluate and compare; return the metrics and the rows.

    Raises:
        InputError: the images are missing or damaged, or a training stopped.
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
