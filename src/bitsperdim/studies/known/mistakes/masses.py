"""Mistakes in conditionals: masses that do not sum to one, and networks with wrong inputs, modes or weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.studies.known.mistakes.bench import Bench
from bitsperdim.studies.known.mistakes.mistake import DoesNotApplyError, Foreign, Made, Mistake
from bitsperdim.studies.known.mistakes.models import Another, Raster, bins, looked_up, switched

UNIT = {"inputs": "unit"}
NARROW = 0.12  # a scale in levels, about the smallest scale of PixelCNN++
SWITCHED_BELOW = 1e-5
DROPOUT = 0.3
NOISE = 0.05
SUMS = ("masses sum to one",)


def total(log_masses: Tensor) -> Tensor:
    """Return the sum over sub-pixels, (B,)."""
    return log_masses.flatten(1).sum(1)


def scale_of(bench: Bench) -> Tensor:
    """Return the scale of a logistic: an eighth of the range of levels, and at least half a level."""
    return torch.tensor(max(0.5, (bench.n_levels - 1) / 8), dtype=torch.float64)


def of_bins(**options: Any) -> Callable[[Bench], Made]:  # noqa: ANN401 - options of bins
    """Return a mistake in the masses of a logistic, given by options of :func:`.models.bins`."""

    def made(bench: Bench) -> Made:
        mean, scale = bench.moments[0], scale_of(bench)

        def log_prob(x: Tensor) -> Tensor:
            return bins(x.double(), mean, scale, bench.n_levels, **options)

        right = bins(bench.test.double(), mean, scale, bench.n_levels)
        model = Another(conditionals=lambda x: Another(log_prob=log_prob))
        return Made(total(log_prob(bench.test)), total(right), Foreign(model))

    return made


def small_scale(bench: Bench) -> Made:
    """Use the density in the middle of the cell if the mass is below a limit."""
    if bench.n_levels < 3:
        raise DoesNotApplyError("Two levels have no inner cell.")
    mean = bench.moments[0].round()
    scale = torch.tensor(NARROW, dtype=torch.float64)

    def log_prob(x: Tensor) -> Tensor:
        return switched(x.double(), mean, scale, bench.n_levels, below=SWITCHED_BELOW)

    right = bins(bench.test.double(), mean, scale, bench.n_levels)
    model = Another(conditionals=lambda x: Another(log_prob=log_prob))
    return Made(total(log_prob(bench.test)), total(right), Foreign(model))


def other_axis(bench: Bench) -> Made:
    """Normalize over the columns of the image instead of the levels."""
    raster = bench.raster

    @torch.no_grad()
    def masses(x: Tensor) -> Tensor:
        return raster.logits(x).log_softmax(3)

    def conditionals(x: Tensor) -> Another:
        return Another(log_prob=lambda levels: looked_up(masses(x), levels))

    wrong = total(looked_up(masses(bench.test / (bench.n_levels - 1)), bench.test))
    return Made(wrong, bench.log_p, Foreign(Another(conditionals=conditionals), UNIT))


def sees_itself(bench: Bench) -> Made:
    """Use a mask that includes the predicted sub-pixel."""
    leaking = bench.trained_raster(sees=True)
    return Made(leaking.log_p(bench.test), bench.log_p, Foreign(leaking, UNIT))


def averaged_logits(bench: Bench) -> Made:
    """Average the logits of two orders instead of the probabilities of whole images."""
    one, other = bench.raster, bench.flipped_raster

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return (one.logits(x) + other.logits(x.flip(2, 3)).flip(2, 3)) / 2

    wrong = looked_up(logits(bench.test / (bench.n_levels - 1)).log_softmax(-1), bench.test)
    right = log_mean_exp(torch.stack([bench.log_p, other.log_p(bench.test.flip(2, 3)).double()]))
    return Made(total(wrong), right, Foreign(Another(logits=logits), UNIT))


def dropout(bench: Bench) -> Made:
    """Score in training mode."""
    model = bench.trained_raster(dropout=DROPOUT)
    right = model.log_p(bench.test)
    training = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        wrong = training.log_p(bench.test)
    return Made(wrong, right, Foreign(training, UNIT))


def batch_statistics(bench: Bench) -> Made:
    """Normalize filters by the statistics of the images that are scored together."""
    model = bench.trained_raster(norm=True)
    return Made(model.log_p(bench.test), bench.log_p, Foreign(model, UNIT))


def unseeded(bench: Bench) -> Made:
    """Add noise to the inputs that does not depend on a seed of the caller."""
    noisy = bench.like(Raster, bench.raster, noise=NOISE)
    shifts = NOISE * torch.randn(bench.test.shape, generator=bench.generator(4))
    logits = bench.raster.logits(bench.test / (bench.n_levels - 1) + shifts)
    return Made(total(looked_up(logits.log_softmax(-1), bench.test)), bench.log_p, Foreign(noisy, UNIT))


def other_scale(bench: Bench) -> Made:
    """Give inputs from -1 to 1 to a model that was trained on inputs from 0 to 1."""
    logits = bench.raster.logits(2 * bench.test / (bench.n_levels - 1) - 1)
    wrong = total(looked_up(logits.log_softmax(-1), bench.test))
    return Made(wrong, bench.log_p, Foreign(bench.raster, {"inputs": "symmetric"}))


def levels_for_unit(bench: Bench) -> Made:
    """Give levels to a model that was trained on inputs from 0 to 1."""
    if bench.n_levels == 2:
        raise DoesNotApplyError("Two levels are 0 and 1 either way.")
    raster = bench.raster

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return raster.logits(x * (bench.n_levels - 1))

    wrong = total(looked_up(raster.logits(bench.test.float()).log_softmax(-1), bench.test))
    return Made(wrong, bench.log_p, Foreign(Another(logits=logits), UNIT))


def averages_never_updated(bench: Bench) -> Made:
    """Score averaged weights that were never updated and still have their initial values."""
    untrained = bench.untrained(Raster)
    return Made(untrained.log_p(bench.test), bench.log_p, Foreign(untrained, UNIT))


MISTAKES = (
    Mistake(
        "Edge levels without their tails",
        "The lowest and the highest level get the mass of their own cell alone, so that the tails are lost.",
        of_bins(edges=False),
        "audit",
        checks=SUMS,
        law="likelihoods/test_discretized.py::test_masses_sum_to_one_and_add_up_to_the_cdf",
        source="jmtomczak/vae_vampprior, log_Logistic_256",
    ),
    Mistake(
        "The density at small scales",
        f"Below a mass of {SWITCHED_BELOW:g} the density in the middle of the cell replaces it; the scale is {NARROW}.",
        small_scale,
        "open",
        checks=SUMS,
        law="likelihoods/test_discretized.py::test_the_copied_fallback_is_off_by_two_nats_where_this_one_is_exact",
        source="openai/pixel-cnn, its logistic mixture (asked in its issue 25)",
    ),
    Mistake(
        "1e-7 added to masses",
        "Each mass gets 1e-7 more before its logarithm is taken.",
        of_bins(floor=1e-7),
        "open",
        checks=SUMS,
        law="likelihoods/test_discretized.py::test_a_float32_mass_is_exact_to_rounding",
        source="jmtomczak/vae_vampprior, log_Logistic_256",
    ),
    Mistake(
        "1e-3 added to masses",
        "Each mass gets 1e-3 more before its logarithm is taken.",
        of_bins(floor=1e-3),
        "audit",
        checks=SUMS,
        law="likelihoods/test_discretized.py::test_a_float32_mass_is_exact_to_rounding",
    ),
    Mistake(
        "A softmax along another axis",
        "Logits are normalized over the columns of the image where it should be over the levels.",
        other_axis,
        "audit",
        checks=SUMS,
        law="likelihoods/test_categorical.py::test_masses_sum_to_one",
    ),
    Mistake(
        "A mask that leaks",
        "The masked convolution sees the sub-pixel that it predicts.",
        sees_itself,
        "audit",
        checks=("causality",),
        law="evaluation/test_evaluation.py::test_a_model_that_looks_ahead_has_no_number",
        source="asked in pclucas14/pixel-cnn-pp issue 24 (the difference went with a newer PyTorch)",
    ),
    Mistake(
        "Logits averaged over orders",
        "Two orders of the sub-pixels are mixed by averaging their logits, so that each sub-pixel sees all others.",
        averaged_logits,
        "audit",
        checks=("causality",),
        law="evaluation/test_evaluation.py::test_a_model_that_looks_ahead_has_no_number",
        source="karpathy/pytorch-made, run.py",
    ),
    Mistake(
        "Dropout in use",
        "The model is scored in training mode.",
        dropout,
        "audit",
        checks=("evaluation mode",),
        law="evaluation/test_refusals.py::test_what_does_not_fit_is_one_sentence",
    ),
    Mistake(
        "Batch statistics in use",
        "Filters are normalized by the mean and spread of the images that happen to be scored together.",
        batch_statistics,
        "audit",
        checks=("alone or in a batch",),
    ),
    Mistake(
        "Noise that no seed governs",
        f"The network adds noise of {NOISE} to its inputs, from its own random generator.",
        unseeded,
        "audit",
        checks=("repeatable",),
    ),
    Mistake(
        "Inputs on another scale",
        "The model was trained on values from 0 to 1 and gets values from -1 to 1.",
        other_scale,
        "audit",
        checks=("inputs",),
    ),
    Mistake(
        "Levels where 0 to 1 is meant",
        "The model was trained on values from 0 to 1 and gets the levels.",
        levels_for_unit,
        "audit",
        checks=("range", "codes"),
    ),
    Mistake(
        "Averaged weights that were never updated",
        "The average of the weights is scored, but training did not update it: it has the first weights.",
        averages_never_updated,
        "audit",
        checks=("range", "codes"),
        law="training/test_training.py::test_the_average_is_validated_and_kept",
        source="openai/pixel-cnn issue 1 (9.41 bits/dim after each of three epochs; closed)",
    ),
)
