"""Checks that the parameters fit the data set and that the models fit the images, which ``params.yaml`` cannot show.

Invariants (``tests/config/test_params.py``, ``tests/preflight/test_preflight.py``): levels, bits, binarization and
models that do not fit the images are refused with one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bitsperdim.config.families.base import Images
from bitsperdim.config.loading import load_yaml
from bitsperdim.config.params import Params, validate
from bitsperdim.config.sentences import listed
from bitsperdim.core.errors import InputError, shown
from bitsperdim.sources import SOURCES, Drawn
from bitsperdim.sources.known import KNOWN

LARGEST = 2**63 - 1


def validated(content: object) -> Params:
    """Validate the content of ``params.yaml``, also against the data set that it names.

    Raises:
        InputError: a value is not allowed; the message names the key, the value and what is allowed.
    """
    params = validate(content)
    check_integers(content)
    check_levels(params)
    return params


def check_integers(content: object, place: str = "") -> None:
    """Raise InputError for absurdly large integers, which Python could not even print."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            check_integers(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for value in content:
            check_integers(value, place)
    elif isinstance(content, int) and abs(content) > LARGEST:
        raise InputError(
            f"params.yaml: {place} = (an integer of {content.bit_length():,} bits) is not allowed; it must be at most "
            f"{LARGEST}."
        )


def read_validated(path: Path) -> Params:
    """Read and validate ``params.yaml``; see :func:`validated`."""
    return validated(load_yaml(path))


def raw_levels(params: Params) -> int:
    """Return the number of levels of the original images, before any quantization."""
    return params.dataset.n_levels or SOURCES[params.dataset.name].n_levels


def model_levels(params: Params) -> int:
    """Return L, the number of levels of the images that the models see, after quantization and binarization."""
    if params.dequantize.binarization != "none":
        return 2
    if params.dequantize.bits is not None:
        return int(2**params.dequantize.bits)
    return raw_levels(params)


def check_levels(params: Params) -> None:
    """Raise InputError if the data set does not exist, or if levels or models do not fit its images."""
    name = params.dataset.name
    if name not in SOURCES:
        raise InputError(f"params.yaml: dataset.name = {shown(name)} is not a data set; choose {listed(SOURCES)}.")
    source = SOURCES[name]
    if params.dataset.n_levels is not None and source.fixed_levels and params.dataset.n_levels != source.n_levels:
        raise InputError(
            f"params.yaml: dataset.n_levels = {params.dataset.n_levels} is not allowed; "
            f"{name} has {source.n_levels} levels, so write {source.n_levels} or null."
        )
    binarization = params.dequantize.binarization
    if source.is_static != (binarization == "static"):
        allowed = "must be 'static'" if source.is_static else "may be none, threshold or dynamic"
        raise InputError(
            f"params.yaml: dequantize.binarization = {binarization!r} is not allowed with dataset.name = {name!r}; "
            f"it {allowed}."
        )
    levels = raw_levels(params)
    bits = params.dequantize.bits
    if bits is not None and 2**bits >= levels:
        raise InputError(
            f"params.yaml: dequantize.bits = {bits} is not allowed; it gives {2**bits} levels, which is not fewer than "
            f"the {levels} levels of the images. Choose fewer bits or null."
        )
    shape = source.image_shape
    if isinstance(source, Drawn):
        if bits is not None or binarization != "none":
            key, value = ("bits", bits) if bits is not None else ("binarization", repr(binarization))
            raise InputError(
                f"params.yaml: dequantize.{key} = {value} is not allowed with dataset.name = {name!r}; log P(x) is "
                f"known only for its images as they are drawn. Write {'null' if bits is not None else 'none'}, and set "
                f"the number of levels by dataset.n_levels."
            )
        shape = source.distribution(params.dataset.drawn, params.dataset.n_levels).image_shape
    check_images(params, shape, source.n_classes)


def check_images(params: Params, shape: tuple[int, int, int] | None, n_classes: int | None) -> None:
    """Raise InputError if a model cannot be built for the images.

    Args:
        params: validated parameters.
        shape: (C, H, W) of the images; None: unknown.
        n_classes: number of classes of the images; None: unknown.
    """
    images = Images(model_levels(params), shape, n_classes)
    for model in params.models:
        section = params.sections[model]
        section.check_images(model, images)
        section.check_size(model, images)
        section.check_training(model, section.settings(params.train))
    flow = params.density_and_mass.dequantizing.flow("variational")
    place = "density_and_mass.dequantizing"
    flow.check_size(place, images)
    flow.check_training(place, flow.settings(params.train))
    check_known(params)


def check_known(params: Params) -> None:
    """Raise InputError if the study ``known`` has distributions or models that do not fit the shape of its images."""
    section = params.known.excess
    for name in section.sources:
        try:
            KNOWN[name](section.image_shape, section.n_levels, section.strength, section.n_components)
        except InputError as error:
            named = re.sub(r"\bdataset\.(drawn\.)?(?!name)", "known.excess.", str(error))
            raise InputError(named.replace("dataset.name = ", "the source ")) from error
    section.check_models(params.train)
