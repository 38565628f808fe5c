"""The function ``bitsperdim.audit``, which scores a model and runs every check that applies.

**A kind (exact or bound) is only declared until a check has verified it.** A lower bound can have the same signature as
an exact ``log_prob``. Of bare arrays nothing is known, so that their kind always stays declared. :data:`VERIFYING`
lists which checks verify a kind.

Invariants: correct models pass, except for the stated rate of false alarms (``tests/auditing/test_right_models.py``);
each known mistake, made in a foreign model, is caught by a check that does not know which mistake it is
(``tests/studies/known/test_mistakes.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bitsperdim.auditing import mass, plausible, same, structure
from bitsperdim.auditing.check import Case, Check, Clock, CountingClock, failed, not_applicable
from bitsperdim.auditing.report import Audit
from bitsperdim.config.params import ProposalName
from bitsperdim.core.errors import InputError, shown
from bitsperdim.evaluation.evaluate import ask, name_of, scored
from bitsperdim.evaluation.images import Data, data_of
from bitsperdim.evaluation.result import Estimate
from bitsperdim.models.external.convention import Inputs, Layout
from bitsperdim.models.external.libraries import adapted
from bitsperdim.models.external.methods import is_training

CHECKS: Mapping[str, Callable[[Case], Check]] = {
    "repeatable": same.repeatable,
    "alone or in a batch": same.alone_or_in_a_batch,
    "masses sum to one": structure.masses_sum_to_one,
    "causality": structure.causality,
    "decoder": structure.decoder,
    "samples": structure.samples,
    "sum over tiny images": mass.sum_over_tiny_images,
    "sampler": mass.sampler,
    "annealed mass": mass.annealed_mass,
    "known truth": mass.known_truth,
    "slice": mass.slice_of_images,
    "range": plausible.possible_range,
    "codes": plausible.against_codes,
    "inputs": plausible.inputs,
    "copies": plausible.copies,
}
# for each method, the checks that together verify the declared kind of the number
VERIFYING = {
    "conditionals": ("masses sum to one", "causality"),
    "logits": ("masses sum to one", "causality"),
    "log_prob": ("sum over tiny images",),
    "encode": ("masses sum to one", "decoder", "samples"),
    "log_weights": ("sum over tiny images",),
    "log_density": ("sum over tiny images",),
    "velocity": ("sum over tiny images",),
    "score": ("sum over tiny images",),
}


def audit(
    model: object,
    images: Any = None,  # noqa: ANN401 - Data, or an array
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
    log_p_true: Any = None,  # noqa: ANN401 - an array
    build: Callable[..., object] | None = None,
    seconds: float = 20.0,
    n_asked: int | None = None,
) -> Audit:
    """Score a model and run every check that applies to its number.

    Args:
        model: the model, as in :func:`bitsperdim.evaluate`; or a result of :func:`bitsperdim.evaluate` or
            :func:`bitsperdim.estimate_of_arrays`, whose numbers alone are then checked.
        images: as in :func:`bitsperdim.evaluate`; not needed if ``model`` is a result.
        n_levels: as in :func:`bitsperdim.evaluate`.
        labels: as in :func:`bitsperdim.evaluate`.
        train: as in :func:`bitsperdim.evaluate`.
        library: as in :func:`bitsperdim.evaluate`; then ``build`` returns models of this library too.
        offers: as in :func:`bitsperdim.evaluate`.
        inputs: as in :func:`bitsperdim.evaluate`.
        layout: as in :func:`bitsperdim.evaluate`.
        range: as in :func:`bitsperdim.evaluate`.
        order: as in :func:`bitsperdim.evaluate`.
        ode: as in :func:`bitsperdim.evaluate`.
        n_samples: as in :func:`bitsperdim.evaluate`.
        seed: as in :func:`bitsperdim.evaluate`.
        batch_size: as in :func:`bitsperdim.evaluate`.
        chunk_size: as in :func:`bitsperdim.evaluate`.
        proposal: as in :func:`bitsperdim.evaluate`.
        subset: as in :func:`bitsperdim.evaluate`.
        device: as in :func:`bitsperdim.evaluate`.
        checkpoint: as in :func:`bitsperdim.evaluate`.
        name: as in :func:`bitsperdim.evaluate`.
        log_p_true: true log-probability of each image, (N,) nats, if it is known; images that were drawn from a known
            distribution already contain it.
        build: function such that ``build(image_shape=(C, H, W), n_levels=L)`` returns a model of the same kind for tiny
            images, with any weights; the audit then adds up its probabilities over all images.
        seconds: approximate time limit of each check.
        n_asked: approximate number of images that each check may score with the model, instead of a time limit; a
            repeated audit then does the same work, also on a faster machine.

    Raises:
        InputError: an argument is not allowed or does not fit the model; the message says which.
    """
    started = time.monotonic()
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise InputError(f"seconds = {shown(seconds)} is not allowed; it must be a positive number.")
    if n_asked is not None and not (type(n_asked) is int and n_asked >= 1):
        raise InputError(f"n_asked = {shown(n_asked)} is not allowed; it must be a positive integer, or None.")
    if isinstance(model, Estimate):
        truth = _truth(log_p_true, len(model.log_p), model.data)
        case = Case(None, model.data, model, seed, truth, None, seconds)
        return _audited(case, started)
    data = data_of(images, n_levels, labels=labels, train=train)
    if subset is not None:
        if log_p_true is not None:
            raise InputError("subset is not allowed with log_p_true; select the images and their log_p_true yourself.")
        data = data.subset(subset, seed)
    truth = _truth(log_p_true, len(data.images), data)
    options = {"offers": offers, "inputs": inputs, "layout": layout, "range": range, "order": order, "ode": ode}
    asking: dict[str, Any] = {**options, "is_given_labels": labels is not None, "library": library, "seed": seed}
    asking["name"] = name or name_of(model)
    scoring: dict[str, Any] = {
        "n_samples": n_samples,
        "seed": seed,
        "batch_size": batch_size,
        "chunk_size": chunk_size,
        "proposal": proposal,
        "device": device,
        "checkpoint": checkpoint,
        "may_look_ahead": True,  # the causality check reports it
    }
    given = adapted(model, library)
    first: list[Check] = []
    if is_training(given):
        first = [same.training_mode(given, data, asking, scoring)]
    asked = ask(given, data, **asking)
    result = scored(asked, data, **scoring)
    sub_pixels = 0 if n_asked is None else n_asked * math.prod(data.image_shape)
    clock = CountingClock(sub_pixels / seconds) if sub_pixels else Clock()
    return _audited(Case(asked, data, result, seed, truth, _adapting(build, library), seconds, clock), started, first)


def _adapting(build: Callable[..., object] | None, library: str | None) -> Callable[..., object] | None:
    """Return a function that builds a model and adapts it."""
    if build is None or library is None:
        return build

    def built(**sizes: Any) -> object:  # noqa: ANN401 - image_shape and n_levels
        model = build(**sizes)
        return adapted(model.eval() if isinstance(model, torch.nn.Module) else model, library)

    return built


def _truth(given: Any, n_images: int, data: Data) -> np.ndarray | None:  # noqa: ANN401 - whatever was given
    if given is None:
        return data.log_p_true
    values = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if values.shape != (n_images,) or not np.isfinite(values).all():
        raise InputError(f"log_p_true must be {n_images} finite numbers in nats, one for each image.")
    return values.astype(np.float64)


def _audited(case: Case, started: float, first: Sequence[Check] = ()) -> Audit:
    checks = list(first)
    for name, check in (bar := tqdm(CHECKS.items(), unit="check", disable=None, leave=False)):
        bar.set_description(f"check: {name}")
        try:
            checks.append(check(case))
        except FloatingPointError as error:
            checks.append(failed(name, f"During this check: {error}."))
        except InputError as error:  # the model refuses images or codes other than those of the data
            checks.append(not_applicable(name, str(error)))
    statuses = {check.name: check.status for check in checks}
    verifying = VERIFYING.get(case.method, ())
    result = case.result
    if case.method == "own" or (verifying and all(statuses.get(name) == "passed" for name in verifying)):
        result = result.verified(*(verifying or ("construction",)))
    elif case.method != "own":
        result = result.verified()
    return Audit(result, checks, time.monotonic() - started)
