"""Score a model that was made elsewhere: ``bitsperdim.evaluate``.

The model offers one of the methods of :mod:`bitsperdim.models.external.methods`. If it offers several methods, they
must agree on a few images, and the strongest method is scored. The model may describe itself in an attribute
``bitsperdim``, a dict with the keys ``offers``, ``inputs``, ``layout``, ``range``, ``order`` and ``ode``. Arguments
take precedence over this attribute.

Invariants (``tests/evaluation/test_evaluate.py``, ``test_refusals.py``): one model gives the same number through every
method, within errors (``test_every_way_in_is_within_its_errors``); interrupted evaluation resumes and gives
byte-identical results; a model or argument that does not fit is refused in one sentence
(``test_what_does_not_fit_is_one_sentence``), and so are two methods that disagree.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from bitsperdim.config.params import AnnealedSection, EvaluateSection, ProposalName
from bitsperdim.core.code import needed
from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.randomness import stream
from bitsperdim.evaluation import latent_code, scoring, summary
from bitsperdim.evaluation.cost import announce_cost, bytes_of, megabytes
from bitsperdim.evaluation.estimate import Estimate as Scores
from bitsperdim.evaluation.estimate import estimated_rows, images_at_once
from bitsperdim.evaluation.images import Data, data_of
from bitsperdim.evaluation.result import Estimate
from bitsperdim.evaluation.signature import DIGITS, weights_sha256
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.codes import seeded
from bitsperdim.models.external.convention import Convention, Inputs, Layout
from bitsperdim.models.external.density import ExternalDensity
from bitsperdim.models.external.distributions import first_line
from bitsperdim.models.external.external import External
from bitsperdim.models.external.libraries import adapted, code_of, versioned
from bitsperdim.models.external.methods import Offer, declared, interval_of, is_training, offers_of
from bitsperdim.models.external.ode import TIMES as OF_EQUATIONS
from bitsperdim.models.external.ode import ExternalOde
from bitsperdim.models.external.wrapping import WITHOUT_LABELS, ExternalNumbers, wrap
from bitsperdim.runtime.checkpoints import Checkpoint

BY_CONSTRUCTION = ("logits", "causality")  # logits are normalized here, and scoring checks that they do not look ahead
N_AGREEING = 8  # images on which several methods have to agree
K_AGREEING = 256  # samples K for this comparison
N_SAMPLES, N_SAMPLES_OF_EQUATIONS = 1024, 16  # K by default
TOLERATED = 1e-4  # share of log P, plus as many nats per sub-pixel: float32 rounding of two ways to sum
CONTRADICTED = 5.0  # Monte Carlo errors by which a bound must exceed an exact number to contradict it


@dataclass(frozen=True)
class Asked:
    """A model that was made elsewhere, wrapped for scoring.

    Attributes:
        model: model with the interface of this package.
        offer: method of the original model that is used; None for a model of this package.
        convention: form in which the model takes images.
        name: name of the model.
        options: declared options, for the signature.
        library: name of the library of which the model is; None: no library was named.
    """

    model: ImageModel
    offer: Offer | None
    convention: Convention
    name: str
    options: Mapping[str, Any]
    library: str | None = None


def ask(
    model: object,
    data: Data,
    *,
    offers: str | None = None,
    inputs: Inputs | None = None,
    layout: Layout | None = None,
    range: tuple[float, float] | None = None,  # noqa: A002 - the word that users know
    order: Any = None,  # noqa: ANN401 - a word or a tensor
    ode: Mapping[str, Any] | None = None,
    is_given_labels: bool = False,
    library: str | None = None,
    name: str | None = None,
    seed: int = 0,
) -> Asked:
    """Find the method that gives the likelihood of these images under a model, and wrap the model for scoring.

    The arguments are those of :func:`evaluate`, and ``is_given_labels``: whether the model is given the labels. A model
    of a ``library`` was adapted before (:func:`bitsperdim.models.external.libraries.adapted`).

    Raises:
        InputError: no method gives the likelihood of these images, or several methods of the model disagree.
    """
    called = name or name_of(model)
    if isinstance(model, External):  # wrapped already
        return Asked(model, model.offer, model.convention, called, _said(model))
    if isinstance(model, ImageModel):
        return Asked(model, None, Convention(), called, {"method": type(model).__name__})
    known = declared(model, offers=offers, inputs=inputs, layout=layout, range=range, order=order, ode=ode)
    found = offers_of(model, known.get("offers"))
    convention = Convention(known.get("inputs", "integers"), known.get("layout", "channels_first"))
    of_splits = data.prepared.labels.values() if is_given_labels else ()
    n_classes = max((int(classes.max()) + 1 for classes in of_splits), default=None)
    interval = interval_of(known.get("range"))
    options = {"n_classes": n_classes, "interval": interval, "order": known.get("order", "raster")}

    has_equation = any(offer.method in OF_EQUATIONS for offer in found)

    def asked_by(offer: Offer) -> External:
        equation = known.get("ode") if offer.method in OF_EQUATIONS or not has_equation else None
        return wrap(offer, data.image_shape, data.n_levels, convention=convention, ode=equation, **options)

    first, *others = found
    wrapped = asked_by(first)
    check_shape(wrapped, data)
    for other in others:
        if other.method in ("log_density", *OF_EQUATIONS) and interval is None:
            continue  # without an interval this method cannot be used, and it is not needed
        if n_classes is not None and other.method in WITHOUT_LABELS:
            continue  # with labels this method cannot be used, and it is not needed
        check_agreement(wrapped, first.method, asked_by(other), other.method, data, seed)
    # an adapter may have settings of its own, which the signature names
    of_library = (
        {} if library is None else {"library": versioned(library), "settings": getattr(model, "settings", None)}
    )
    return Asked(wrapped, first, convention, called, {**_said(wrapped), **of_library}, library)


def name_of(model: object) -> str:
    """Return the name of a model's class, or the own name of a function."""
    return str(model.__name__) if hasattr(model, "__name__") else type(model).__name__


