r"""What is reported of models with a latent code beside their importance-sampled likelihood.

*Active units* (Burda et al. 2016, section 5.2): a unit of the code is active where the mean of its posterior moves with
the image, :math:`A_u = \mathrm{Var}_x \, \mathbb E_{q(u \mid x)}[u] > 0.01`. In the first stochastic layer that mean is
a parameter of q. Deeper it is an average over draws of the layer before: the variance is then the covariance of two
independent averages, which has no share of their noise.

*Annealed importance sampling* (:mod:`bitsperdim.evaluation.annealed`) of some test images, and of images drawn from the
model itself. Where proposals are refined (:mod:`bitsperdim.evaluation.refined`) it starts at the refined normal of each
image, with random numbers of its own, and says what is left of the gap between that normal and the posterior.
Elsewhere it starts from the prior and owes nothing to the encoder: where it is above the importance-sampled
number, that one is held back by its proposal. Both are lower bounds in expectation, on the same images, so that their
difference is paired (over the images that the estimate gives any mass). For drawn images there is an upper bound too,
and the gap says how far this much annealing can be off there.

Images are annealed in blocks, each with random numbers of its own: see :mod:`bitsperdim.runtime.shards`.

Invariants (``tests/evaluation/test_latent.py``): a unit that the image moves is active and others are not, in every
layer (``test_active_units``); the numbers are those of the annealing and of the estimate
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
DRAWS = 16  # of the layers before, for each of two averages
FEWEST, MOST = 2, 20  # images that are annealed where their number is null
SHARE = 10  # of the passes that the importance samples take, one in so many, for each kind of images
CHAINS_AT_ONCE = 400  # of all images that are annealed together: they are in memory at once


def of_the_code(
    model: ImageModel,
    prepared: PreparedImages,
    estimated: Estimate,
    section: EvaluateSection,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Return active units, what annealing says, and the terms of the bound at K = 1; of other models, nothing.

    Args:
        model: of the first seed, in evaluation mode on its device.
        prepared: with the test split.
        estimated: of this model and all test images.
        section: of the evaluation.
        device: of the model.
        checkpoint: where annealing keeps its finished images; None: nowhere.

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
            *(model, prepared, estimated, asked, section.seed, device),
            progress=bar.update,
            checkpoint=checkpoint,
            refining=refining,
        )
    in_terms = rate_distortion(model, prepared, estimated, section, device, checkpoint)
    more = {"annealed": annealed, "rate_distortion": in_terms}
    return found | {key: value for key, value in more.items() if value}


def in_proportion(section: EvaluateSection, n_test: int) -> AnnealedSection:
    """Return how to anneal, with numbers of images in place of null, and no more images than there are.

    Where a number is null, annealing takes at most a tenth as many gradients as the importance samples take passes,
    N * K, so that both kinds of images together take at most a fifth; but never more than 20 images, nor fewer than 2,
    for one has no error. It is a function of sizes alone: no time is measured.

    Args:
        section: of the evaluation.
        n_test: N.
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
    """Return how many units of the code there are, and how many are active; of one image, which has no variance, {}.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W) uint8, on the device of the model.
        generator: of the draws of deeper layers.
        batch_size: images at a time.

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
    """Anneal some test images and some drawn images; return metrics in nats per image, {} where none is asked for.

    Args:
        model: in evaluation mode.
        prepared: with the test split.
        estimated: of the same model and all test images.
        section: how many images, chains and steps; null of either number counts as 0: see :func:`in_proportion`.
        seed: of the evaluation.
        device: of the model.
        progress: called with the number of images done.
        checkpoint: where finished images are kept; None: nowhere.
        refining: how the start of each image is refined; None: chains start at the prior.

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
        advice = f"a smaller evaluate.annealed.{key} takes less, and 0 leaves it out"
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
        possible = estimated.log_p[chosen].isfinite()  # an image that has no mass has no difference
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
