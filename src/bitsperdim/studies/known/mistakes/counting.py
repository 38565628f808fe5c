"""Mistakes in counting: in the terms of a sum, in its divisor, and in the unit of the result."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bitsperdim.comparing.estimates import compare
from bitsperdim.core.units import NATS_PER_BIT
from bitsperdim.evaluation.evaluate import evaluate
from bitsperdim.studies.known.mistakes.bench import Bench
from bitsperdim.studies.known.mistakes.mistake import DoesNotApplyError, Foreign, Made, Mistake, number_of
from bitsperdim.studies.known.mistakes.models import Raster

MASS = ("sum over tiny images", "annealed mass", "slice", "range", "codes")
N_PADDED = 8  # a set is padded, or cut, to a multiple of this number


def batch_size(bench: Bench) -> int:
    """Return a batch size for which the last batch is much smaller than the others."""
    n_images = len(bench.test)
    return max(1, (n_images - 1) // 3)


def batches(bench: Bench) -> list[Tensor]:
    """Return log P of the test images, one tensor for each batch."""
    return list(bench.log_p.split(batch_size(bench)))


def by_hardness(bench: Bench) -> Tensor:
    """Return the indices of the test images, the most likely image first."""
    return bench.log_p.argsort(descending=True)


def of_raster(change: Callable[[Tensor, int], Tensor]) -> Callable[[Bench], Foreign]:
    """Return a model that offers ``log_prob``: log P of the masked convolutions after ``change(log_p, n_dims)``."""

    def made(bench: Bench) -> Foreign:
        def around(raster: Raster) -> Callable[[Tensor], Tensor]:
            @torch.no_grad()
            def log_prob(x: Tensor) -> Tensor:
                return change(raster.log_p(x), x[0].numel())

            return log_prob

        def build(image_shape: tuple[int, int, int], n_levels: int) -> object:
            return around(Raster(image_shape, n_levels).eval())

        return Foreign(around(bench.raster), {"offers": "log_prob", "build": build})

    return made


def wrong_divisor(bench: Bench) -> Made:
    """Divide by the index of the last batch."""
    means = torch.stack([number.mean() for number in batches(bench)])
    if len(means) < 2:
        raise DoesNotApplyError("There is one image only, and one batch.")
    wrong = number_of(bench.log_p, bench) * len(means) / (len(means) - 1)
    return Made(wrong, number_of(bench.log_p, bench))


def dropped_tail(bench: Bench) -> Made:
    """Leave out the last images, which would be the hardest ones in a sorted set."""
    n_kept = (len(bench.test) - 1) // N_PADDED * N_PADDED
    if n_kept == 0:
        raise DoesNotApplyError(f"There are fewer than {N_PADDED + 1} images.")
    kept = bench.test[:n_kept]
    wrong = bench.estimate(bench.log_p[:n_kept], bench.named(kept), "the set without its tail")
    right = bench.estimate(bench.log_p, bench.data, "the test set")
    return Made(wrong.bits_per_dim, right.bits_per_dim, provoke=lambda: compare(right, wrong))


def padded(bench: Bench) -> Made:
    """Fill the last batch with the first images."""
    n_images = len(bench.test)
    rows = torch.arange(n_images + N_PADDED - n_images % N_PADDED) % n_images
    wrong = bench.estimate(bench.log_p[rows], bench.named(bench.test[rows]), "the set with duplicates")
    right = bench.estimate(bench.log_p, bench.data, "the test set")
    return Made(wrong.bits_per_dim, right.bits_per_dim, provoke=lambda: compare(right, wrong))


def last_batch(bench: Bench) -> Made:
    """Return the number of the last batch instead of the sum over batches."""
    return Made(number_of(batches(bench)[-1], bench), number_of(bench.log_p, bench))


def mean_of_means(bench: Bench) -> Made:
    """Average the means of batches, of which the last one is smaller."""
    means = torch.stack([number.mean() for number in batches(bench)])
    return Made(number_of(means, bench), number_of(bench.log_p, bench))


def nan_filtered(bench: Bench) -> Made:
    """Make log P of the hardest images NaN, and average the others."""
    n_lost = max(1, len(bench.test) // 10)
    if n_lost == len(bench.test):
        raise DoesNotApplyError("There is one image only.")
    kept = by_hardness(bench)[:-n_lost]
    limit = bench.log_p[kept].min()

    @torch.no_grad()
    def log_prob(x: Tensor) -> Tensor:
        log_p = bench.raster.log_p(x)
        return torch.where(log_p < limit, math.nan, log_p)

    return Made(
        number_of(bench.log_p[kept], bench),
        number_of(bench.log_p, bench),
        provoke=lambda: evaluate(log_prob, bench.test.numpy(), n_levels=bench.n_levels, offers="log_prob"),
    )


def nats_as_bits(bench: Bench) -> Made:
    """Leave out the division by log 2."""
    return Made(bench.log_p * NATS_PER_BIT, bench.log_p, of_raster(lambda log_p, n_dims: log_p * NATS_PER_BIT)(bench))


def bits_as_nats(bench: Bench) -> Made:
    """Divide by log 2 twice."""
    return Made(bench.log_p / NATS_PER_BIT, bench.log_p, of_raster(lambda log_p, n_dims: log_p / NATS_PER_BIT)(bench))


def mean_over_sub_pixels(bench: Bench) -> Made:
    """Average the log-masses over the sub-pixels instead of adding them up."""
    return Made(bench.log_p / bench.n_dims, bench.log_p, of_raster(lambda log_p, n_dims: log_p / n_dims)(bench))


def pixels_for_sub_pixels(bench: Bench) -> Made:
    """Divide by the number of pixels H W instead of the number of sub-pixels C H W."""
    if bench.shape[0] == 1:
        raise DoesNotApplyError("Grey images have one sub-pixel in each pixel.")
    return Made(bench.log_p * bench.shape[0], bench.log_p)


MISTAKES = (
    Mistake(
        "Wrong divisor",
        "The sum over batches is divided by the index of the last batch, which is one less than their number.",
        wrong_divisor,
        "law",
        law="evaluation/test_evaluation.py::test_the_mean_of_the_images_is_the_number",
        source="pclucas14/pixel-cnn-pp, its test loop",
    ),
    Mistake(
        "Dropped tail",
        f"The images that do not fill a last batch are left out; here batches have {N_PADDED} images.",
        dropped_tail,
        "comparison",
        law="evaluation/test_estimate.py::test_no_image_is_dropped",
        source="openai/pixel-cnn, iterator of CIFAR-10 (with 16 images on each of 8 GPUs, 9,984 of 10,000)",
    ),
    Mistake(
        "Padded with duplicates",
        f"A sampler for several processes repeats images until their number is a multiple, here of {N_PADDED}.",
        padded,
        "comparison",
        law="evaluation/test_estimate.py::test_no_image_is_dropped",
        source="mosaicml/composer pull request 2218 (fixed by it); pytorch/pytorch issue 22584",
    ),
    Mistake(
        "Only the last batch",
        "The number of the last batch is returned in place of the sum over all of them.",
        last_batch,
        "law",
        law="evaluation/test_estimate.py::test_no_image_is_dropped",
        source="scverse/scvi-tools issue 1032 (fixed)",
    ),
    Mistake(
        "Mean of the means of batches",
        "The means of batches are averaged although the last batch is smaller, so that its images count more.",
        mean_of_means,
        "law",
        law="evaluation/test_evaluate.py::test_sizes_change_no_exact_number_and_a_bound_within_its_errors",
    ),
    Mistake(
        "NaN filtered",
        "Images whose log P is NaN are left out of the average; here it is the hardest tenth of them.",
        nan_filtered,
        "refusal",
        law="evaluation/test_estimate.py::test_nan_and_plus_infinity_are_fatal_and_name_the_image",
        source="VincentStimper/normalizing-flows, bitsPerDimDataset",
    ),
    Mistake(
        "Nats for bits",
        "Nats per dimension are printed as bits per dimension: the division by log 2 is missing.",
        nats_as_bits,
        "audit",
        checks=MASS,
        law="core/test_units.py::test_a_fair_coin_costs_one_bit_per_dimension",
    ),
    Mistake(
        "Bits for nats",
        "log2 P stands where nats are expected, and is divided by log 2 once more.",
        bits_as_nats,
        "audit",
        checks=MASS,
        law="core/test_units.py::test_a_published_pair_of_numbers",
        source="Keng's essay on variational autoencoders, the column of CIFAR-10 beside its notebook",
    ),
    Mistake(
        "Mean over sub-pixels",
        "The log-masses of the sub-pixels of an image are averaged where log P is their sum.",
        mean_over_sub_pixels,
        "audit",
        checks=MASS,
        source="pytorch/examples issue 817 (asked of the VAE example)",
    ),
    Mistake(
        "Pixels for sub-pixels",
        "log P of a colour image is divided by the number of pixels, and the result is called bits/dim.",
        pixels_for_sub_pixels,
        "law",
        law="core/test_units.py::test_colour_channels_count_as_dimensions",
    ),
)
