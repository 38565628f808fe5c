"""Classic mistakes, and for each the test of the suite that must fail once the mistake is made.

Each mutant replaces one function by a broken twin; the test passes before and must fail after. Most of these mistakes
have been published. Mistakes in one part of the package are beside its tests, in files that end in ``mutants.py``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.core import units
from bitsperdim.data import preparation, yardsticks
from bitsperdim.estimators import log_weights as statistics
from bitsperdim.evaluation import estimate as evaluator
from bitsperdim.evaluation import summary
from bitsperdim.likelihoods import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    DiscretizedLogistic,
    DiscretizedNormal,
)
from bitsperdim.models import base, density, latent, vae
from bitsperdim.models.parts import dequantization
from bitsperdim.models.parts.causal import CausalConv2d
from bitsperdim.training import trainer
from core import test_units
from data import test_preparation, test_yardsticks
from estimators import test_log_weights
from evaluation import test_estimate, test_summary
from likelihoods import test_categorical, test_discretized
from models import test_dequantization, test_every_model, test_gaussian, test_pixelcnn, test_vae
from support.mutants import Mutant, must_die
from training import test_training


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# The laws: tests of the suite, each with the arguments that find the mistake in the shortest time.


def vae_is_unbiased() -> None:
    test_vae.test_weights_average_to_the_mass(2, 2, "bernoulli", 1, generator())


def trained_and_evaluated_is_the_same() -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_vae.test_the_fused_evaluation_is_that_of_the_head(10_000, patch)


def gaussian_is_unbiased() -> None:
    test_gaussian.test_weights_average_to_the_mass_of_the_cell("gaussian-grey", generator())


def logistic_masses_sum_to_one() -> None:
    test_discretized.test_masses_sum_to_one_and_add_up_to_the_cdf("logistic", 17)


def normal_masses_sum_to_one() -> None:
    test_discretized.test_masses_sum_to_one_and_add_up_to_the_cdf("normal", 17)


def pixelcnn_is_causal() -> None:
    test_pixelcnn.test_causality_is_two_sided((3, 3, 4), 3, 2, "categorical", 1, generator())


def discrete_masses_sum_to_one() -> None:
    test_categorical.test_masses_sum_to_one(torch.float64)


def images_are_independent() -> None:
    test_every_model.test_images_are_independent("pixelcnn-rgb", generator())


def a_coin_costs_a_bit() -> None:
    test_units.test_a_fair_coin_costs_one_bit_per_dimension()


def channels_count() -> None:
    test_units.test_colour_channels_count_as_dimensions()


def the_bound_ends_at_the_estimate_and_never_falls() -> None:
    test_log_weights.test_the_bound_never_falls(37, 5.0)


def statistics_are_plain_arithmetic() -> None:
    test_log_weights.test_against_plain_arithmetic()


def every_image_is_scored() -> None:
    test_estimate.test_no_image_is_dropped(3)


def nan_is_refused() -> None:
    test_estimate.test_nan_and_plus_infinity_are_fatal_and_name_the_image(math.nan)


def the_top_cell_is_below_one() -> None:
    test_dequantization.test_the_top_cell_stays_below_one(256)


def the_error_is_that_of_the_mean() -> None:
    test_summary.test_seeds_are_averaged_per_image_and_their_spread_is_told_apart()


def official_parts_are_kept() -> None:
    test_preparation.test_official_parts_are_used_as_they_are()


def quantization_keeps_the_highest_bits() -> None:
    test_preparation.test_256_levels_lose_their_lowest_bits()


def binarization_has_its_probability() -> None:
    test_preparation.test_dynamic_binarization_has_its_probability()


def every_image_is_trained_on() -> None:
    test_training.test_every_image_is_presented_once_an_epoch(17)


def entropy_is_in_bits_per_dimension() -> None:
    test_yardsticks.test_entropy_of_known_distributions()


# Mutants.


def added_proposal(self: Any, x: Tensor, n_samples: int = 1, **rest: Any) -> Tensor:
    q = self.encode(x)
    z = q.rsample(n_samples, generator=rest.get("generator"))
    return self.log_joint(x, z) + q.log_prob(z)


def forgotten_prior(self: Any, x: Tensor, z: Tensor) -> Tensor:
    return self.decode(z).log_prob(x).flatten(2).sum(2)


def without_levels(self: Any, x: Tensor, n_samples: int = 1, **rest: Any) -> Tensor:
    return DENSITY_LOG_WEIGHTS(self, x, n_samples, **rest) + self.n_dims * math.log(self.n_levels)


DENSITY_LOG_WEIGHTS = density.DensityModel.unchecked_log_weights


def weights_masked_by(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Tensor]:
    """Return the weights of a convolution under another mask, which ``change`` makes of the right one."""
    return lambda self: self.weight if self.mask is None else self.weight * change(self.mask.clone())


def without_centre(mask: Tensor) -> Tensor:  # mask A everywhere, no colour at all
    centre = (..., -1, mask.shape[3] // 2)
    mask[centre] = torch.eye(*mask.shape[:2]) if mask.shape[0] == mask.shape[1] else 0
    return mask


def swapped_groups(mask: Tensor) -> Tensor:  # B before G before R at the centre
    centre = (..., -1, mask.shape[3] // 2)
    mask[centre] = mask[centre].flip(0, 1)
    return mask


def batch_in_the_logsumexp(log_w: Tensor, dim: int = 0) -> Tensor:
    return (torch.logsumexp(log_w.flatten(), 0) - math.log(log_w.numel())).expand(log_w.shape[1])


def centred_on_the_batch(self: Any, x: Tensor) -> Tensor:
    return 2 * x.to(next(self.parameters()).dtype) / (self.n_levels - 1) - x.double().mean()


def dropped_tail(model: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
    whole = len(images) // kwargs["batch_size"] * kwargs["batch_size"]
    return ESTIMATE(model, images[:whole], *args, **kwargs)


ESTIMATE = evaluator.estimate
LOG_PROB_OF_LAYER = vae.learned_bernoulli_log_prob_of_layer


def rounding_dequantize(x: Tensor, u: Tensor, n_levels: int) -> Tensor:
    return (x.float() + u.float()) / n_levels


def prefix_curve(log_w: Tensor) -> tuple[list[int], Tensor]:
    sizes = [1, 2, 4, 8, 16, 32, 37]
    return sizes, torch.stack([statistics.log_mean_exp(log_w[:size]) for size in sizes])


def log_mean_of_logs(log_w: Tensor, dim: int = 0) -> Tensor:
    return log_w.mean(dim)


def overlapping_split(sizes: dict[str, int], *_: Any, **__: Any) -> dict[str, tuple[str, np.ndarray]]:
    rows = np.arange(sizes["train"])
    return {"train": ("train", rows), "validation": ("train", rows[:30]), "test": ("test", np.arange(sizes["test"]))}


def only_whole_batches(self: Any, order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    return tuple(rows for rows in order.split(batch_size) if len(rows) == batch_size)


CELLS = {head: head.log_cells for head in (DiscretizedLogistic, DiscretizedNormal)}


def finite_edges(self: Any, below: Tensor, above: Tensor, is_first: Tensor, is_last: Tensor) -> Tensor:
    return CELLS[type(self)](self, below, above, is_first & False, is_last & False)


def density_at_the_centre(self: Any, below: Tensor, above: Tensor, is_first: Tensor, is_last: Tensor) -> Tensor:
    """The density of the cell's middle, as public code has it where the mass is small; the edges are right."""
    centre = (below + above) / 2
    middle = centre - self.log_scale - 2 * torch.nn.functional.softplus(centre)
    return torch.where(is_first | is_last, CELLS[type(self)](self, below, above, is_first, is_last), middle)