def _said(model: External) -> dict[str, Any]:
    """Return, for the signature, the way of calling the model as far as it may change the number."""
    convention = model.convention
    return {
        "method": model.offer.method,
        "inputs": None if isinstance(model, ExternalDensity) else convention.inputs,
        "layout": None if convention.layout == "channels_first" else convention.layout,
        "range": f"{model.low!r},{model.high!r}" if isinstance(model, ExternalDensity) else None,
        "ode": model.settings.words if isinstance(model, ExternalOde) else None,
    }


def check_shape(model: External, data: Data) -> None:
    """Refuse log-weights of shape (B, K) instead of (K, B): with K = B nobody would notice the mistake.

    The model is called with one image and two samples, for which the two shapes differ.

    Raises:
        InputError: the log-weights have another shape than (K, B).
    """
    if isinstance(model, ExternalNumbers) and not model.is_exact:
        labels = None if model.n_classes is None or data.labels is None else torch.from_numpy(data.labels[:1])
        image = torch.from_numpy(data.images[:1]).to(model.device)
        with torch.no_grad():
            model.unchecked_log_weights(
                image, 2, labels=None if labels is None else labels.to(model.device), generator=torch.Generator()
            )


def check_agreement(
    first: ImageModel, first_name: str, second: ImageModel, second_name: str, data: Data, seed: int
) -> None:
    """Refuse two methods of one model that contradict each other on a few images.

    Two exact methods must give equal numbers, up to rounding, image by image. A lower bound is on average below log
    P(x); a bound that is clearly above an exact number therefore contradicts it. Two bounds cannot contradict each
    other.

    Raises:
        InputError: the methods contradict each other, or a method fails.
    """
    images = torch.from_numpy(data.images[:N_AGREEING])
    labels = None if data.labels is None else torch.from_numpy(data.labels[:N_AGREEING])
    if not first.is_exact:
        return
    scores = []
    for model, name in ((first, first_name), (second, second_name)):
        generator = stream("evaluation", seed, device=model.device)
        try:
            rows = estimated_rows(model, images, K_AGREEING, chunk_size=32, generator=generator, labels=labels)
        except InputError:
            raise
        except (FloatingPointError, ValueError) as error:
            raise InputError(f"The method {name} cannot be used: {error}.") from error
        scores.append(Scores.of_rows(model, K_AGREEING, rows, nan))  # this comparison does not check for looking ahead
    one, other = scores[0].log_p, scores[1].log_p
    # -inf equals -inf here; NaN was refused when the rows were estimated
    allowed = TOLERATED * (torch.where(one.isinf(), 0.0, one.abs()) + images[0].numel())
    larger = torch.where(one == other, 0.0, other - one)  # both may be -inf
    if second.is_exact:
        where = f"for image {int((larger.abs() - allowed).argmax())}, log P(x)"
        disagrees = bool((larger.abs() > allowed).any())
        one, other = one[(larger.abs() - allowed).argmax()], other[(larger.abs() - allowed).argmax()]
    else:
        where, one, other = f"on {len(images)} images, the mean of log P(x)", one.mean(), other.mean()
        error_of_mean = float(scores[1].standard_error.square().sum().sqrt()) / len(images)
        disagrees = float(larger.mean()) > float(allowed.mean()) + CONTRADICTED * error_of_mean
    if disagrees:
        raise InputError(
            f"{first_name} and {second_name} disagree: {where} is {float(one):.4f} nats by {first_name} and "
            f"{float(other):.4f} by {second_name}{'' if second.is_exact else ', which is a lower bound'}; name the "
            f"method to use with `offers`."
        )


