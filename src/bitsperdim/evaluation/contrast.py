"""The gain from refined proposals, or from other dequantization noise, on some test images.

The reported number may use samples from a proposal that is refined for each image, or from noise that the density was
not trained with. This module scores some images again with the replaced method: the encoder, or the density's own
noise. It uses the same number of samples. The images are chosen at random with the evaluation seed, and have their own
random numbers. Both estimates are lower bounds on the same log P(x) in expectation, so the higher one is better. Their
difference is paired over the images. It is reported only, and decides nothing: no image takes the better of the two
estimates, because the maximum of two bounds is not a bound.

Invariants (``tests/evaluation/test_contrast.py``): the numbers follow from the two estimates
(``test_the_contrast_is_its_numbers``); like the rest of evaluation, it resumes after an interruption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bitsperdim.config.params import EvaluateSection
from bitsperdim.core.labels import TOLERATED_SHARE
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.estimators.pareto import JUDGED_FROM, pareto_k_limit
from bitsperdim.evaluation.estimate import Estimate, estimated_rows, images_at_once, n_columns, pilot_samples
from bitsperdim.evaluation.noise_of_cells import passes_of_fit
from bitsperdim.evaluation.refined import is_refined
from bitsperdim.models import ImageModel
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import is_first
from bitsperdim.runtime.shards import in_blocks

FEWEST, MOST = 50, 1_000  # limits if the number of images is null: then it is a tenth of the test images


@dataclass(frozen=True)
class Contrast:
    """Two estimates for the same images.

    Attributes:
        chosen: indices of these images in the test set, (n,), in increasing order.
        before: estimate for these images, with samples from the encoder or from the density's own noise.
        after: estimate for all test images, with the same model.
        same_as: for each chosen image, the index of the first equal test image, (n,).
        n_passes: number of passes through the network for each image in ``after``.
    """

    chosen: Tensor
    before: Estimate
    after: Estimate
    same_as: Tensor
    n_passes: float

    def gain(self, k: int | None = None) -> tuple[float, float]:
        """Return the mean gain of the bound of ``after`` over that of ``before`` in nats, and its paired error.

        Images to which either estimate gives no probability are left out.

        Args:
            k: index of a K in ``bounds``; None: all samples.
        """
        before = self.before.log_p if k is None else self.before.bounds[k]
        after = (self.after.log_p if k is None else self.after.bounds[k])[self.chosen]
        possible = before.isfinite() & after.isfinite()
        difference = (after - before)[possible]
        return float(difference.mean()) if len(difference) else math.inf, mean_error(difference, self.same_as[possible])

    def metrics(self, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Return the entry ``contrast`` of ``metrics.json``."""
        before, (gain, error) = self.before, self.gain()
        log_p, bias = float(before.log_p.mean()), float(before.bias.mean())
        shares = {"ess_below_10_share": before.small_ess_share}
        if before.n_samples >= JUDGED_FROM:
            is_heavy = before.pareto_k > pareto_k_limit(before.n_samples)
            shares["pareto_k_high_share"] = float(is_heavy.double().mean())
        return {
            "proposal": before.noise or "encoder",
            "n_images": len(self.chosen),
            "bpd": bits_per_dim(log_p, image_shape),
            "nll_nats": -log_p,
            "nll_nats_after": -float(self.after.log_p[self.chosen].mean()),
            "log_p_bias_nats": bias,
            "ess_median": float(before.ess.median()),
            **shares,
            "too_few_samples": abs(bias) > mean_error(before.log_p, self.same_as)
            or max(shares.values()) > TOLERATED_SHARE,
            "gain_nats": gain,
            "gain_nats_standard_error": error,
            "n_passes": before.n_samples,
            "n_passes_after": self.n_passes,
        }


def n_contrasted(section: EvaluateSection, n_test: int) -> int:
    """Return how many of ``n_test`` images are scored again with the replaced method."""
    asked = section.n_contrast
    return min(n_test, min(max(n_test // 10, FEWEST), MOST) if asked is None else asked)


def chosen_images(n_images: int, prepared: PreparedImages, seed: int) -> tuple[Tensor, Tensor]:
    """Return increasing indices of some test images and, for each, the index of the first equal image; (n,) both.

    Args:
        n_images: number n of images to choose.
        prepared: prepared images with the test split.
        seed: evaluation seed, which determines the choice.
    """
    order = torch.randperm(len(prepared.images["test"]), generator=stream("contrast_images", seed))
    chosen = order[:n_images].sort().values
    return chosen, chosen if "test" not in prepared.same_as else torch.from_numpy(prepared.same_as["test"])[chosen]


def contrast(
    model: ImageModel,
    prepared: PreparedImages,
    after: Estimate,
    section: EvaluateSection,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> Contrast | None:
    """Score some test images again with the replaced method.

    Args:
        model: model of the first seed, in evaluation mode on its device.
        prepared: prepared images with the test split, and with the training split if noise was fitted.
        after: estimate of this model for all test images.
        section: evaluation settings.
        device: device of the model.
        checkpoint: place where finished images are stored; None: they are not stored.

    Returns:
        The two estimates; None if nothing was refined or replaced, or if the number of images is 0.

    Raises:
        FloatingPointError: a log-weight is NaN or +inf.
    """
    test = prepared.images["test"]
    n_images = n_contrasted(section, len(test))
    is_replaced = is_refined(model, section) or after.noise in ("sequential", "fitted")
    if not is_replaced or not n_images:
        return None
    chosen, same_as = chosen_images(n_images, prepared, section.seed)

    def scored(block: range) -> Tensor:
        return estimated_rows(  # by default it samples from the encoder, or from the density's own noise
            model,
            torch.from_numpy(test[chosen[block.start : block.stop].numpy()]),
            section.n_samples,
            chunk_size=section.chunk_size,
            generator=stream("contrast", section.seed, block.start, device=device),
            first_image=block.start,
        )

    with tqdm(total=n_images, desc="contrast", unit="image", disable=None if is_first() else True) as bar:
        rows = in_blocks(
            "contrast",
            n_images,
            images_at_once(model, section.n_samples, section.batch_size),
            n_columns(model, section.n_samples),
            scored,
            device=device,
            checkpoint=None if checkpoint is None else checkpoint.part("contrast"),
            progress=lambda new: bar.update(len(new)),
        )
    before = Estimate.of_rows(model, section.n_samples, rows, None)
    return Contrast(chosen, before, after, same_as, before.n_samples + passes_in_advance(after, section, prepared))


def passes_in_advance(estimated: Estimate, section: EvaluateSection, prepared: PreparedImages) -> float:
    """Return the cost of an estimate for each image before its K samples, in passes through the network."""
    if estimated.costs is not None:
        return float(estimated.costs[:, :2].sum(1).mean())
    if estimated.noise == "fitted":
        return passes_of_fit(section.fitted_noise, prepared) / len(estimated.log_p)
    return pilot_samples(section.n_samples)
