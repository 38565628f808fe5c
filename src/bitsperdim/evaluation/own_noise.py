"""What other noise has changed: the same test images scored with the noise that a density was trained with.

Both estimates are bounds of the same log P(x) in expectation, of the same K samples, so that the higher one is the
better, and how much it is above is paired over images. No image takes the better of both: that would be no bound.

Invariants (``tests/evaluation/test_noise_of_cells.py``): the numbers are those of an evaluation with ``noise: own``
(``test_the_contrast_is_the_own_evaluation``).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from bitsperdim.config.params import EvaluateSection
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation.estimate import Estimate, pilot_samples
from bitsperdim.evaluation.noise_of_cells import passes_of_fit
from bitsperdim.evaluation.scoring import evaluate_seed
from bitsperdim.evaluation.summary import summarise
from bitsperdim.models import ImageModel
from bitsperdim.runtime.checkpoints import Checkpoint

TAKEN_OVER = (
    *("noise", "bpd", "nll_nats", "log_p_bias_nats", "ess_median", "ess_below_10_share"),
    *("pareto_k_high_share", "too_few_samples"),
)


def beside(
    model: ImageModel,
    prepared: PreparedImages,
    estimated: Estimate,
    section: EvaluateSection,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Return ``own_noise`` of the metrics where other noise than its own was drawn of a density; else nothing.

    Args:
        model: of the first seed, in evaluation mode on its device.
        prepared: with the test split.
        estimated: of this model and all test images.
        section: of the evaluation.
        seed: the first.
        device: of the model.
        checkpoint: where finished images are kept; None: nowhere.

    Raises:
        FloatingPointError: a log-weight is NaN or +inf.
    """
    if estimated.noise not in ("sequential", "fitted") or not section.own_noise:
        return {}
    own = evaluate_seed(
        *(model, prepared, section.model_copy(update={"noise": "own"}), seed, device),
        title="its own noise",
        checkpoint=None if checkpoint is None else checkpoint.part("own"),
    )
    same_as = prepared.same_as.get("test")
    metrics = summarise({seed: own}, model, prepared.description, same_as=same_as).metrics
    possible = own.log_p.isfinite() & estimated.log_p.isfinite()
    gain = (estimated.log_p - own.log_p)[possible]
    noise = (estimated.standard_error.square() + own.standard_error.square())[possible]
    copies = torch.arange(len(possible)) if same_as is None else torch.from_numpy(same_as)
    k = section.n_samples
    if estimated.noise == "fitted":
        in_advance = passes_of_fit(section.fitted_noise, prepared) / len(own.log_p)
    else:
        in_advance = pilot_samples(k)
    return {
        "own_noise": {
            **{name: getattr(metrics, name) for name in TAKEN_OVER if getattr(metrics, name) is not None},
            "gain_nats": float(gain.mean()) if len(gain) else math.inf,
            "gain_nats_standard_error": mean_error(gain, copies[possible]),
            "gain_nats_monte_carlo_error": float(noise.sum().sqrt()) / max(1, len(gain)),
            "n_passes": k,
            "replaced_at_n_passes": k + in_advance,
        }
    }
