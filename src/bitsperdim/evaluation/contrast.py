"""The encoder's proposal beside the refined one, on some test images: what the refinement changes, and for the better?

The images are chosen at random with the seed of the evaluation, and scored a second time with samples of their own from
the encoder, as many as the others have. Both numbers are of the same images, so that their difference is paired. It is
reported and decides nothing: the number of an image is that of the refined proposal, whichever is larger.

Invariants (``tests/evaluation/test_contrast.py``): the numbers are those of the two estimates
(``test_the_contrast_is_its_numbers``); as an evaluation, it goes on where it stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bitsperdim.config.params import EvaluateSection
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.estimators.pareto import JUDGED_FROM, pareto_k_limit
from bitsperdim.evaluation.estimate import Estimate, estimated_rows, images_at_once, n_columns
from bitsperdim.evaluation.refined import is_refined
from bitsperdim.models import ImageModel
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import is_first
from bitsperdim.runtime.shards import in_blocks

FEWEST, MOST = 50, 1_000  # images where their number is null: a tenth of the test images, within these


@dataclass(frozen=True)
class Contrast:
    """Two estimates of the same images.

    Attributes:
        chosen: (n,) their numbers among the test images, rising.
        encoder: of these images, by samples from the encoder.
        refined: of all test images, with the same model.
        same_as: (n,) for each the number of the first that is equal.
    """

    chosen: Tensor
    encoder: Estimate
    refined: Estimate
    same_as: Tensor

    def gain(self, k: int | None = None) -> tuple[float, float]:
        """Return by how many nats the refined bound is above the encoder's on average, and the paired error.

        Args:
            k: the place of a K in ``bounds``; None: all samples. Images that have no mass in either are left out.
        """
        encoder = self.encoder.log_p if k is None else self.encoder.bounds[k]
        refined = (self.refined.log_p if k is None else self.refined.bounds[k])[self.chosen]
        possible = encoder.isfinite() & refined.isfinite()
        difference = (refined - encoder)[possible]
        return float(difference.mean()) if len(difference) else math.inf, mean_error(difference, self.same_as[possible])

    def metrics(self, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Return what ``metrics.json`` says of the encoder's proposal."""
        encoder, (gain, error) = self.encoder, self.gain()
        found = {
            "n_images": len(self.chosen),
            "bpd": bits_per_dim(float(encoder.log_p.mean()), image_shape),
            "nll_nats": -float(encoder.log_p.mean()),
            "refined_nll_nats": -float(self.refined.log_p[self.chosen].mean()),
            "log_p_bias_nats": float(encoder.bias.mean()),
            "ess_median": float(encoder.ess.median()),
            "ess_below_10_share": encoder.small_ess_share,
            "gain_nats": gain,
            "gain_nats_standard_error": error,
        }
        if encoder.n_samples >= JUDGED_FROM:
            is_heavy = encoder.pareto_k > pareto_k_limit(encoder.n_samples)
            found["pareto_k_high_share"] = float(is_heavy.double().mean())
        return found


def n_contrasted(section: EvaluateSection, n_test: int) -> int:
    """Return how many of ``n_test`` images are scored with the encoder's proposal too."""
    asked = section.refined.n_contrast
    return min(n_test, min(max(n_test // 10, FEWEST), MOST) if asked is None else asked)


def contrast(
    model: ImageModel,
    prepared: PreparedImages,
    refined: Estimate,
    section: EvaluateSection,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> Contrast | None:
    """Score some test images with the encoder's proposal; None where nothing was refined, or none is asked for.

    Args:
        model: of the first seed, in evaluation mode on its device.
        prepared: with the test split.
        refined: of this model and all test images.
        section: of the evaluation.
        device: of the model.
        checkpoint: where finished images are kept; None: nowhere.

    Raises:
        FloatingPointError: a log-weight is NaN or +inf.
    """
    test = prepared.images["test"]
    n_images = n_contrasted(section, len(test))
    if not is_refined(model, section) or not n_images:
        return None
    order = torch.randperm(len(test), generator=stream("contrast_images", section.seed))
    chosen = order[:n_images].sort().values

    def scored(block: range) -> Tensor:
        return estimated_rows(
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
    same_as = chosen if "test" not in prepared.same_as else torch.from_numpy(prepared.same_as["test"])[chosen]
    return Contrast(chosen, Estimate.of_rows(model, section.n_samples, rows, None), refined, same_as)
