r"""Further metrics of models with a latent code, beside their importance-sampled likelihood.

*Active units* (Burda et al. 2016, section 5.2): a unit of the code is active if the mean of its posterior varies with
the image, :math:`A_u = \mathrm{Var}_x \, \mathbb E_{q(u \mid x)}[u] > 0.01`. In the first stochastic layer this mean is
a parameter of q. In deeper layers it is an average over draws of the layer before. There the variance is computed as
the covariance of two independent averages, so that the noise of the averages does not add to it.

*Annealed importance sampling* (:mod:`bitsperdim.evaluation.annealed`) for some test images, and for images drawn from
the model itself. If proposals are refined (:mod:`bitsperdim.evaluation.refined`), annealing starts at a refined normal
of each image, with its own random numbers, and measures the remaining gap between this normal and the posterior.
Otherwise it starts from the prior and does not use the encoder. If its estimate is then above the importance-sampled
one, the proposal limits the importance-sampled estimate. Both are lower bounds in expectation on the same images, so
their difference is paired (over the images to which the estimate gives any probability). For drawn images there is also
an upper bound. The gap between the bounds shows how large the error of this amount of annealing can be there.

Images are annealed in blocks, each with its own random numbers: see :mod:`bitsperdim.runtime.shards`.

Invariants (``tests/evaluation/test_latent.py``): a unit that varies with the image is active and others are not, in
every layer (``test_active_units``); the reported numbers are those of the annealing and of the estimate
(``test_annealing_is_summarised``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bitsperdim.config.params import AnnealedSection, EvaluateSection, RefinedSection
from bitsperdim.core.announcing import Announcement
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.estimators.log_weights import mean_error
from bitsperdim.evaluation.annealed import ais, bdmc, n_gradients
from bitsperdim.evaluation.estimate import Estimate
from bitsperdim.evaluation.rate_distortion import rate_distortion
from bitsperdim.evaluation.refined import generators_of, is_refined, refine
from bitsperdim.likelihoods import LatentDensity
from bitsperdim.models import ImageModel, LatentModel
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import is_first, world_size
from bitsperdim.runtime.shards import in_blocks

ACTIVE = 0.01  # variance of the posterior mean over images
DRAWS = 16  # draws of the previous layers, for each of the two averages
FEWEST, MOST = 2, 20  # limits for the number of annealed images if this number is null
SHARE = 10  # annealing takes at most 1/SHARE of the passes of the importance samples, for each kind of images
CHAINS_AT_ONCE = 400  # chains in memory at once, of all images that are annealed together


def of_the_code(
    model: ImageModel,
    prepared: PreparedImages,
    estimated: Estimate,
    section: EvaluateSection,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Return metrics of active units, of annealing, and of the terms of the lower bound at K = 1.

    Args:
        model: model of the first seed, in evaluation mode on its device.
        prepared: prepared images with the test split.
        estimated: estimate of this model for all test images.
        section: evaluation settings.
        device: device of the model.
        checkpoint: place where finished images are stored; None: they are not stored.

    Returns:
        Metrics by name; an empty dict for a model without a latent code, or without derivatives in it.

    Raises:
        FloatingPointError: a log-weight of annealing is NaN or +inf.
    """
    if not isinstance(model, LatentModel) or not model.has_derivatives:
        return {}
    images = torch.from_numpy(prepared.images["test"]).to(device)
    generator = stream("active_units", section.seed, device=device)
    found: dict[str, Any] = active_units(model, images, generator, section.batch_size)
    asked = in_proportion(section, len(images))
    n_images, n_simulated = asked.n_images or 0, asked.n_simulated or 0
    with tqdm(total=n_images + n_simulated, desc="anneal", unit="image", disable=None if is_first() else True) as bar:
        refining = section.refined if is_refined(model, section) else None
        annealed = annealing(
            model,
            prepared,
            estimated,
            asked,
            section.seed,
            device,
            progress=bar.update,
            checkpoint=checkpoint,
            refining=refining,
        )
    in_terms = rate_distortion(model, prepared, estimated, section, device, checkpoint)
    more = {"annealed": annealed, "rate_distortion": in_terms}
    return found | {key: value for key, value in more.items() if value}


def in_proportion(section: EvaluateSection, n_test: int) -> AnnealedSection:
    """Return the settings of annealing, with numbers of images in place of null, and no more images than there are.

    If a number is null, annealing takes at most a tenth as many gradients as the importance samples take passes, N * K.
    Both kinds of images together then take at most a fifth. The number of images is at most 20, and at least 2, because
    one image has no standard error. The result depends on sizes only: no time is measured.

    Args:
        section: evaluation settings.
        n_test: number N of test images.
    """
    asked = section.annealed
    numbers = []
    for number, n_directions in ((asked.n_images, 1), (asked.n_simulated, 2)):
        each = n_gradients(asked.n_chains, asked.n_steps, asked.n_leapfrog, n_directions)
        affordable = n_test * section.n_samples // (SHARE * each)
        numbers.append(min(max(affordable, FEWEST), MOST) if number is None else number)
    return asked.model_copy(update={"n_images": min(numbers[0], n_test), "n_simulated": numbers[1]})


