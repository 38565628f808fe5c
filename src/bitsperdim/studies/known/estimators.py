r"""Tests of estimators of a marginal likelihood on models whose marginal is known (:mod:`.marginals`).

An estimator makes a statement about the *model's* log P(x), not about the true distribution of the data. So it is
compared with models whose log P(x) is known; these models need not be good. The whole estimate of N images is repeated
many times, with the functions that evaluate every model. Each replicate keeps the statements that a report would make:

- the *bound* and its Monte Carlo error. They state that the truth is not below the bound minus 1.96 errors (a one-sided
  statement of nominally 97.5 %; the error does not say how far the truth is above the bound);
- the *jackknife* and, if the weights are light enough, its interval of nominally 95 %;
- the *extrapolation* in 1 / K, for which no interval is stated;
- for annealing, the lower and the upper bound for images drawn from the model, and the bracket between them.

The *bias* is the mean over replicates of the estimate minus the truth, with the standard error of that mean. The
*coverage* is the share of replicates in which the statement is true. Both are for the mean over images, as it is
reported: a bias that is small for one image is large compared with the Monte Carlo error of the mean over many images.

If the encoder is overconfident, the weights have a heavy tail. Then the estimated error is usually too small, because
the large weights that dominate it have not been drawn. Such models are included, with the flags that the report shows.

Invariants (``tests/studies/test_known_estimators.py``): the rows are the statistics of estimates made one by one. With
light weights, the bounds and the jackknife have the stated coverage; with a heavy tail, they do not.
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
TEMPLATES = Templates(SHAPE, 4, 4.0)  # so weak that the template of an image is uncertain
HIDDEN_MARKOV = HiddenMarkov(SHAPE, 4, 3.0)
SURE = {"templates": (0.5, 3.0), "hidden_markov": (1.0, 2.0)}  # powers of a milder and of an overconfident encoder
FOR_VAES = Templates(SHAPE, 2, 4.0)
N_IMAGES = {"train": 1000, "validation": 200}
VAE_SECTION = {
    "family": "vae",
    "hidden_sizes": [16],
    "likelihood": "bernoulli",
}
VAE_TRAINING = {"batch_size": 100, "learning_rate": 0.01, "warmup_steps": 0, "validation_samples": 4}
NARROW = 0.5  # factor for the scale of the encoder
LEVELS, SPREAD, CORRELATION = 8, 0.5, 0.9  # number of levels, and spread (in levels) of images for the Gaussian
CHUNK = 64  # samples at a time
ROWS_AT_ONCE = 1000  # images at a time
N_PILOT_CHAINS = 2
ONE_SIDED, TWO_SIDED = 0.975, 0.95
SHORT = 1e-3  # false-alarm rate of :func:`is_short` for a statement with its nominal coverage


def study(section: EstimatorsSection, seed: int) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Repeat every estimate on every known model, and compare it with the truth.

    Args:
        section: numbers of replicates, images and samples.
        seed: seed of images, training runs and samples.

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
    """Return all models whose marginal is known, each with images from the distribution that it models.

    Args:
        n_images: number of images for each model.
        n_epochs: number of training epochs of the VAEs.
        seed: seed of images and training runs.
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
    """Return a small VAE in float64, and test images that were not used in training."""
    images = drawn(FOR_VAES, {**N_IMAGES, "test": n_images}, seed)
    training = {**VAE_TRAINING, "epochs": n_epochs}
    section = FAMILIES["vae"].model_validate({**VAE_SECTION, "latent_size": n_latents, "train": training})
    name, cpu = f"the VAE of {n_latents} latents", torch.device("cpu")
    model = train(name, section, TrainSection(), images, seed=seed, device=cpu).model
    assert isinstance(model, VAE)
    return model.double().eval(), torch.from_numpy(images.images["test"])


def narrowed(model: VAE) -> VAE:
    """Return a model with the same P(x) but an overconfident encoder, whose scales are halved."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        cast(NormalLayer, other.encoders[0]).to_log_scale.bias.add_(math.log(NARROW))
    return other


def fitted_gaussian(n_images: int, seed: int) -> tuple[Gaussian, Tensor]:
    """Return a Gaussian of two correlated sub-pixels, narrower than a level, and test images."""
    generator = np.random.default_rng(stream_seed("known_images", seed, len(N_IMAGES) + 1))
    covariance = SPREAD**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
    values = generator.multivariate_normal([(LEVELS - 1) / 2] * 2, covariance, N_IMAGES["train"] + n_images)
    levels = values.round().clip(0, LEVELS - 1).astype(np.uint8).reshape(-1, 1, 1, 2)
    images = torch.from_numpy(levels)
    model = Gaussian((1, 1, 2), LEVELS).double()
    model.initialise(images[n_images:])
    return model.eval(), images[:n_images]


def row_of(known: Known, n_samples: int, n_replicates: int, generator: torch.Generator) -> dict[str, Any]:
    """Repeat the whole estimate and return its bias and coverage as a table row; nats per image.

    Args:
        known: the model and its images.
        n_samples: K.
        n_replicates: R.
        generator: source of randomness for all samples.
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
    """Split an estimate of copies of the same images into one estimate for each replicate."""
    for start in range(0, len(found.log_p), n_images):
        at = slice(start, start + n_images)
        columns = {name: getattr(found, name)[at] for name in PER_IMAGE}
        yield replace(found, **columns, bounds=found.bounds[:, at])


def summary_of(found: Estimate, known: Known) -> Metrics:
    """Return the metrics that ``evaluate`` would report for an estimate."""
    return summarise({0: found}, known.model, known.description).metrics


def is_short(n_covers: int, n_stated: int, nominal: float) -> bool:
    """Return whether a statement is true less often than its nominal coverage, by more than chance.

    Args:
        n_covers: number of cases in which the statement was true.
        n_stated: number of cases in which the statement was made.
        nominal: nominal coverage, the share of cases in which the statement should be true.
    """
    return n_stated > 0 and float(bdtr(n_covers, n_stated, nominal)) < SHORT


def bracket_of(
    known: Known, n_steps: int, section: AnnealedMarginalsSection, generator: torch.Generator
) -> dict[str, Any]:
    """Bracket log P(x) of images drawn from the model, different images in each replicate; nats per image.

    Args:
        known: a model with a continuous latent code, and the function that returns its log P(x).
        n_steps: T, the number of annealing steps.
        section: numbers of images, replicates and chains.
        generator: source of randomness for images and chains.
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
    """Return the standard error of the mean of values."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))