def evaluate(
    model: object,
    images: Any,  # noqa: ANN401 - Data, or an array of NumPy or PyTorch
    *,
    n_levels: int | None = None,
    labels: Any = None,  # noqa: ANN401 - an array
    train: Any = None,  # noqa: ANN401 - an array
    library: str | None = None,
    offers: str | None = None,
    inputs: Inputs | None = None,
    layout: Layout | None = None,
    range: tuple[float, float] | None = None,  # noqa: A002 - the word that users know
    order: Any = None,  # noqa: ANN401 - a word or a tensor
    ode: Mapping[str, Any] | None = None,
    n_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 120,
    chunk_size: int = 16,
    proposal: ProposalName = "refined",
    subset: int | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    name: str | None = None,
) -> Estimate:
    """Return the bits per dimension of images under a model, with errors.

    Args:
        model: a module in evaluation mode, an object with methods, or a plain function;
            :data:`bitsperdim.models.external.methods.METHODS` lists the methods that it may offer.
        images: the result of :func:`bitsperdim.load_data`, or an array of integers 0..L-1, (N, C, H, W) or (N, H, W).
        n_levels: number of levels L, if ``images`` is an array.
        labels: class labels, (N,), integers; if given, every method is called with them after the images.
        train: array of the training images; copies of them among ``images`` are found and reported.
        library: name of the library of which the model is, a key of
            :data:`bitsperdim.models.external.libraries.LIBRARIES`; None: the model offers one of the methods itself.
        offers: name of the method to use, if it is not clear: for a function, for ``forward``, or for several methods.
        inputs: input values of the model: ``integers`` (the default), ``unit`` for x / (L-1), ``symmetric`` for
            2 x / (L-1) - 1. Distributions that the model returns are always evaluated at the levels themselves.
        layout: ``channels_first`` (the default), ``channels_last``, ``flat`` or ``plane``, which has no channel.
        range: (low, high), the interval of the values of a density; each of its L equal parts is the cell of a level.
        order: order of the sub-pixels for conditionals: ``raster`` (the default), ``planes``, or (C, H, W) integers.
        ode: settings of the differential equation of a model that offers a velocity or a score, a mapping with some of
            ``times``, ``n_steps``, ``method``, ``probes``, ``schedule`` and ``noise``
            (:class:`bitsperdim.models.external.ode.OdeSettings`).
        n_samples: number K of samples for a bound; None: 1,024, or 16 for a velocity or a score.
        seed: seed of all random numbers.
        batch_size: number of images at a time.
        chunk_size: number of samples at a time.
        proposal: proposal of a model with a latent code: ``refined`` optimizes the encoder's proposal for each image
            before the samples are drawn, if the model has derivatives in the code
            (:mod:`bitsperdim.evaluation.refined`); ``encoder`` uses it unchanged; ``prior`` is naive Monte Carlo.
        subset: number of images to score, chosen at random with ``seed``; None: all.
        device: device on which to compute; None: the device of the model.
        checkpoint: folder that stores finished images; after an interruption, the same call resumes from it.
        name: name of the model in printed text.

    Raises:
        InputError: the model or an argument does not fit; the message says in one sentence what is wrong.
    """
    sizes: dict[str, Any] = {"n_samples": n_samples, "batch_size": batch_size, "chunk_size": chunk_size}
    _section(**{**sizes, "n_samples": 1 if n_samples is None else n_samples}, seed=seed, proposal=proposal)
    data = data_of(images, n_levels, labels=labels, train=train)
    given = adapted(model, library)
    if is_training(given):
        raise InputError(
            f"{type(model).__name__} is in training mode, in which dropout and batch statistics make the number depend "
            f"on random numbers and on the other images; call model.eval() first."
        )
    if subset is not None:
        data = data.subset(subset, seed)
    asked = ask(
        given,
        data,
        offers=offers,
        inputs=inputs,
        layout=layout,
        range=range,
        order=order,
        ode=ode,
        is_given_labels=labels is not None,
        library=library,
        name=name or name_of(model),
        seed=seed,
    )
    return scored(asked, data, **sizes, seed=seed, proposal=proposal, device=device, checkpoint=checkpoint)


