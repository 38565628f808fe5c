"""Score a model that was made elsewhere: ``bitsperdim.evaluate``.

The model offers one of the methods of :mod:`bitsperdim.models.external.methods`; if it offers several, they have to
agree on a few images, and the strongest one is scored. What it says of itself may stand in an attribute ``bitsperdim``
of it, a dict of ``offers``, ``inputs``, ``layout``, ``range`` and ``order``; an argument comes first.

Invariants (``tests/evaluation/test_evaluate.py``): one model gives the same number through every method, within errors;
a model in training mode, two methods that disagree, NaN and another number of images are refused in one sentence.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitsperdim.config.params import AnnealedSection, EvaluateSection
from bitsperdim.core.announcing import duration
from bitsperdim.core.code import needed
from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.randomness import stream
from bitsperdim.evaluation import latent_code, scoring, summary
from bitsperdim.evaluation.estimate import Estimate as Scores
from bitsperdim.evaluation.estimate import estimated_rows, images_at_once, rows_of_weights, samples_of
from bitsperdim.evaluation.images import Data, data_of
from bitsperdim.evaluation.result import Estimate
from bitsperdim.evaluation.signature import DIGITS, weights_sha256
from bitsperdim.models import check_labels
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.convention import Convention, Inputs, Layout
from bitsperdim.models.external.methods import Offer, is_training, offers_of
from bitsperdim.models.external.wrapping import External, wrap
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.memory import Growth

DECLARED = ("offers", "inputs", "layout", "range", "order")
BY_CONSTRUCTION = ("logits", "causality")  # logits are normalized here, and the scorer asks whether they look ahead
N_AGREEING = 8  # images on which several methods have to agree
K_AGREEING = 256
TOLERATED = 1e-4  # of log P, and as many nats for each sub-pixel: two ways to the same sum in float32
CONTRADICTED = 5.0  # Monte Carlo errors
WORTH_MEASURING = 10  # shares of the work, of which one more is done first


@dataclass(frozen=True)
class Asked:
    """A model from elsewhere, and how it is asked.

    Attributes:
        model: as a mass function of ours.
        offer: the method that is used; None of a model of this package.
        convention: what it takes.
        name: of it.
        options: what was declared, for the signature.
    """

    model: ImageModel
    offer: Offer | None
    convention: Convention
    name: str
    options: Mapping[str, Any]


def ask(
    model: object,
    data: Data,
    *,
    offers: str | None = None,
    inputs: Inputs | None = None,
    layout: Layout | None = None,
    range: tuple[float, float] | None = None,  # noqa: A002 - the word that users know
    order: Any = None,  # noqa: ANN401 - a word or a tensor
    is_given_labels: bool = False,
    name: str | None = None,
    seed: int = 0,
) -> Asked:
    """Find out how a model can be asked for the likelihood of these images; arguments as of :func:`evaluate`.

    Raises:
        InputError: it cannot, or several of its methods disagree.
    """
    called = name or (type(model).__name__ if not hasattr(model, "__name__") else str(model.__name__))
    if isinstance(model, ImageModel) and not isinstance(model, External):
        return Asked(model, None, Convention(), called, {"method": type(model).__name__})
    declared = _declared(model)
    given = {"offers": offers, "inputs": inputs, "layout": layout, "range": range, "order": order}
    known = {**declared, **{key: value for key, value in given.items() if value is not None}}
    found = offers_of(model, known.get("offers"))
    convention = Convention(known.get("inputs", "integers"), known.get("layout", "channels_first"))
    n_classes = None if not is_given_labels or data.labels is None else int(data.labels.max()) + 1
    interval = known.get("range")
    options = {"n_classes": n_classes, "interval": _interval(interval), "order": known.get("order", "raster")}
    wrapped = [wrap(each, data.image_shape, data.n_levels, convention=convention, **options) for each in found[:1]]
    for other in found[1:]:
        if other.method == "log_density" and interval is None:
            continue  # it cannot be asked, and need not be
        second = wrap(other, data.image_shape, data.n_levels, convention=convention, **options)
        check_agreement(wrapped[0], found[0].method, second, other.method, data, seed)
    said = {
        "method": found[0].method,
        "inputs": None if found[0].method == "log_density" else convention.inputs,
        "layout": None if convention.layout == "channels_first" else convention.layout,
        "range": None if found[0].method != "log_density" else "{:g},{:g}".format(*options["interval"]),
    }
    return Asked(wrapped[0], found[0], convention, called, said)


def _declared(model: object) -> dict[str, Any]:
    declared = getattr(model, "bitsperdim", {})
    if not isinstance(declared, Mapping) or not set(declared) <= set(DECLARED):
        raise InputError(
            f"The attribute bitsperdim of {type(model).__name__} must be a dict with some of the keys "
            f"{', '.join(DECLARED)}, not {shown(declared)}."
        )
    return dict(declared)


def _interval(given: object) -> tuple[float, float] | None:
    if given is None:
        return None
    values = list(given) if isinstance(given, list | tuple) else []
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        raise InputError(f"range = {shown(given)} is not allowed; it must be two numbers (low, high).")
    return float(values[0]), float(values[1])


def check_agreement(
    first: ImageModel, first_name: str, second: ImageModel, second_name: str, data: Data, seed: int
) -> None:
    """Refuse two methods of one model that contradict each other on a few images.

    Two exact ones have to be equal but for rounding. A bound that is clearly above an exact number refutes it: on
    average it is below. Two bounds cannot contradict each other.

    Raises:
        InputError: they do.
    """
    images = torch.from_numpy(data.images[:N_AGREEING])
    labels = None if data.labels is None else torch.from_numpy(data.labels[:N_AGREEING])
    scores = []
    for model in (first, second):
        generator = stream("evaluation", seed, device=model.device)
        rows = estimated_rows(model, images, K_AGREEING, chunk_size=32, generator=generator, labels=labels)
        scores.append(Scores.of_rows(model, K_AGREEING, rows, nan))  # whether it looks ahead is not asked here
    difference = float((scores[1].log_p - scores[0].log_p).mean())
    tolerance = TOLERATED * (float(scores[0].log_p.abs().mean()) + images[0].numel())
    errors = [float(item.standard_error.square().sum().sqrt()) / len(images) for item in scores]
    if first.is_exact and second.is_exact:
        disagrees = abs(difference) > tolerance
    elif first.is_exact:
        disagrees = difference > tolerance + CONTRADICTED * errors[1]
    else:
        return
    if disagrees:
        raise InputError(
            f"{first_name} and {second_name} disagree: on {len(images)} images the mean of log P(x) is "
            f"{float(scores[0].log_p.mean()):.4f} nats by {first_name} and {float(scores[1].log_p.mean()):.4f} by "
            f"{second_name}{'' if second.is_exact else ', which is a lower bound'}; say by `offers` which one is meant."
        )


def evaluate(
    model: object,
    images: Any,  # noqa: ANN401 - Data, or an array of NumPy or PyTorch
    *,
    n_levels: int | None = None,
    labels: Any = None,  # noqa: ANN401 - an array
    train: Any = None,  # noqa: ANN401 - an array
    offers: str | None = None,
    inputs: Inputs | None = None,
    layout: Layout | None = None,
    range: tuple[float, float] | None = None,  # noqa: A002 - the word that users know
    order: Any = None,  # noqa: ANN401 - a word or a tensor
    n_samples: int = 1024,
    seed: int = 0,
    batch_size: int = 120,
    chunk_size: int = 16,
    subset: int | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    name: str | None = None,
) -> Estimate:
    """Return the number of bits per dimension that a model needs for images, with its errors.

    Args:
        model: a module in evaluation mode, an object with methods, or a plain function; see
            :data:`bitsperdim.models.external.methods.METHODS` for what it may offer.
        images: what :func:`bitsperdim.load_data` returned, or an array of integers 0..L-1, (N, C, H, W) or (N, H, W).
        n_levels: L, of an array.
        labels: (N,) integers: then every method is given them after the images.
        train: the training images, an array: copies among the images are found and said.
        offers: which method is meant, where that is not plain: of a function, of ``forward``, of several methods.
        inputs: what the model takes: ``integers`` (the default), ``unit`` for x / (L-1), ``symmetric`` for
            2 x / (L-1) - 1. Masses are always asked of the levels themselves.
        layout: ``channels_first`` (the default), ``channels_last``, ``flat`` or ``plane``, which has no channel.
        range: (low, high) of all values of a density; its L cells lie side by side in it.
        order: of conditionals: ``raster`` (the default), ``planes``, or (C, H, W) integers.
        n_samples: K, of a bound.
        seed: of all randomness.
        batch_size: images at a time.
        chunk_size: samples at a time.
        subset: score that many images, chosen at random with ``seed``.
        device: where to; None: where the model is.
        checkpoint: a folder that keeps finished images, from which the same call goes on after an interruption.
        name: of the model, for what is printed.

    Raises:
        InputError: one sentence that says what does not fit.
    """
    data = data_of(images, n_levels, labels=labels, train=train)
    if is_training(model):
        raise InputError(
            f"{type(model).__name__} is in training mode, in which dropout and batch statistics make the number depend "
            f"on chance and on the other images; call model.eval() first."
        )
    if subset is not None:
        data = data.subset(subset, seed)
    asked = ask(
        *(model, data),
        offers=offers,
        inputs=inputs,
        layout=layout,
        range=range,
        order=order,
        is_given_labels=labels is not None,
        name=name,
        seed=seed,
    )
    return scored(
        asked,
        data,
        n_samples=n_samples,
        seed=seed,
        batch_size=batch_size,
        chunk_size=chunk_size,
        device=device,
        checkpoint=checkpoint,
    )


def scored(
    asked: Asked,
    data: Data,
    *,
    n_samples: int = 1024,
    seed: int = 0,
    batch_size: int = 120,
    chunk_size: int = 16,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    may_look_ahead: bool = False,
) -> Estimate:
    """Return the number of a model that :func:`ask` has looked at; arguments as of :func:`evaluate`."""
    section = _section(n_samples=n_samples, seed=seed, batch_size=batch_size, chunk_size=chunk_size)
    model, started = asked.model, time.monotonic()
    place = torch.device(device) if device is not None else model.device
    module = model if asked.offer is None else asked.offer.module
    weights = weights_sha256(module)
    kept = None if checkpoint is None else _place(Path(checkpoint), asked, data, section, weights, place)
    print(
        f"{asked.name}: {model.n_parameters:,} weights ({_megabytes(bytes_of(model))}) on {place}, "
        f"{len(data.images):,} images, {batch_size} at a time"
        + (f", K = {n_samples:,}" if model.kind == "lower" else "")
        + ".",
        file=sys.stderr,
        flush=True,
    )
    try:
        _announce_cost(model, data, section, place, asked.name)
        scores = scoring.evaluate_seed(
            *(model, data.prepared, section, 0, place),
            title=f"score {asked.name}",
            checkpoint=kept,
            may_look_ahead=may_look_ahead,
        )
    except FloatingPointError as error:
        raise InputError(f"{asked.name} cannot be scored: {str(error).removesuffix(' (seed 0)')}.") from error
    except InputError as error:
        words = str(error).replace("The model of seed 0 cannot be evaluated", f"{asked.name} cannot be scored")
        raise InputError(words.removesuffix(".") + ".") from error
    options = {
        **asked.options,
        "seed": seed if model.kind == "lower" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": place.type,
        "weights": None if weights is None else weights[:DIGITS],
    }
    verified: tuple[str, ...] = ("construction",) if asked.offer is None else ()
    if asked.offer is not None and asked.offer.method == "logits":
        verified = BY_CONSTRUCTION
    if kept is not None:
        kept.finish()
    return result_of(
        scores, model, data, name=asked.name, options=options, verified_by=verified, seconds=time.monotonic() - started
    )


def _announce_cost(model: ImageModel, data: Data, section: EvaluateSection, device: torch.device, name: str) -> None:
    """Score a first share and say what memory and time that took, where there is much more to come.

    It has random numbers of its own, and no result depends on it.
    """
    size = images_at_once(model, section.n_samples, section.batch_size)
    k = samples_of(model, section.n_samples)
    chunk = min(k, section.chunk_size)
    n_shares = -(-len(data.images) // size) * -(-k // chunk)
    if n_shares < WORTH_MEASURING:
        return
    check_labels(model, data.prepared.labels)
    model.to(device).eval()
    images, noise = (torch.from_numpy(array[:size]) for array in (data.images, data.prepared.noise["test"]))
    labels = None if data.labels is None else torch.from_numpy(data.labels[:size])
    memory, started = Growth(device), time.monotonic()
    estimated_rows(
        *(model, images, chunk),
        chunk_size=chunk,
        generator=stream("evaluation", section.seed, 2**31, device=device),
        labels=labels,
        noise=noise,
    )
    grown, whole = memory.measured()
    seconds = (time.monotonic() - started) * n_shares
    how_long = f"; at this rate all takes about {duration(seconds)}" if seconds >= 1 else ""
    print(
        f"{name}: a first share of {size} images{f' and {chunk} samples' if k > 1 else ''} took "
        f"{_megabytes(grown)} more, {_megabytes(whole)} in all{how_long}.",
        file=sys.stderr,
        flush=True,
    )


def bytes_of(module: torch.nn.Module) -> int:
    """Return the size of all weights and buffers, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.{0 if n_bytes >= 1e7 else 1}f} MB"