@torch.no_grad()
def active_units(model: LatentModel, images: Tensor, generator: torch.Generator, batch_size: int) -> dict[str, int]:
    """Return how many units the latent code has, and how many of them are active.

    Args:
        model: model in evaluation mode.
        images: images, (N, C, H, W), integers, on the device of the model.
        generator: random number generator for the draws of deeper layers.
        batch_size: number of images at a time.

    Returns:
        ``n_units`` and ``n_active_units``; an empty dict for fewer than two images, which have no variance.

    Raises:
        ValueError: the model is in training mode, or an argument does not fit it.
    """
    model.check_mode("counting active units")
    model.check(images)
    model.check_places(images, generator=generator)
    if len(images) < 2:
        return {}
    averages: list[list[Tensor]] = [[], []]
    for x in images.split(batch_size):
        encoded = model.encode(x)
        for found in averages:
            found.append(encoded.mean_of_each(DRAWS, generator=generator))  # (B, Z)
    first, second = (torch.cat(found).double() for found in averages)
    covariance = ((first - first.mean(0)) * (second - second.mean(0))).sum(0) / (len(images) - 1)
    return {"n_units": len(covariance), "n_active_units": int((covariance > ACTIVE).sum())}


def annealing(
    model: LatentModel,
    prepared: PreparedImages,
    estimated: Estimate,
    section: AnnealedSection,
    seed: int,
    device: torch.device,
    progress: Callable[[int], object] = lambda _: None,
    checkpoint: Checkpoint | None = None,
    refining: RefinedSection | None = None,
) -> dict[str, Any]:
    """Anneal some test images and some drawn images, and return metrics in nats per image.

    Args:
        model: model in evaluation mode.
        prepared: prepared images with the test split.
        estimated: estimate of the same model for all test images.
        section: numbers of images, chains and steps; a number of images that is null counts as 0, see
            :func:`in_proportion`.
        seed: evaluation seed.
        device: device of the model.
        progress: function that is called with the number of newly finished images.
        checkpoint: place where finished images are stored; None: they are not stored.
        refining: settings for refining the start of each image; None: chains start at the prior.

    Returns:
        Metrics by name; an empty dict if both numbers of images are 0.

    Raises:
        FloatingPointError: a log-weight is NaN or +inf.
    """
    metrics: dict[str, Any] = {}
    settings = {"n_chains": section.n_chains, "n_steps": section.n_steps}
    chains: dict[str, Any] = {**settings, "n_leapfrog": section.n_leapfrog}
    test, at_once = prepared.images["test"], max(1, CHAINS_AT_ONCE // section.n_chains)

    def cost(title: str, n_images: int, n_directions: int) -> Callable[[int], None]:
        total = n_images * n_gradients(**chains, n_directions=n_directions) // world_size()
        key = "n_images" if n_directions == 1 else "n_simulated"
        advice = f"a smaller evaluate.annealed.{key} takes less time, and 0 skips this part"
        return Announcement(f"{title} {n_images} images", total, advice).step

    def start_of(x: Tensor, numbers: Sequence[int], is_simulated: bool) -> LatentDensity | None:
        if refining is None:
            return None
        generators = generators_of(numbers, seed, int(is_simulated), purpose="annealed_start")
        return refine(model, x, refining, generators).proposal.parts[0]

    def rows_of(name: str, n_images: int, n_columns: int, work: Callable[[range], Tensor]) -> Iterator[Tensor]:
        place = None if checkpoint is None else checkpoint.part(name)
        options: dict[str, Any] = {"device": device, "checkpoint": place}
        rows = in_blocks(name, n_images, at_once, n_columns, work, progress=lambda new: progress(len(new)), **options)
        return iter(rows.T.contiguous())

    if section.n_images:
        first_bound = cost("annealing", min(section.n_images, len(test)), 1)
        chosen = torch.randperm(len(test), generator=stream("annealed_images", seed))[: section.n_images].sort().values

        def annealed(block: range) -> Tensor:
            x = torch.from_numpy(test[chosen[block.start : block.stop].numpy()]).to(device)
            generator = stream("annealing", seed, block.start, device=device)
            start = start_of(x, chosen[block.start : block.stop].tolist(), False)
            found = ais(model, x, generator=generator, progress=first_bound, start=start, **chains)
            return torch.stack([found.log_p, found.standard_error, found.acceptance.mean(0)], dim=1)

        same_as = chosen if "test" not in prepared.same_as else torch.from_numpy(prepared.same_as["test"])[chosen]
        log_p, error, acceptance = rows_of("annealing", len(chosen), 3, annealed)
        possible = estimated.log_p[chosen].isfinite()  # an image with probability 0 has no finite difference
        difference = log_p[possible] - estimated.log_p[chosen][possible]
        metrics |= {
            "n_images": len(chosen),
            **settings,
            "acceptance": float(acceptance.mean()),
            "log_p_nats": float(log_p.mean()),
            "log_p_nats_standard_error": mean_error(log_p, same_as),
            "monte_carlo_error_nats": float(error.square().sum().sqrt() / len(chosen)),
            "importance_sampled_nats": float(estimated.log_p[chosen].mean()),
            "above_importance_sampled_nats": float(difference.mean()) if len(difference) else math.inf,
            "above_importance_sampled_nats_standard_error": mean_error(difference, same_as[possible]),
        }
    if section.n_simulated:
        both_bounds = cost("bracketing", section.n_simulated, 2)

        def bracketed(block: range) -> Tensor:
            generator = stream("simulation", seed, block.start, device=device)
            of_images = partial(start_of, numbers=block, is_simulated=True)
            bracket = bdmc(model, len(block), generator=generator, progress=both_bounds, start_of=of_images, **chains)
            return torch.stack([bracket.lower, bracket.upper], dim=1)

        lower, upper = rows_of("simulation", section.n_simulated, 2, bracketed)
        metrics["simulated"] = {
            "n_images": section.n_simulated,
            **settings,
            "lower_nats": float(lower.mean()),
            "upper_nats": float(upper.mean()),
            "gap_nats": float((upper - lower).mean()),
            "gap_nats_standard_error": mean_error(upper - lower),
        }
    return metrics