def scored(
    asked: Asked,
    data: Data,
    *,
    n_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 120,
    chunk_size: int = 16,
    proposal: ProposalName = "refined",
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    may_look_ahead: bool = False,
) -> Estimate:
    """Return the bits per dimension of a model that :func:`ask` has wrapped.

    The arguments are those of :func:`evaluate`, and ``may_look_ahead``: whether to skip the check that an
    autoregressive model does not look ahead.
    """
    if n_samples is None:
        n_samples = N_SAMPLES_OF_EQUATIONS if isinstance(asked.model, ExternalOde) else N_SAMPLES
    section = _section(n_samples=n_samples, seed=seed, batch_size=batch_size, chunk_size=chunk_size, proposal=proposal)
    model, started = asked.model, time.monotonic()
    if isinstance(model, ExternalOde) and model.fits_noise and not len(data.prepared.images.get("train", ())):
        raise InputError("noise = 'variational' of ode is not allowed without training images; give train=.")
    place = _device(model.device if device is None else device)
    module = model if asked.offer is None else asked.offer.module
    weights = weights_sha256(module)
    if checkpoint is not None and module is None:
        raise InputError(
            f"checkpoint is not allowed with {asked.name}, whose weights are not known, so that results of another "
            f"model might be reused; give a torch.nn.Module, or one of its methods."
        )
    kept = None if checkpoint is None else _place(Path(checkpoint), asked, data, section, module, place)
    print(
        f"{asked.name}: {model.n_parameters:,} weights ({megabytes(bytes_of(model))}) on {place}, "
        f"{len(data.images):,} images, {batch_size} at a time"
        + (f", K = {n_samples:,}" if model.kind == "lower" else "")
        + ".",
        file=sys.stderr,
        flush=True,
    )
    try:
        announce_cost(model, data, section, place, asked.name)
        with seeded(stream("evaluation", seed), place):  # the global generators keep their state
            scores = scoring.evaluate_seed(
                model,
                data.prepared,
                section,
                0,
                place,
                title=f"score {asked.name}",
                checkpoint=kept,
                may_look_ahead=may_look_ahead,
                advice="a smaller n_samples takes less time",
            )
    except FloatingPointError as error:
        raise InputError(f"{asked.name} cannot be scored: {str(error).removesuffix(' (seed 0)')}.") from error
    except InputError as error:
        words = str(error).replace("The model of seed 0 cannot be evaluated", f"{asked.name} cannot be scored")
        raise InputError(words.rstrip(".") + ".") from error
    is_sampled = model.kind == "lower"
    options = {
        **asked.options,
        "seed": seed if is_sampled else None,
        "batch": images_at_once(model, n_samples, batch_size) if is_sampled else None,  # each batch has its own draws
        "chunk": min(chunk_size, n_samples) if is_sampled else None,
        "proposal": scoring.proposal_of(model, section),
        "noise": "sequential" if scores.noise == "sequential" else None,  # any other noise is the model's own
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": place.type,
        "weights": "unknown" if module is None else "none" if weights is None else weights[:DIGITS],
    }
    verified: tuple[str, ...] = ("construction",) if asked.offer is None else ()
    if asked.offer is not None and asked.offer.method == "logits":
        verified = BY_CONSTRUCTION
    if kept is not None:
        kept.finish()
    return result_of(
        scores, model, data, name=asked.name, options=options, verified_by=verified, seconds=time.monotonic() - started
    )


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
    """Summarise the scores of all images as one number with its errors."""
    prepared = data.prepared
    near = prepared.near_train.get("test")
    metrics = summary.summarise(
        {0: scores},
        model,
        prepared.description,
        options.get("proposal"),
        same_as=prepared.same_as["test"],
        in_train=prepared.in_train.get("test"),
        near_train=None if near is None else near >= 0,
        log_p_true=data.log_p_true,
    ).metrics
    return Estimate(name, metrics, scores, data, options, verified_by, seconds)