def result_of(
    scores: Scores,
    model: ImageModel,
    data: Data,
    *,
    name: str,
    options: Mapping[str, Any],
    verified_by: tuple[str, ...],
    seconds: float,
) -> Estimate:
    """Return the number that the scores of images make."""
    same_as, in_train = data.prepared.same_as["test"], data.prepared.in_train.get("test")
    described = data.prepared.description
    metrics = summary.summarise({0: scores}, model, described, same_as=same_as, in_train=in_train).metrics
    return Estimate(name, metrics, scores, data, options, verified_by, seconds)


def estimate_of_arrays(
    log_p: Any = None,  # noqa: ANN401 - an array
    log_w: Any = None,  # noqa: ANN401 - an array
    *,
    images: Any,  # noqa: ANN401 - Data, or an array
    n_levels: int | None = None,
    kind: str = "exact",
    name: str = "arrays",
) -> Estimate:
    """Return the number that log-likelihoods from any framework make; its kind stays declared.

    Args:
        log_p: (N,) nats, of ``images`` in their order.
        log_w: (K, N) nats, log-weights whose exponentials have the mean P(x); instead of ``log_p``.
        images: as of :func:`evaluate`.
        n_levels: L, of an array.
        kind: of ``log_p``: ``exact``, or ``lower`` for a bound.
        name: for what is printed.

    Raises:
        InputError: one sentence that says what does not fit.
    """
    data = data_of(images, n_levels)
    if (log_p is None) == (log_w is None):
        raise InputError("Give either log_p, one number for each image, or log_w, (K, N) log-weights.")
    if kind not in ("exact", "lower"):
        raise InputError(f"kind = {shown(kind)} is not allowed; it must be exact or lower.")
    key = "log_p" if log_w is None else "log_w"
    values = _numbers(log_p if log_w is None else log_w, key)
    weights = values[None] if log_w is None and values.ndim == 1 else values
    shape = f"({len(data.images)},)" if log_w is None else f"(K, {len(data.images)})"
    if weights.ndim != 2 or weights.shape[1] != len(data.images) or (log_w is None and values.ndim != 1):
        raise InputError(f"{key} must have the shape {shape}, one for each image, not {values.shape}.")
    is_sampled = log_w is not None or kind == "lower"
    model = _Stored(data.image_shape, data.n_levels, is_exact=not is_sampled)
    rows = rows_of_weights(torch.from_numpy(weights), is_sampled=is_sampled)
    scores = Scores.of_rows(model, len(weights), rows, None)
    options = {"method": key, "dtype": str(values.dtype)}
    return result_of(scores, model, data, name=name, options=options, verified_by=(), seconds=0.0)


