r"""The terms of the evidence lower bound (ELBO) of a model with a latent code, and its gap to log P(x).

.. math:: -\mathrm{ELBO}_q(x) = \underbrace{\mathbb E_q[-\log p(x \mid z)]}_{\text{distortion}}
          + \underbrace{\mathbb E_q\Big[\log \frac{q(z)}{p(z)}\Big]}_{\text{rate}}

(Alemi et al. 2018, "Fixing a Broken ELBO"). On some test images both terms are estimated under two proposals. One is
the encoder. The other is, for each image, the best normal that an optimization of the ELBO found when started at the
encoder's normal. The gap between log P(x) and the encoder's ELBO then has two parts (Cremer, Li and Duvenaud 2018,
"Inference Suboptimality in Variational Autoencoders"):

.. math:: \log P(x) - \mathrm{ELBO}_q = \underbrace{\log P(x) - \mathrm{ELBO}_{q^*}}_{\text{approximation gap}}
          + \underbrace{\mathrm{ELBO}_{q^*} - \mathrm{ELBO}_q}_{\text{amortization gap}}

The approximation gap is due to the family of proposals: no normal with independent coordinates equals the posterior.
The amortization gap is due to the encoder: one network for all images does not give each image its best normal. The
lower bound with K samples from the evaluation replaces :math:`\log P(x)`, and :math:`q^*` is the best normal that was
found. The true approximation gap is therefore at least the reported one, with one exception: an optimization that stops
short of the best normal makes the reported approximation gap larger and the amortization gap smaller.

The refined proposal of :mod:`bitsperdim.evaluation.refined` differs: it has a covariance, it is optimized for the bound
with several samples, and it is widened. The last two lower the bound at K = 1 by some nats, but avoid heavy tails. The
normals in this module belong to the encoder's family.

Both proposals use the same standard normal noise, so that the noise of their difference is small. The standard errors
are computed over images and contain the Monte Carlo noise.

Invariants (``tests/evaluation/test_rate_distortion.py``): in a conjugate model the terms equal their closed forms
(``test_the_terms_are_those_of_a_conjugate_model``); there a wrong encoder has an amortization gap only, and coupled
coordinates have an approximation gap (``test_the_gaps_are_those_of_a_conjugate_model``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bitsperdim.config.params import EvaluateSection
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation.contrast import MOST, chosen_images, n_contrasted
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.evaluation.refined import generators_of, optimized
from bitsperdim.likelihoods import LatentDensity
from bitsperdim.models import LatentModel
from bitsperdim.models.latent import LatentNormal
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import is_first
from bitsperdim.runtime.shards import in_blocks

N_SAMPLES = 256  # samples for each term
STEPS = 4  # times the number of steps of a refinement, with one sample each
SLOWER = 2  # divides the learning rate of a refinement


def rate_distortion(
    model: LatentModel,
    prepared: PreparedImages,
    estimated: Estimate,
    section: EvaluateSection,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Return the terms and the gaps for some test images, in nats per image.

    Args:
        model: model of the first seed, in evaluation mode on its device, with derivatives in the code.
        prepared: prepared images with the test split.
        estimated: estimate of this model for all test images.
        section: evaluation settings.
        device: device of the model.
        checkpoint: place where finished images are stored; None: they are not stored.

    Returns:
        Metrics by name; an empty dict if the number of images is 0, or if no image has finite terms.
    """
    test = prepared.images["test"]
    n_images = min(n_contrasted(section, len(test)), MOST)
    if not n_images:
        return {}
    chosen, same_as = chosen_images(n_images, prepared, section.seed)

    def work(block: range) -> Tensor:
        numbers = chosen[block.start : block.stop]
        x = torch.from_numpy(test[numbers.numpy()]).to(device)
        with torch.no_grad():
            proposals: tuple[LatentDensity, ...] = (model.encode(x), best_normal(model, x, section, numbers.tolist()))
        purpose = ("rate_distortion", section.seed, block.start)
        found = [
            terms(model, x, proposal, stream(*purpose, device=device), section.chunk_size) for proposal in proposals
        ]
        return torch.cat(found, dim=1).cpu()

    with tqdm(total=n_images, desc="terms", unit="image", disable=None if is_first() else True) as bar:
        rows = in_blocks(
            "rate and distortion",
            n_images,
            section.batch_size,
            4,
            work,
            device=device,
            checkpoint=None if checkpoint is None else checkpoint.part("terms"),
            progress=lambda new: bar.update(len(new)),
        )
    log_p = estimated.log_p[chosen]
    possible = torch.cat([rows, log_p[:, None]], dim=1).isfinite().all(1)
    if not possible.any():
        return {}
    return summarised(rows[possible], log_p[possible], same_as[possible])


@torch.no_grad()
def best_normal(model: LatentModel, x: Tensor, section: EvaluateSection, numbers: list[int]) -> LatentNormal:
    """Optimize the normal of each image for the highest evidence lower bound and return the normals, (B, Z).

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        section: evaluation settings.
        numbers: indices of the images, which determine their random numbers.
    """
    asked, normal = section.refined, model.encode_as_normal(x)
    offsets = torch.zeros(2, *normal.mean.shape, dtype=normal.mean.dtype, device=x.device)
    generators = generators_of(numbers, section.seed, purpose="best_normal")
    found = optimized(model, x, offsets, STEPS * asked.n_steps, 1, asked.learning_rate / SLOWER, generators)
    return normal.moved(*found)


@torch.no_grad()
def terms(
    model: LatentModel, x: Tensor, proposal: LatentDensity, generator: torch.Generator, chunk_size: int
) -> Tensor:
    """Return distortion and rate of each image as means over samples, (B, 2) float64 in nats.

    Args:
        model: model in evaluation mode.
        x: images, (B, C, H, W).
        proposal: density of the latent codes, (B, Z).
        generator: random number generator for the samples.
        chunk_size: number of samples at a time.
    """
    totals = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
    prior = model.prior()
    for first in range(0, N_SAMPLES, chunk_size):
        z = proposal.rsample(min(chunk_size, N_SAMPLES - first), generator=generator)
        totals[0] -= model.log_p_x_given_z(x, z).double().sum(0)
        totals[1] += (proposal.log_prob(z).double() - prior.log_prob(z).double()).sum(0)
    return (totals / N_SAMPLES).t()


def summarised(rows: Tensor, log_p: Tensor, same_as: Tensor) -> dict[str, Any]:
    """Return the entry ``rate_distortion`` of ``metrics.json``.

    Args:
        rows: distortion and rate of the encoder, then of the best normal, (n, 4) float64 in nats.
        log_p: lower bound with K samples for the same images, (n,), in nats.
        same_as: for each image, the index of the first equal image, (n,).
    """
    by_encoder, by_normal = rows[:, :2], rows[:, 2:]
    amortization = by_encoder.sum(1) - by_normal.sum(1)
    approximation = by_normal.sum(1) + log_p
    return {
        "n_images": len(rows),
        "n_samples": N_SAMPLES,
        "log_p_nats": float(log_p.mean()),
        "encoder": {"distortion_nats": float(by_encoder[:, 0].mean()), "rate_nats": float(by_encoder[:, 1].mean())},
        "normal": {"distortion_nats": float(by_normal[:, 0].mean()), "rate_nats": float(by_normal[:, 1].mean())},
        "amortization_gap_nats": float(amortization.mean()),
        "amortization_gap_nats_standard_error": mean_error(amortization, same_as),
        "approximation_gap_nats": float(approximation.mean()),
        "approximation_gap_nats_standard_error": mean_error(approximation, same_as),
    }