def _section(*, n_samples: int, seed: int, batch_size: int, chunk_size: int, proposal: ProposalName) -> EvaluateSection:
    counts = {"n_samples": n_samples, "batch_size": batch_size, "chunk_size": chunk_size}
    for key, value in counts.items():
        if type(value) is not int or not 1 <= value <= 1_000_000:
            raise InputError(f"{key} = {shown(value)} is not allowed; it must be an integer from 1 to 1,000,000.")
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise InputError(f"seed = {shown(seed)} is not allowed; it must be an integer from 0 to {2**31 - 1}.")
    if proposal not in get_args(ProposalName):
        choices = ", ".join(get_args(ProposalName))
        raise InputError(f"proposal = {shown(proposal)} is not allowed; it must be one of {choices}.")
    annealed = AnnealedSection(n_images=0, n_simulated=0, n_chains=4, n_steps=60, n_leapfrog=5)
    return EvaluateSection(
        n_samples=n_samples,
        chunk_size=min(chunk_size, 100_000),
        batch_size=batch_size,
        n_pictures=1,
        seed=seed,
        proposal=proposal,
        annealed=annealed,
    )


def _device(given: str | torch.device) -> torch.device:
    """Return the given device if it is available.

    Raises:
        InputError: the device is not available, or holds no values.
    """
    try:
        device = torch.device(given)
        torch.empty(1, device=device)
    except Exception as error:  # different kinds of devices raise different errors
        raise InputError(
            f"device = {shown(str(given))} is not available ({first_line(error)}); choose another device."
        ) from error
    if device.type == "meta":
        raise InputError("The model is on the device 'meta', where weights have no values; load the weights first.")
    return device


def _place(
    folder: Path, asked: Asked, data: Data, section: EvaluateSection, module: nn.Module | None, device: torch.device
) -> Checkpoint:
    """Return the place for finished images, separate for each model, data set, settings and version of the code."""
    code = needed(Path(__file__), Path(latent_code.__file__), *code_of(asked.library))
    decides = {
        "weights": weights_sha256(module),
        "module": None if module is None else _described(module),
        "asked": {key: str(value) for key, value in asked.options.items()},
        "name": asked.name,
        "data": [data.protocol, data.prepared.description.test_sha256],
        "evaluate": section.model_dump(mode="json"),
        "device": device.type,
    }
    found = Checkpoint.of(decides, code)
    return Checkpoint(folder / found.fingerprint, found.fingerprint, found.interval)


def _described(module: nn.Module) -> str:
    """Return a hash of a module without its weights: its printed parts, and the source code of their classes."""
    parts = [repr(module)]
    for kind in sorted(
        {type(part) for part in module.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__)
    ):
        if not kind.__module__.startswith("torch."):
            parts.append(f"{kind.__module__}.{kind.__qualname__}")
            with contextlib.suppress(OSError, TypeError):
                parts.append(inspect.getsource(kind))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