def mean_with_nan_removed(log_w: Tensor, first_image: int) -> None:
    log_w[log_w.isnan()] = 0


MUTANTS = {
    "proposal added instead of subtracted": Mutant(
        latent.LatentModel, "unchecked_log_weights", added_proposal, vae_is_unbiased
    ),
    "prior forgotten": Mutant(latent.LatentModel, "log_joint", forgotten_prior, vae_is_unbiased),
    "normal without its scale": Mutant(
        DiagonalNormal,
        "log_prob",
        lambda self, z: (-0.5 * ((z - self.mean) / self.log_scale.exp()) ** 2).sum(-1),
        vae_is_unbiased,
    ),
    "variance for scale": Mutant(
        DiagonalNormal,
        "rsample",
        lambda self, n, generator=None: (
            self.mean
            + (2 * self.log_scale).exp() * torch.randn(n, *self.mean.shape, generator=generator, dtype=torch.float64)
        ),
        vae_is_unbiased,
    ),
    "cross entropy of the wrong level": Mutant(
        vae,
        "learned_bernoulli_log_prob_of_layer",
        lambda x, *layer: LOG_PROB_OF_LAYER(1 - x, *layer),
        trained_and_evaluated_is_the_same,
    ),
    "Bernoulli with an epsilon": Mutant(
        Bernoulli,
        "log_prob",
        lambda self, x: ((2 * x - 1) * self.logits).sigmoid().add(1e-3).log(),
        discrete_masses_sum_to_one,
    ),
    "softmax not normalised": Mutant(
        Categorical,
        "log_prob",
        lambda self, x: self.logits.gather(-1, x.long().expand(self.logits.shape[:-1])[..., None])[..., 0],
        discrete_masses_sum_to_one,
    ),
    "D log L forgotten": Mutant(density.DensityModel, "unchecked_log_weights", without_levels, gaussian_is_unbiased),
    "L - 1 for L": Mutant(density, "dequantize", lambda x, u, n: (x + u) / (n - 1), gaussian_is_unbiased),
    "noise around the level instead of above it": Mutant(
        density, "dequantize", lambda x, u, n: (x + u - 0.5) / n, gaussian_is_unbiased
    ),
    "top cell rounds to one": Mutant(dequantization, "dequantize", rounding_dequantize, the_top_cell_is_below_one),
    "mask forgotten": Mutant(CausalConv2d, "effective_weight", weights_masked_by(torch.ones_like), pixelcnn_is_causal),
    "mask reversed": Mutant(
        CausalConv2d, "effective_weight", weights_masked_by(lambda mask: mask.flip(3)), pixelcnn_is_causal
    ),
    "no colour masks": Mutant(CausalConv2d, "effective_weight", weights_masked_by(without_centre), pixelcnn_is_causal),
    "colour order reversed": Mutant(
        CausalConv2d, "effective_weight", weights_masked_by(swapped_groups), pixelcnn_is_causal
    ),
    "batch inside the logsumexp": Mutant(
        statistics, "log_mean_exp", batch_in_the_logsumexp, statistics_are_plain_arithmetic
    ),
    "mean of the logs": Mutant(statistics, "log_mean_exp", log_mean_of_logs, statistics_are_plain_arithmetic),
    "bound from a prefix": Mutant(
        statistics, "bound_against_k", prefix_curve, the_bound_ends_at_the_estimate_and_never_falls
    ),
    "input centred on the batch": Mutant(base.ImageModel, "scaled", centred_on_the_batch, images_are_independent),
    "error without the root": Mutant(
        statistics,
        "standard_error",
        lambda w: w.exp().var(0) / w.exp().mean(0) / len(w),
        statistics_are_plain_arithmetic,
    ),
    "bias of the wrong sign": Mutant(
        statistics, "leading_bias", lambda w: 0.5 * statistics.standard_error(w) ** 2, statistics_are_plain_arithmetic
    ),
    "ESS of unnormalised weights": Mutant(
        statistics, "effective_sample_size", lambda w: 1 / w.exp().square().sum(0), statistics_are_plain_arithmetic
    ),
    "test tail dropped": Mutant(evaluator, "estimate", dropped_tail, every_image_is_scored),
    "NaN filtered out": Mutant(
        sys.modules["bitsperdim.evaluation.estimate"],
        "_refuse_nan",
        mean_with_nan_removed,
        nan_is_refused,
    ),
    "edge cells of finite width": Mutant(DiscretizedNormal, "log_cells", finite_edges, normal_masses_sum_to_one),
    "density for mass": Mutant(DiscretizedLogistic, "log_cells", density_at_the_centre, logistic_masses_sum_to_one),
    "pixels for sub-pixels": Mutant(units, "n_dims", lambda shape: shape[1] * shape[2], channels_count),
    "nats for bits": Mutant(units, "NATS_PER_BIT", 1.0, a_coin_costs_a_bit),
    "entropy in nats": Mutant(yardsticks, "nats_to_bits", lambda nats: nats, entropy_is_in_bits_per_dimension),
    "spread not divided by root N": Mutant(
        summary, "mean_error", lambda log_p, groups=None: float(log_p.std()), the_error_is_that_of_the_mean
    ),
    "validation also trained on": Mutant(preparation, "split_indices", overlapping_split, official_parts_are_kept),
    "scaled by L - 1 and rounded": Mutant(
        preparation,
        "quantize",
        lambda x, n, bits: np.rint(x / (n - 1) * (2**bits - 1)).astype(np.uint8),
        quantization_keeps_the_highest_bits,
    ),
    "binarized with x / L": Mutant(
        preparation,
        "binarize_by_chance",
        lambda x, n, rng: rng.random(x.shape) * n < x,
        binarization_has_its_probability,
    ),
    "training tail dropped": Mutant(trainer.Presentation, "batches", only_whole_batches, every_image_is_trained_on),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_kills_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_die(MUTANTS[name], monkeypatch)
