"""The family ``external``: a model that was made elsewhere, made of a section of ``params.yaml``.

The model is loaded as ``bitsperdim audit`` loads it (:mod:`.loading`), and wrapped (:mod:`.wrapping`).

With ``fit`` its weights are trained as those of any family are. Without, nothing of it is trainable, and the training
stage saves it as it came, as a model in closed form.

Invariants (``tests/models/external/test_family.py``): a saved model comes back
(``test_a_saved_model_comes_back``); a file that has changed since is refused
(``test_another_file_is_refused``); every mistake is one sentence (``test_every_mistake_is_one_sentence``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitsperdim.core.errors import InputError
from bitsperdim.core.foreign import file_sha256, needed_by
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.convention import Convention, Inputs, Layout
from bitsperdim.models.external.loading import load_model
from bitsperdim.models.external.methods import declared, interval_of, offers_of
from bitsperdim.models.external.wrapping import wrap


def external_model(
    image_shape: tuple[int, int, int],
    n_levels: int,
    *,
    file: str,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
    weights_key: str | None = None,
    fit: bool = False,
    offers: str | None = None,
    inputs: Inputs | None = None,
    layout: Layout | None = None,
    range: Sequence[float] | None = None,  # noqa: A002 - the word that users know
    order: str | None = None,
    n_classes: int | None = None,
) -> ImageModel:
    """Return the model of a file, wrapped.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        file: of Python.
        name: of a class, or of a function that returns the model; None: ``load``, or else the only module class.
        arguments: of it.
        weights: a file of safetensors or of ``torch.save``; None: those that the model comes with.
        weights_key: of the state in a file of ``torch.save`` that holds more.
        fit: whether its weights are trained here.
        offers: the method to be asked; None, as for the next four: what the model says of itself, or the default.
        inputs: how levels are numbered.
        layout: of images.
        range: (low, high), of a density.
        order: of conditionals.
        n_classes: of the labels that it is given.

    Raises:
        InputError: it cannot be had; the sentence says why.
    """
    place = file if name is None else f"{file}:{name}"
    model = load_model(
        place, arguments or {}, weights, weights_key=weights_key, image_shape=image_shape, n_levels=n_levels
    ).model
    known = declared(model, offers=offers, inputs=inputs, layout=layout, range=range, order=order)
    offer = offers_of(model, known.get("offers"))[0]
    wrapped = wrap(
        offer,
        image_shape,
        n_levels,
        convention=Convention(known.get("inputs", "integers"), known.get("layout", "channels_first")),
        n_classes=n_classes,
        interval=interval_of(known.get("range")),
        order=known.get("order", "raster"),
    )
    if not fit:
        wrapped.requires_grad_(False)
    elif not any(each.requires_grad for each in wrapped.parameters()):
        raise InputError(f"fit = true is not allowed: the model of {file} has no weights to be trained; write false.")
    files = needed_by(file, arguments or {})
    origin = {"file": file, "sha256": file_sha256(Path(file)), "offers": offer.method, "files": files}
    if weights is not None:
        origin |= {"weights": weights, "weights_sha256": file_sha256(Path(weights))}
    wrapped.origin = origin
    return wrapped
