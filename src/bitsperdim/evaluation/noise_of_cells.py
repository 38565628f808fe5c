r"""Which noise ties a density to masses when it is scored: the noise that fits its structure.

==============  ======================================================================================================
``sequential``  of one triangular map: each sub-pixel from its conditional, truncated to the cell, given those before
                (:mod:`bitsperdim.models.parts.triangular`), shifted by what some draws that are thrown away have said
``fitted``      of any other density, if asked for: a conditional flow r(u given x)
                (:class:`~bitsperdim.models.parts.dequantization.VariationalDequantizer`) that maximizes the bound of
                *training* images, with the density as it is
own             uniform noise, or what the density learned in training
==============  ======================================================================================================

All are proposals for the same P(x): the number is a bound whichever is chosen, and it is chosen by the model and the
parameters alone. A fit sees training images only, so that no test image has an influence on its own proposal.

Models that were made elsewhere keep uniform noise: whether they are one triangular map is not known, and they need not
have derivatives.

Invariants (``tests/evaluation/test_noise_of_cells.py``): the structure decides (``test_the_structure_decides``); fitted
noise is a bound of the same mass (``test_fitted_noise_is_of_the_same_mass``), and better than uniform noise
(``test_fitted_noise_is_better``); it is the same bits after an interruption (``test_a_fit_is_taken_over``).
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

CLIPPED = 10.0  # largest norm of a gradient
WARM_UP = 50  # steps in which the learning rate rises
BACKWARD = 3  # passes that a step costs: forward, and twice as much for derivatives


def chosen(
    model: ImageModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> NoiseFrom:
    """Return what the samples of a model come from; of no density, and of one that is scored without noise, ``own``.

    Args:
        model: in evaluation mode on its device.
        prepared: with the training split if noise may be fitted.
        section: of the evaluation.
        seed: of the training of the model.
        checkpoint: where a fit is kept; None: nowhere.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    if not isinstance(model, DensityModel) or model.kind != "lower" or section.noise == "own":
        return "own"
    if model.is_triangular:
        return "sequential"
    if section.noise != "fitted" or not can_be_fitted(model):
        return "own"
    return fitted(model, prepared, section, seed, checkpoint)


def can_be_fitted(model: DensityModel) -> bool:
    """Return whether a conditional flow can be fitted to a density: one of this package, of two pixels or more."""
    return model.origin is None and model.image_shape[1] * model.image_shape[2] > 1


def fitted(
    model: DensityModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> VariationalDequantizer:
    """Return a conditional flow that is fitted to a density on training images; see :func:`chosen`."""
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

    # one process fits, and all of them score with the same weights
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
    """Maximize the bound of the training images in the weights of the noise alone, by Adam with a falling rate.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    images = torch.from_numpy(prepared.images["train"]).to(model.device)
    is_drawn, levels = prepared.description.binarization == "dynamic", prepared.description.train_levels
    optimizer = torch.optim.Adam(noise.parameters(), lr=section.learning_rate)
    n_batches = math.ceil(len(images) / section.batch_size)
    cost = Announcement("fit noise", section.epochs * len(images), "its epochs are evaluate.fitted_noise.epochs")
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
    """Return the share of the learning rate: it rises for some steps and falls along a half cosine."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def passes_of_fit(section: FittedNoiseSection, prepared: PreparedImages) -> int:
    """Return what a fit costs, in passes of the density's network for one image."""
    return BACKWARD * section.epochs * section.train_samples * len(prepared.images["train"])