def _numbers(given: Any, key: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    values = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{key} must be floating-point numbers in nats, not {values.dtype}.")
    wrong = np.flatnonzero(np.isnan(values) | np.isposinf(values))
    if len(wrong):
        raise InputError(f"{key} holds {values.flat[wrong[0]]} at {wrong[0]}: no likelihood is NaN or infinite.")
    return values.astype(np.float64)


class _Stored(ImageModel):
    """Stands for a model of which nothing is known but its numbers."""

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int, *, is_exact: bool) -> None:
        super().__init__(image_shape, n_levels)
        self.is_exact = is_exact  # type: ignore[misc]  # of this one

    def unchecked_log_weights(self, x: torch.Tensor, n_samples: int = 1, **_: Any) -> torch.Tensor:  # noqa: ANN401
        raise NotImplementedError("only its numbers are there")

    def unchecked_sample(self, n_images: int, **_: Any) -> torch.Tensor:  # noqa: ANN401
        raise NotImplementedError("only its numbers are there")


def _section(*, n_samples: int, seed: int, batch_size: int, chunk_size: int) -> EvaluateSection:
    counts = {"n_samples": n_samples, "batch_size": batch_size, "chunk_size": chunk_size}
    for key, value in counts.items():
        if type(value) is not int or not 1 <= value <= 1_000_000:
            raise InputError(f"{key} = {shown(value)} is not allowed; it must be an integer from 1 to 1,000,000.")
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise InputError(f"seed = {shown(seed)} is not allowed; it must be an integer from 0 to {2**31 - 1}.")
    annealed = AnnealedSection(n_images=0, n_simulated=0, n_chains=4, n_steps=60, n_leapfrog=5)
    chunk = {"chunk_size": min(chunk_size, 100_000)}
    return EvaluateSection(**{**counts, **chunk}, n_pictures=1, seed=seed, proposal="encoder", annealed=annealed)


def _place(
    folder: Path, asked: Asked, data: Data, section: EvaluateSection, weights: str | None, device: torch.device
) -> Checkpoint:
    """Return the place for finished images, which no other model, data or version of this package may take over."""
    code = needed(Path(__file__), Path(latent_code.__file__))
    decides = {
        "weights": weights,
        "asked": {key: str(value) for key, value in asked.options.items()},
        "name": asked.name,
        "data": [data.protocol, data.prepared.description.test_sha256],
        "evaluate": section.model_dump(mode="json"),
        "device": device.type,
    }
    found = Checkpoint.of(decides, code)
    named = hashlib.sha256(f"{found.fingerprint}".encode()).hexdigest()[:DIGITS]
    return Checkpoint(folder / named, found.fingerprint, found.interval)
