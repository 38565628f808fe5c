"""Simple checks: is the number possible and plausible, does another input convention fit the model better?

The last check looks for copies of the images in the training data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch

from bitsperdim.auditing.check import Case, Check, failed, not_applicable, passed, warning
from bitsperdim.core.errors import InputError
from bitsperdim.core.labels import ROUNDING_BPD, uniform_bpd
from bitsperdim.data.yardsticks import code_length, contact_sheet, empirical_entropy
from bitsperdim.models.external.convention import Convention, Inputs
from bitsperdim.models.external.density import ExternalDensity
from bitsperdim.models.external.external import External
from bitsperdim.models.external.ode import ExternalOde
from bitsperdim.models.external.wrapping import ExternalConditionals, wrap

N_CODED = 500  # images on a sheet
IMPLAUSIBLE = 0.3  # share of the shortest code; the best published models need half of that code
CLEARLY = 0.05  # bits/dim by which another convention must be better
Z = 5.0
RANGES = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 256.0), (0.0, 256 / 255))


def possible_range(case: Case) -> Check:
    """Check whether a likelihood can have this value, for the mean and for every image."""
    name, numbers = "range", case.result.metrics
    log_p = case.result.log_p
    if case.result.kind == "density":
        return not_applicable(name, "A density may have any value, since it is not a probability mass.")
    reason, most = numbers.range_reason, uniform_bpd(numbers.protocol)
    size = max(numbers.bpd - most, -numbers.bpd)
    if reason is not None and "by chance" not in reason:
        found = failed if numbers.bpd < 0 else warning  # a bad model may be worse than uniform coding
        return found(name, f"The number is {reason}.", size if math.isfinite(size) else None)
    impossible = int(np.isneginf(log_p).sum())
    if impossible:
        words = f"{impossible} of {len(log_p)} images have probability 0, so that the number is infinite."
        return failed(name, words, math.inf)
    above = np.flatnonzero(log_p > ROUNDING_BPD * float(np.prod(case.data.image_shape)))
    if case.result.kind == "exact" and len(above):
        largest = case.in_bits_per_dim(float(log_p.max()))
        return failed(name, f"{len(above)} images have a probability above 1.", largest)
    words = f"The number lies between 0 and the {most:.4g} bits/dim of uniform coding."
    return passed(name, words, "a number below 0", numbers.bpd)


def against_codes(case: Case) -> Check:
    """Compare the number with lossless codes and with independent sub-pixels."""
    name, data = "codes", case.data
    if data.n_levels > 256:
        return not_applicable(name, "PNG and WebP store at most 256 levels.")
    images = data.images
    rows = case.rows(N_CODED)
    sheet = contact_sheet(images[rows])
    n_total = float(images[rows].size)
    n_bytes, n_empty, code = shortest_code(sheet.tobytes(), sheet.shape, sheet.dtype.str, data.n_levels)
    shortest = 8 * n_bytes / n_total
    # subtract the size of an empty sheet, which is most of the file if images are few and small
    needed = shortest - 8 * n_empty / n_total
    bpd, error = case.result.bits_per_dim, case.result.standard_error
    if not math.isfinite(bpd):
        return not_applicable(name, "The number is infinite.")
    if bpd < IMPLAUSIBLE * needed:
        words = (
            f"The number is only {bpd / shortest:.0%} of the {shortest:.4g} bits/dim of lossless {code}: not plausible."
        )
        return failed(name, words, IMPLAUSIBLE * needed - bpd)
    entropy, bias = empirical_entropy(images)
    independent = entropy - bias
    if len(images) > data.n_levels and bpd > independent + 3 * (error if math.isfinite(error) else 0.0):
        words = (
            f"The number is worse than that of independent sub-pixels ({independent:.4g} bits/dim). It may be right, "
            f"but then the model is weak; or its weights, its inputs or the preparation of the images are not those "
            f"that it was trained with."
        )
        return warning(name, words, bpd - independent)
    words = f"Lossless {code} needs {shortest:.4g} bits/dim, independent sub-pixels about {independent:.4g}."
    return passed(name, words, f"a number below {IMPLAUSIBLE:.0%} of {code}", bpd - IMPLAUSIBLE * needed)


@lru_cache(maxsize=4)
def shortest_code(content: bytes, shape: tuple[int, ...], dtype: str, n_levels: int) -> tuple[int, int, str]:
    """Return the size of a sheet in the shorter of two formats, that of an empty sheet, both in bytes, and the format.

    Results are cached, because several audits in a row often use the same images.

    Args:
        content: bytes of the sheet.
        shape: shape of the sheet.
        dtype: type of the sheet's numbers.
        n_levels: L.
    """
    sheet = np.frombuffer(content, dtype).reshape(shape)
    forms = {"PNG": "PNG", "WEBP": "WebP"}
    n_bytes, form = min((code_length(sheet, n_levels, form), form) for form in forms)
    return n_bytes, code_length(np.zeros_like(sheet), n_levels, form), forms[form]


@torch.no_grad()
def inputs(case: Case) -> Check:
    """Test whether another convention of the inputs fits the model better."""
    name = "inputs"
    model = None if case.asked is None else case.model
    if not isinstance(model, External):
        return not_applicable(name, "No input convention was declared.")
    if case.method in ("log_prob", "log_weights", "bound"):
        why = (
            f"The argument of {case.method} is also the image that it scores: on another scale it scores other images."
        )
        return not_applicable(name, why)
    rows = case.rows()
    images, labels = case.images(rows), case.labels(rows)
    mine = case.scores(images, labels=labels, model=model)
    declared = model.convention
    others: dict[str, dict[str, Any]]
    if isinstance(model, ExternalDensity):
        what = f"range = ({model.low:g}, {model.high:g})"
        # only intervals inside the declared one: nothing is known about values outside it
        intervals = [each for each in RANGES if model.low <= each[0] and each[1] <= model.high]
        intervals = [each for each in intervals if each != (model.low, model.high)]
        others = {f"range = ({low:g}, {high:g})": {"interval": (low, high)} for low, high in intervals}
    else:
        what = f"inputs = {declared.inputs!r}"
        conventions = [Convention(word, declared.layout) for word in get_args(Inputs) if word != declared.inputs]
        others = {f"inputs = {each.inputs!r}": {"convention": each} for each in conventions}
    tried, best = [], ("", 0.0)
    for said, changes in others.items():
        given = {"convention": declared, "n_classes": model.n_classes, **changes}
        if isinstance(model, ExternalConditionals):
            given["order"] = model.order.cpu()
        if isinstance(model, ExternalOde):
            given["ode"] = model.settings
        try:
            other = wrap(model.offer, model.image_shape, model.n_levels, **given)
            scores = case.scores(images, labels=labels, model=other)
        except (InputError, FloatingPointError):
            continue  # the model does not accept this convention
        difference = (scores.log_p - mine.log_p).numpy()
        if not np.isfinite(difference).all():
            continue
        tried.append(said)
        better = case.in_bits_per_dim(float(difference.mean()))
        spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
        if better > max(CLEARLY, best[1], Z * case.in_bits_per_dim(spread / len(difference) ** 0.5)):
            best = said, better
    if best[0]:
        words = f"With {best[0]} the number would be better: is {what} what the model was trained with?"
        return failed(name, words, best[1])
    if not tried:
        return not_applicable(name, "The model accepts no other convention.")
    catches = "images given on one of these other scales"
    return passed(name, f"{what} fits better than {', '.join(tried)}.", catches, CLEARLY)


def copies(case: Case) -> Check:
    """Report how many images are equal or nearly equal to training images, and whether they change the number."""
    name, numbers = "copies", case.result.metrics
    n_distinct = numbers.n_distinct_images
    n_images = numbers.n_images
    repeated = "" if n_distinct == n_images else f" Of {n_images:,} images {n_distinct:,} are distinct."
    if case.data.train is None and not case.data.prepared.in_train.get("test", np.zeros(1)).any():
        return not_applicable(name, f"The training images are not known: pass them as `train`.{repeated}")
    words = numbers.seen_in_words
    if words and numbers.is_of_seen_images:
        without = (numbers.bpd_without_training_images, numbers.bpd_without_near_training_images)
        size = max((abs(others - numbers.bpd) for others in without if others is not None), default=None)
        return failed(name, f"{words[:1].upper()}{words[1:]}.{repeated}", size)
    found = (
        "None of the images is a training image or nearly one." if words is None else f"{words[:1].upper()}{words[1:]}."
    )
    return passed(
        name, f"{found}{repeated}", "exact copies, and copies that are shifted by a pixel, noisy or of another contrast"
    )
