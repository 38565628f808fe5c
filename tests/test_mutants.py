"""Do the laws have teeth? A list of classic mistakes, each with the law that must catch it.

Each mutant replaces one function by its broken twin; the law passes before and must fail after. A
law that lets its mutant live is no law. Published instances of most of these mistakes exist.
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

import coupled
import laws
from bitsperdim.core import units
from bitsperdim.data import preparation, yardsticks
from bitsperdim.estimators import log_weights as statistics
from bitsperdim.evaluation import estimate as evaluator
from bitsperdim.evaluation import summary
from bitsperdim.likelihoods import (
    Bernoulli,
    Categorical,
    CoupledLogisticMixture,
    DiagonalNormal,
    DiscretizedLogistic,
    DiscretizedNormal,
    learned_bernoulli_log_prob_of_layer,
)
from bitsperdim.models import LatentModel, base, density, latent, vae
from bitsperdim.models.gaussian import Gaussian
from bitsperdim.models.parts import dequantization
from bitsperdim.models.parts.causal import CausalConv2d
from bitsperdim.training import trainer
from cases import SMALL, small_model
from mutants import Mutant, must_die


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Laws, each small enough to run twice per mutant.


def vae_is_unbiased() -> None:
    model = small_model("vae-bernoulli")
    images = laws.all_images(model.image_shape, model.n_levels)
    with torch.no_grad():
        model.encoders[0].to_log_scale.bias.fill_(0.8)
        masses = MASSES.setdefault("vae", laws.masses_by_quadrature(model, images))
        laws.weights_average_to(model, images, masses, generator())


def trained_and_evaluated_is_the_same() -> None:
    """What is only evaluated is fused, and must be the log-mass that training differentiates."""
    model = small_model("vae-bernoulli")
    assert isinstance(model, LatentModel)
    x = laws.all_images(model.image_shape, model.n_levels)
    z = torch.randn(3, len(x), 2, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        fused = model.log_p_x_given_z(x, z)
    torch.testing.assert_close(fused, model.log_p_x_given_z(x, z).detach(), rtol=1e-12, atol=0)


def gaussian_is_unbiased() -> None:
    model = small_model("gaussian-grey")
    assert isinstance(model, Gaussian)
    images = laws.all_images(model.image_shape, model.n_levels)
    laws.weights_average_to(model, images, MASSES.setdefault("gaussian", laws.masses_of_cells(model)), generator())


def discretized_masses_sum_to_one() -> None:
    loc, log_scale = torch.tensor([-2.0, 1.3, 4.5, 9.0]).double(), torch.tensor([0.5, -1.0, 2.0, 0.0]).double()
    for head in (DiscretizedLogistic, DiscretizedNormal):
        total = head(loc, log_scale, 6).log_prob(torch.arange(6)[:, None]).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(4).double(), rtol=0, atol=1e-12)


MASSES: dict[str, Tensor] = {}  # what quadrature says of the unbroken models


def pixelcnn_is_causal() -> None:
    model = small_model("pixelcnn-rgb")
    laws.causality_is_two_sided(model, laws.pixelcnn_sees(model.image_shape, 3, 1), generator())


def exact_models_sum_to_one() -> None:
    for name in ("pixelcnn-three-levels", "histogram-grey"):
        laws.masses_sum_to_one(small_model(name))


def bernoulli_sums_to_one() -> None:
    total = sum(Bernoulli(torch.tensor([0.3, -2.0])).log_prob(torch.tensor(level)).exp() for level in (0, 1))
    assert torch.allclose(total, torch.ones(2))


def images_do_not_touch() -> None:
    for name in SMALL:
        laws.images_are_independent(small_model(name), generator())


def a_coin_costs_a_bit() -> None:
    assert units.bits_per_dim(12 * math.log(0.5), (3, 2, 2)) == pytest.approx(1)


def the_bound_ends_at_the_estimate_and_never_falls() -> None:
    log_w = 3 * torch.randn(37, 5, generator=generator(), dtype=torch.float64) - 1e4
    sizes, bounds = statistics.bound_against_k(log_w)
    assert sizes[-1] == 37
    assert (bounds.diff(dim=0) >= -1e-9).all()
    shifted = (log_w + 1e4).exp().mean(0).log() - 1e4
    assert torch.allclose(bounds[-1], shifted)
    assert torch.allclose(statistics.log_mean_exp(log_w), shifted)


def errors_are_those_of_the_weights() -> None:
    log_w = torch.randn(40, 5, generator=generator(), dtype=torch.float64)
    w = log_w.exp()
    assert torch.allclose(statistics.standard_error(log_w), w.std(0) / w.mean(0) / 40**0.5)
    assert torch.allclose(statistics.leading_bias(log_w), -w.var(0) / w.mean(0) ** 2 / 80)
    assert torch.allclose(statistics.effective_sample_size(log_w), w.sum(0) ** 2 / (w**2).sum(0))


def every_image_is_scored() -> None:
    model = small_model("histogram-grey")
    images = laws.all_images(model.image_shape, model.n_levels)
    result = evaluator.estimate(model, images, 1, chunk_size=1, batch_size=50)  # 729 is no multiple of 50
    assert result.log_p.shape == (729,)
    assert result.log_p.exp().sum().item() == pytest.approx(1)


def nan_is_refused() -> None:
    model = small_model("vae-categorical")
    model.centre[0] = torch.nan
    with pytest.raises(FloatingPointError):
        evaluator.estimate(model, torch.zeros(3, 1, 2, 2, dtype=torch.uint8), 1, chunk_size=1, batch_size=2)


def the_top_cell_is_below_one() -> None:
    x = torch.tensor([[[[255]]]])
    u = dequantization.uniform(x, 1, None, torch.full((1, 1, 1, 1, 1), 1 - 2**-24))
    assert torch.isfinite(torch.logit(dequantization.dequantize(x, u, 256))).all()


def the_number_is_the_mean_of_the_images() -> None:
    log_p = torch.tensor([-3.0, -9.0, -4.0, -8.0], dtype=torch.float64)
    assert summary.mean_error(log_p) == pytest.approx(np.std(log_p.numpy(), ddof=1) / 2)


def validation_comes_from_training() -> None:
    index = preparation.split_indices({"train": 300, "test": 40}, 0.2, 0.1, 0)
    assert index["validation"][0] == "train"
    rows = np.concatenate([index["train"][1], index["validation"][1]])
    assert sorted(rows) == list(range(300))


def quantization_reaches_every_level() -> None:
    y = preparation.quantize(np.arange(256, dtype=np.uint8), 256, 5)
    assert np.bincount(y).tolist() == [8] * 32


def binarization_has_its_probability() -> None:
    x = np.tile(np.arange(17, dtype=np.uint8), (4000, 1))
    share = preparation.binarize_by_chance(x, 17, np.random.default_rng(0)).mean(0)
    assert share[16] == 1
    assert np.abs(share - np.arange(17) / 16).max() < 4.9 * 0.5 / 4000**0.5


def every_image_is_trained_on() -> None:
    x = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    presentation = trainer.Presentation(x, None, 256, dynamic=False)
    rows = presentation.batches(presentation.order(generator()), 16)
    assert sorted(torch.cat(rows).tolist()) == list(range(50))


def entropy_is_in_bits_per_dimension() -> None:
    images = np.array([[0, 7], [1, 7], [2, 7], [3, 7]], dtype=np.uint8).reshape(4, 1, 1, 2)
    assert yardsticks.empirical_entropy(images)[0] == pytest.approx(1)


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


def rounding_dequantize(x: Tensor, u: Tensor, n_levels: int) -> Tensor:
    return (x.float() + u.float()) / n_levels


def prefix_curve(log_w: Tensor) -> tuple[list[int], Tensor]:
    sizes = [1, 2, 4, 8, 16, 32, 37]
    return sizes, torch.stack([statistics.log_mean_exp(log_w[:size]) for size in sizes])


def log_mean_of_logs(log_w: Tensor, dim: int = 0) -> Tensor:
    return log_w.mean(dim)


def overlapping_split(sizes: dict[str, int], *_: Any) -> dict[str, tuple[str, np.ndarray]]:
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
        lambda x, *layer: learned_bernoulli_log_prob_of_layer(1 - x, *layer),
        trained_and_evaluated_is_the_same,
    ),
    "Bernoulli with an epsilon": Mutant(
        Bernoulli,
        "log_prob",
        lambda self, x: ((2 * x - 1) * self.logits).sigmoid().add(1e-3).log(),
        bernoulli_sums_to_one,
    ),
    "softmax not normalised": Mutant(
        Categorical,
        "log_prob",
        lambda self, x: self.logits.gather(-1, x.long().expand(self.logits.shape[:-1])[..., None])[..., 0],
        exact_models_sum_to_one,
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
        statistics, "log_mean_exp", batch_in_the_logsumexp, the_bound_ends_at_the_estimate_and_never_falls
    ),
    "mean of the logs": Mutant(
        statistics, "log_mean_exp", log_mean_of_logs, the_bound_ends_at_the_estimate_and_never_falls
    ),
    "bound from a prefix": Mutant(
        statistics, "bound_against_k", prefix_curve, the_bound_ends_at_the_estimate_and_never_falls
    ),
    "input centred on the batch": Mutant(base.ImageModel, "scaled", centred_on_the_batch, images_do_not_touch),
    "error without the root": Mutant(
        statistics,
        "standard_error",
        lambda w: w.exp().var(0) / w.exp().mean(0) / len(w),
        errors_are_those_of_the_weights,
    ),
    "bias of the wrong sign": Mutant(
        statistics, "leading_bias", lambda w: 0.5 * statistics.standard_error(w) ** 2, errors_are_those_of_the_weights
    ),
    "ESS of unnormalised weights": Mutant(
        statistics, "effective_sample_size", lambda w: 1 / w.exp().square().sum(0), errors_are_those_of_the_weights
    ),
    "test tail dropped": Mutant(evaluator, "estimate", dropped_tail, every_image_is_scored),
    "NaN filtered out": Mutant(
        sys.modules["bitsperdim.evaluation.estimate"],
        "_refuse_nan",
        mean_with_nan_removed,
        nan_is_refused,
    ),
    "edge cells of finite width": Mutant(DiscretizedNormal, "log_cells", finite_edges, discretized_masses_sum_to_one),
    "density for mass": Mutant(DiscretizedLogistic, "log_cells", density_at_the_centre, discretized_masses_sum_to_one),
    "edge cells of finite width in colour": Mutant(
        DiscretizedLogistic, "log_cells", coupled.finite_edges, coupled.conditionals_sum_to_one
    ),
    "coefficients of blue swapped": Mutant(
        CoupledLogisticMixture,
        "component",
        coupled.coupled_by(lambda c, j: c * (c - 1) // 2 + c - 1 - j, lambda c, j: j, 1.0),
        coupled.masses_are_those_of_the_formula,
    ),
    "coupled to the channel itself": Mutant(
        CoupledLogisticMixture,
        "component",
        coupled.coupled_by(lambda c, j: c * (c - 1) // 2 + j, lambda c, j: j + 1, 1.0),
        coupled.conditionals_sum_to_one,
    ),
    "coupling counted from level 0": Mutant(
        CoupledLogisticMixture,
        "component",
        coupled.coupled_by(lambda c, j: c * (c - 1) // 2 + j, lambda c, j: j, 0.0),
        coupled.masses_are_those_of_the_formula,
    ),
    "weights not updated by earlier channels": Mutant(
        CoupledLogisticMixture, "given", coupled.weights_of_the_prior, coupled.masses_are_those_of_the_formula
    ),
    "weights updated by the channel itself": Mutant(
        CoupledLogisticMixture, "given", coupled.weights_that_know_the_channel, coupled.conditionals_sum_to_one
    ),
    "samples choose a component per channel": Mutant(
        CoupledLogisticMixture, "sample", coupled.an_indicator_per_channel, coupled.samples_follow
    ),
    "pixels for sub-pixels": Mutant(units, "n_dims", lambda shape: shape[1] * shape[2], a_coin_costs_a_bit),
    "nats for bits": Mutant(units, "NATS_PER_BIT", 1.0, a_coin_costs_a_bit),
    "entropy in nats": Mutant(yardsticks, "nats_to_bits", lambda nats: nats, entropy_is_in_bits_per_dimension),
    "spread not divided by root N": Mutant(
        summary, "mean_error", lambda log_p: float(log_p.std()), the_number_is_the_mean_of_the_images
    ),
    "validation also trained on": Mutant(
        preparation, "split_indices", overlapping_split, validation_comes_from_training
    ),
    "scaled by L - 1 and rounded": Mutant(
        preparation,
        "quantize",
        lambda x, n, bits: np.rint(x / (n - 1) * (2**bits - 1)).astype(np.uint8),
        quantization_reaches_every_level,
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
