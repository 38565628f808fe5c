r"""Choice of the dequantization noise with which a density is scored, by the structure of the density.

==============  ======================================================================================================
``sequential``  for a density that is one triangular map: each sub-pixel is drawn from its conditional given the
                sub-pixels before it, truncated to the cell (:mod:`bitsperdim.models.parts.triangular`), and shifted by
                an amount that is learned from some discarded draws
``fitted``      for any other density, if the parameters ask for it: a conditional flow r(u given x)
                (:class:`~bitsperdim.models.parts.dequantization.VariationalDequantizer`) that maximizes the bound of
                *training* images, while the density is kept fixed
``own``         uniform noise, or the noise that the density learned in training
==============  ======================================================================================================

All are proposals for the same P(x): the number is a bound with any of them. The choice depends on the model and the
parameters only. A fit sees training images only, so no test image influences its own proposal.

Models that were made elsewhere keep their own noise, because it is not known whether they are one triangular map, and
because they may have no derivatives. The velocity of a differential equation has derivatives, so noise is fitted to it
if its settings ask for it.

Invariants (``tests/evaluation/test_noise_of_cells.py``): the structure decides (``test_the_structure_decides``); fitted
noise gives a bound on the same mass (``test_fitted_noise_is_of_the_same_mass``), and a better one than uniform noise
(``test_fitted_noise_is_better``); after an interruption the fit is byte-identical (``test_a_fit_is_taken_over``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from bitsperdim.config.params import EvaluateSection, FittedNoiseSection
from bitsperdim.core.announcing import Announcement
from bitsperdim.core.randomness import draw, stream, stream_seed
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.models import DensityModel, ImageModel
from bitsperdim.models.density import NoiseFrom
from bitsperdim.models.parts.dequantization import VariationalDequantizer
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.shards import in_blocks

CLIPPED = 10.0  # largest norm of the gradient after clipping
WARM_UP = 50  # number of steps in which the learning rate rises
BACKWARD = 3  # cost of a training step in passes: one forward, and twice as much for the derivatives


def chosen(
    model: ImageModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> NoiseFrom:
    """Return the source of the dequantization noise for a model.

    It is ``own`` for a model that is not a density, and for a density that is scored without noise.

    Args:
        model: model in evaluation mode on its device.
        prepared: prepared images, with the training split if noise may be fitted.
        section: evaluation settings.
        seed: training seed of the model.
        checkpoint: place where a fit is stored; None: it is not stored.

    Raises:
        InputError: noise must be fitted, but there are no training images, or images have only one pixel.
        FloatingPointError: a loss is not finite.
    """
    if not isinstance(model, DensityModel) or model.kind != "lower" or section.noise == "own":
        return "own"
    if model.is_triangular:
        return "sequential"
    if not (model.fits_noise or (section.noise == "fitted" and can_be_fitted(model))):
        return "own"
    return fitted(model, prepared, section, seed, checkpoint)


def can_be_fitted(model: DensityModel) -> bool:
    """Return whether a conditional flow can be fitted to a density: it is of this package, with at least two pixels."""
    return model.origin is None and model.image_shape[1] * model.image_shape[2] > 1


def fitted(
    model: DensityModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> VariationalDequantizer:
    """Fit a conditional flow to a density on training images and return it; arguments as for :func:`chosen`."""
    asked, device = section.fitted_noise, model.device
    sizes = {"n_couplings": asked.n_couplings, "n_filters": asked.n_filters, "n_blocks": asked.n_blocks}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("fitted_noise", section.seed, seed))
        noise = VariationalDequantizer(model.image_shape, model.n_levels, **sizes)
    noise = noise.to(device, model.dtype)
    n_weights = len(parameters_to_vector(noise.parameters()))

    def work(_: range) -> Tensor:
        fit(noise, model, prepared, asked, stream("fitted_noise", section.seed, seed, device=device))
        return parameters_to_vector(noise.parameters()).detach().double().cpu()[None]

    # one process fits the noise, and all processes score with the same weights
    place = None if checkpoint is None else checkpoint.part("noise")
    (weights,) = in_blocks("fit noise", 1, 1, n_weights, work, device=device, checkpoint=place)
    vector_to_parameters(weights.to(device, model.dtype), noise.parameters())
    return noise.eval().requires_grad_(False)


@torch.enable_grad()
def fit(
    noise: VariationalDequantizer,
    model: DensityModel,
    prepared: PreparedImages,
    section: FittedNoiseSection,
    generator: torch.Generator,
) -> None:
    """Maximize the bound of the training images with Adam, over the weights of the noise only.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    images = torch.from_numpy(prepared.images["train"]).to(model.device)
    is_drawn, levels = prepared.description.binarization == "dynamic", prepared.description.train_levels
    optimizer = torch.optim.Adam(noise.parameters(), lr=section.learning_rate)
    n_batches = math.ceil(len(images) / section.batch_size)
    cost = Announcement("fit noise", section.epochs * len(images), "fewer evaluate.fitted_noise.epochs take less time")
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    model.requires_grad_(False)
    try:
        for step in range(n_steps := section.epochs * n_batches):
            if step % n_batches == 0:
                order = torch.randperm(len(images), generator=generator, device=images.device)
                batches = iter(images[order].split(section.batch_size))
            x = next(batches)
            if is_drawn:
                x = (draw(torch.rand, x.shape, generator, device=x.device) * (levels - 1) < x).to(torch.uint8)
            optimizer.param_groups[0]["lr"] = section.learning_rate * rate(step, n_steps)
            log_w = model.unchecked_log_weights(x, section.train_samples, generator=generator, noise_from=noise)
            loss = -log_mean_exp(log_w).mean()
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss of the fitted noise is {float(loss.detach())} at step {step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(noise.parameters(), CLIPPED)
            optimizer.step()
            cost.step(len(x))
    finally:
        for weight in trainable:
            weight.requires_grad_(True)


def rate(step: int, n_steps: int) -> float:
    """Return the factor of the learning rate: it rises for some steps and falls along a half cosine."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def passes_of_fit(section: FittedNoiseSection, prepared: PreparedImages) -> int:
    """Return the cost of a fit, in passes of one image through the density's network."""
    return BACKWARD * section.epochs * section.train_samples * len(prepared.images["train"])
