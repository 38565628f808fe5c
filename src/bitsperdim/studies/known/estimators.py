r"""Estimators of a marginal likelihood, held against models whose marginal is known (:mod:`.marginals`).

What an estimator says of a model is a statement about *that model's* log P(x), not about the truth of the data: so it
is held against models of which this is known, however good they are. The whole estimate of N images is made again and
again, by the functions with which every model is evaluated, and of each replicate is kept what a report would say:

- the *bound* and its Monte Carlo error, which says that the truth is not below the bound less 1.96 errors (a one-sided
  statement of nominally 97.5 %: how far the truth is above it, the error does not say);
- the *jackknife* and, where the weights are light enough to have one, its interval, of nominally 95 %;
- the *extrapolation* in 1 / K, for which no interval is stated;
- of annealing the lower and the upper bound of images that the model drew, and the bracket between them.

The *bias* is the mean over replicates of the estimate less the truth, with the standard error of that mean. The
*coverage* is the share of replicates in which the statement is true. Both are of the mean over images, as it is
reported: a bias that is small for one image is large beside the Monte Carlo error of many.

Where the encoder is too sure of itself, weights have a heavy tail: the estimated error is then mostly too small, since
the weights that it would be made of have not been drawn. Such rows belong here, with what the report says of them.

Invariants (``tests/studies/test_known_estimators.py``): the rows are the statistics of estimates made one by one; with
light weights bounds and jackknife cover as often as they say, and with a heavy tail they do not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scipy.special import bdtr
from torch import Tensor

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import TrainSection
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.randomness import stream, stream_seed
from bitsperdim.estimators.paired import INTERVAL
from bitsperdim.evaluation.annealed import bdmc
from bitsperdim.evaluation.estimate import PER_IMAGE, Estimate, estimate
from bitsperdim.evaluation.summary import summarise
from bitsperdim.models import LatentModel
from bitsperdim.models.gaussian import Gaussian
from bitsperdim.models.vae import VAE, NormalLayer
from bitsperdim.sources.known import HiddenMarkov, Templates
from bitsperdim.studies.known.drawn import drawn
from bitsperdim.studies.known.marginals import HiddenMarkovCode, Known, TemplatesCode, of_code, of_gaussian, of_vae
from bitsperdim.training.trainer import train

if TYPE_CHECKING:
    from bitsperdim.config.known import AnnealedMarginalsSection, EstimatorsSection

Rows = Sequence[Mapping[str, Any]]

SHAPE = (1, 4, 4)
TEMPLATES = Templates(SHAPE, 4, 4.0)  # so faint that the template of an image is in doubt
HIDDEN_MARKOV = HiddenMarkov(SHAPE, 4, 3.0)
SURE = {"templates": (0.5, 3.0), "hidden_markov": (1.0, 2.0)}  # the power of a milder encoder, and of a harsher one
FOR_VAES = Templates(SHAPE, 2, 4.0)
N_IMAGES = {"train": 1000, "validation": 200}
VAE_SECTION = {
    "family": "vae",
    "hidden_sizes": [16],
    "likelihood": "bernoulli",
}
VAE_TRAINING = {"batch_size": 100, "learning_rate": 0.01, "warmup_steps": 0, "validation_samples": 4}
NARROW = 0.5  # what the scale of an encoder is multiplied by
LEVELS, SPREAD, CORRELATION = 8, 0.5, 0.9  # of the images that the Gaussian is fitted to, in levels
CHUNK, ROWS_AT_ONCE = 64, 1000  # samples and images at a time
N_PILOT_CHAINS = 2
ONE_SIDED, TWO_SIDED = 0.975, 0.95
SHORT = 1e-3  # how often a statement that holds as often as it says is called short


def study(section: EstimatorsSection, seed: int) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Ask every estimator again and again.

    Args:
        section: how often, with how many samples.
        seed: of images, trainings and samples.

    Returns:
        The metrics of this part, and the rows of ``estimators.csv`` and ``annealing.csv``.
    """
    known = every_known(section.n_images, section.n_epochs, seed)
    rows = [
        row_of(each, n_samples, section.n_replicates, stream("known_evaluation", seed, index, n_samples))
        for index, each in enumerate(known)
        for n_samples in section.n_samples
    ]
    annealed = [
        bracket_of(each, n_steps, section.annealed, stream("known_evaluation", seed, len(known) + index, n_steps))
        for index, each in enumerate(known)
        if each.is_annealed
        for n_steps in section.annealed.n_steps
    ]
    metrics = {
        "n_images": section.n_images,
        "n_replicates": section.n_replicates,
        "n_annealed_images": section.annealed.n_images,
        "n_annealed_replicates": section.annealed.n_replicates,
        "n_chains": section.annealed.n_chains,
        "models": {
            each.name: {"log_p_nats": float(each.log_p.mean()), "log_p_nats_error": each.error} for each in known
        },
    }
    return metrics, {"estimators": rows, "annealing": annealed}


