"""Before and after, side by side: what refined proposals, or other noise in the cells, change on some test images.

The samples of a number come from a proposal that is refined for each image, or from noise that the density was not
trained with. Here some images are scored again by what was replaced, the encoder or the density's own noise, with as
many samples. They are chosen at random with the seed of the evaluation, and have random numbers of their own. Both
estimates are bounds of the same log P(x) in expectation, so that the higher one is the better, and how much it is above
is paired over the images. That is reported and decides nothing: no image takes the better of both, which would be no
bound.

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

FEWEST, MOST = 50, 1_000  # images where their number is null: a tenth of the test images, within these


@dataclass(frozen=True)
class Contrast:
    """Two estimates of the same images.

    Attributes:
        chosen: (n,) their numbers among the test images, rising.
        before: of these images, by samples from the encoder or from the density's own noise.
        after: of all test images, with the same model.
        same_as: (n,) for each the number of the first that is equal.
        n_passes: through the network for each image, of ``after``.
    """

    chosen: Tensor
    before: Estimate
    after: Estimate
    same_as: Tensor
    n_passes: float

    def gain(self, k: int | None = None) -> tuple[float, float]:
        """Return by how many nats the bound is above that of before on average, and the paired error.

        Args:
            k: the place of a K in ``bounds``; None: all samples. Images that have no mass in either are left out.
        """
        before = self.before.log_p if k is None else self.before.bounds[k]
        after = (self.after.log_p if k is None else self.after.bounds[k])[self.chosen]
        possible = before.isfinite() & after.isfinite()
        difference = (after - before)[possible]
        return float(difference.mean()) if len(difference) else math.inf, mean_error(difference, self.same_as[possible])

    def metrics(self, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Return ``contrast`` of ``metrics.json``."""
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
    """Return how many of ``n_test`` images are scored by what was replaced too."""
    asked = section.n_contrast
    return min(n_test, min(max(n_test // 10, FEWEST), MOST) if asked is None else asked)


def chosen_images(n_images: int, prepared: PreparedImages, seed: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of some test images, rising, and for each that of the first that is equal, (n,) both.

    Args:
        n_images: n, how many.
        prepared: with the test split.
        seed: of the evaluation, which decides which.
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
    """Score some test images as before; None where nothing was refined or replaced, or where none is asked for.

    Args:
        model: of the first seed, in evaluation mode on its device.
        prepared: with the test split, and with the training split where noise was fitted.
        after: of this model and all test images.
        section: of the evaluation.
        device: of the model.
        checkpoint: where finished images are kept; None: nowhere.

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
        return estimated_rows(  # which asks the encoder, and draws the density's own noise, where nothing else is said
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
    """Return what an estimate took for each image before its K samples, in passes of the network."""
    if estimated.costs is not None:
        return float(estimated.costs[:, :2].sum(1).mean())
    if estimated.noise == "fitted":
        return passes_of_fit(section.fitted_noise, prepared) / len(estimated.log_p)
    return pilot_samples(section.n_samples)