def every_known(n_images: int, n_epochs: int, seed: int) -> list[Known]:
    """Return all models whose marginal is known, each with images of the distribution that it is meant for.

    Args:
        n_images: of each.
        n_epochs: of the training of the VAEs.
        seed: of images and trainings.
    """
    found = []
    for source, code in ((TEMPLATES, TemplatesCode), (HIDDEN_MARKOV, HiddenMarkovCode)):
        images = torch.from_numpy(drawn(source, {**N_IMAGES, "test": n_images}, seed).images["test"])
        for power, words in zip(SURE[source.name], ("", "_sure"), strict=True):
            found.append(of_code(f"{source.name}{words}", code(source, power), images))
    for n_latents in (1, 2):
        vae, images = trained_vae(n_latents, n_images, n_epochs, seed)
        found.append(of_vae(f"vae_{n_latents}", vae, images))
    found.append(of_vae("vae_2_narrow", narrowed(vae), images, is_annealed=False))
    return [*found, of_gaussian("gaussian", *fitted_gaussian(n_images, seed))]


def trained_vae(n_latents: int, n_images: int, n_epochs: int, seed: int) -> tuple[VAE, Tensor]:
    """Return a small VAE in float64 and test images that it was not trained on."""
    images = drawn(FOR_VAES, {**N_IMAGES, "test": n_images}, seed)
    training = {**VAE_TRAINING, "epochs": n_epochs}
    section = FAMILIES["vae"].model_validate({**VAE_SECTION, "latent_size": n_latents, "train": training})
    name, cpu = f"the VAE of {n_latents} latents", torch.device("cpu")
    model = train(name, section, TrainSection(), images, seed=seed, device=cpu).model
    assert isinstance(model, VAE)
    return model.double().eval(), torch.from_numpy(images.images["test"])


def narrowed(model: VAE) -> VAE:
    """Return the same model, and so the same P(x), with an encoder that is too sure: its scales are halved."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        cast(NormalLayer, other.encoders[0]).to_log_scale.bias.add_(math.log(NARROW))
    return other


def fitted_gaussian(n_images: int, seed: int) -> tuple[Gaussian, Tensor]:
    """Return a Gaussian of two correlated sub-pixels, narrower than a level, and images of them."""
    generator = np.random.default_rng(stream_seed("known_images", seed, len(N_IMAGES) + 1))
    covariance = SPREAD**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
    values = generator.multivariate_normal([(LEVELS - 1) / 2] * 2, covariance, N_IMAGES["train"] + n_images)
    levels = values.round().clip(0, LEVELS - 1).astype(np.uint8).reshape(-1, 1, 1, 2)
    images = torch.from_numpy(levels)
    model = Gaussian((1, 1, 2), LEVELS).double()
    model.initialise(images[n_images:])
    return model.eval(), images[:n_images]


def row_of(known: Known, n_samples: int, n_replicates: int, generator: torch.Generator) -> dict[str, Any]:
    """Make the whole estimate again and again, and say how it stands to the truth; nats per image.

    Args:
        known: the model and its images.
        n_samples: K.
        n_replicates: R.
        generator: of all samples.
    """
    n_images, truth = len(known.images), float(known.log_p.mean())
    copies = known.images.repeat(n_replicates, 1, 1, 1)
    options = {"chunk_size": CHUNK, "batch_size": ROWS_AT_ONCE, "generator": generator}
    found = estimate(known.model, copies, n_samples, **options)  # type: ignore[arg-type]
    said = [summary_of(part, known) for part in parts_of(found, n_images)]
    off = {
        "bound": np.array([-each.nll_nats - truth for each in said]),
        "jackknife": np.array([-(each.nll_jackknife_nats or 0.0) - truth for each in said]),
        "extrapolation": np.array([-(each.nll_extrapolated_nats or 0.0) - truth for each in said]),
    }
    error = np.array([each.nll_nats_monte_carlo_error for each in said])
    stated = np.array([each.nll_jackknife_nats_error or math.nan for each in said])
    is_stated = ~np.isnan(stated)
    row: dict[str, Any] = {"model": known.name, "n_samples": n_samples, "log_p_nats": truth}
    for name, values in off.items():
        row |= {f"{name}_bias": float(values.mean()), f"{name}_bias_error": _error(values)}
    covers = int((off["bound"] <= INTERVAL * error).sum())
    within = int((np.abs(off["bound"]) <= INTERVAL * error).sum())
    jackknife_covers = int((np.abs(off["jackknife"][is_stated]) <= INTERVAL * stated[is_stated]).sum())
    return row | {
        "stated_bias": float(np.mean([each.log_p_bias_nats for each in said])),
        "n_bound_covers": covers,
        "bound_is_short": int(is_short(covers, n_replicates, ONE_SIDED)),
        "n_bound_within": within,
        "within_is_short": int(is_short(within, n_replicates, TWO_SIDED)),
        "n_jackknife_stated": int(is_stated.sum()),
        "n_jackknife_covers": jackknife_covers,
        "jackknife_is_short": int(is_short(jackknife_covers, int(is_stated.sum()), TWO_SIDED)),
        "n_flagged": sum(each.too_few_samples for each in said),
        "ess_median": float(found.ess.median()),
        "pareto_k_median": float(found.pareto_k.median()),
    }


def parts_of(found: Estimate, n_images: int) -> Iterator[Estimate]:
    """Take an estimate of copies of the same images apart, into one for each replicate."""
    for start in range(0, len(found.log_p), n_images):
        at = slice(start, start + n_images)
        columns = {name: getattr(found, name)[at] for name in PER_IMAGE}
        yield replace(found, **columns, bounds=found.bounds[:, at])


def summary_of(found: Estimate, known: Known) -> Metrics:
    """Return what ``evaluate`` says of an estimate."""
    return summarise({0: found}, known.model, known.description).metrics


def is_short(n_covers: int, n_stated: int, nominal: float) -> bool:
    """Return whether a statement is true less often than it says, by more than chance.

    Args:
        n_covers: how often it was true.
        n_stated: how often it was made.
        nominal: how often it is true, it says.
    """
    return n_stated > 0 and float(bdtr(n_covers, n_stated, nominal)) < SHORT


def bracket_of(
    known: Known, n_steps: int, section: AnnealedMarginalsSection, generator: torch.Generator
) -> dict[str, Any]:
    """Bracket log P(x) of images that the model draws, of other ones each time; nats per image.

    Args:
        known: a model with a continuous code, and the function that knows its log P(x).
        n_steps: T.
        section: how many images, replicates and chains.
        generator: of images and chains.
    """
    assert isinstance(known.model, LatentModel)
    shape = (section.n_replicates, section.n_images)
    found = bdmc(
        known.model,
        math.prod(shape),
        section.n_chains,
        n_steps,
        generator=generator,
        n_leapfrog=section.n_leapfrog,
        n_pilot_chains=N_PILOT_CHAINS,
    )
    truth = known.ask(found.x).reshape(shape).mean(1).numpy()
    lower, upper = (bound.reshape(shape).mean(1).numpy() - truth for bound in (found.lower, found.upper))
    below, above = (
        INTERVAL * error.reshape(shape).square().sum(1).sqrt().numpy() / section.n_images
        for error in (found.lower_standard_error, found.upper_standard_error)
    )
    lower_covers, upper_covers = lower <= below, upper >= -above
    return {
        "model": known.name,
        "n_steps": n_steps,
        "lower_bias": float(lower.mean()),
        "lower_bias_error": _error(lower),
        "upper_bias": float(upper.mean()),
        "upper_bias_error": _error(upper),
        "n_lower_covers": int(lower_covers.sum()),
        "lower_is_short": int(is_short(int(lower_covers.sum()), len(lower), ONE_SIDED)),
        "n_upper_covers": int(upper_covers.sum()),
        "upper_is_short": int(is_short(int(upper_covers.sum()), len(upper), ONE_SIDED)),
        "n_bracket_covers": int((lower_covers & upper_covers).sum()),
        "bracket_is_short": int(is_short(int((lower_covers & upper_covers).sum()), len(lower), TWO_SIDED)),
        "acceptance": float(found.forward.acceptance.mean()),
    }


def _error(values: np.ndarray) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))
