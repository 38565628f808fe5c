"""The model family ``external``: an external model, configured by a section of ``params.yaml``.

The model is loaded in the same way as by ``bitsperdim audit`` (:mod:`.loading`), and wrapped (:mod:`.wrapping`).

With ``fit`` its weights are trained like those of any other family. Without ``fit`` no weight is trainable, and the
training stage saves the model unchanged, like a model in closed form.

Invariants (``tests/models/external/test_family.py``): a saved model can be loaded again
(``test_a_saved_model_comes_back``); a file that has changed since then is refused
(``test_another_file_is_refused``); every mistake is reported in one sentence (``test_every_mistake_is_one_sentence``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitsperdim.core.errors import InputError
from bitsperdim.core.foreign import file_sha256, needed_by
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.convention import Convention, Inputs, Layout
from bitsperdim.models.external.libraries import adapted, versioned
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
    library: str | None = None,
    offers: str | None = None,
    inputs: Inputs | None = None,
    layout: Layout | None = None,
    range: Sequence[float] | None = None,  # noqa: A002 - the word that users know
    order: str | None = None,
    ode: Mapping[str, Any] | None = None,
    n_classes: int | None = None,
) -> ImageModel:
    """Load the model from a file and wrap it.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        file: path of a Python file.
        name: name of a class, or of a function that returns the model; None: the function ``load``, or else the only
            module class of the file.
        arguments: keyword arguments for this class or function.
        weights: path of a file written by safetensors or ``torch.save``; None: the weights that the model comes with.
        weights_key: key of the state dict in a file of ``torch.save`` that holds several things.
        fit: whether the weights are trained here.
        library: name of the library of which the model is; None: the model offers one of the methods itself.
        offers: method of the model that is called. For this and the next four arguments, None means: the value in the
            attribute ``bitsperdim`` of the model, or the default.
        inputs: numbering of the levels.
        layout: layout of the images.
        range: interval (low, high) of a density.
        order: order of the sub-pixels, for conditionals.
        ode: settings of a differential equation (:func:`.ode.settings_of`).
        n_classes: number of classes if the model is conditioned on labels.

    Raises:
        InputError: the model cannot be loaded or wrapped; the message gives the reason.
    """
    place = file if name is None else f"{file}:{name}"
    loaded = load_model(
        place, arguments or {}, weights, weights_key=weights_key, image_shape=image_shape, n_levels=n_levels
    )
    model = adapted(loaded.model, library)
    known = declared(model, offers=offers, inputs=inputs, layout=layout, range=range, order=order, ode=ode)
    offer = offers_of(model, known.get("offers"))[0]
    wrapped = wrap(
        offer,
        image_shape,
        n_levels,
        convention=Convention(known.get("inputs", "integers"), known.get("layout", "channels_first")),
        n_classes=n_classes,
        interval=interval_of(known.get("range")),
        ode=known.get("ode"),
        order=known.get("order", "raster"),
    )
    if not fit:
        wrapped.requires_grad_(False)
    elif not any(each.requires_grad for each in wrapped.parameters()):
        raise InputError(f"fit = true is not allowed: the model of {file} has no weights to be trained; write false.")
    files = needed_by(file, arguments or {})
    origin = {"file": file, "sha256": file_sha256(Path(file)), "offers": offer.method, "files": files}
    if library is not None:
        origin["library"] = versioned(library)
    if weights is not None:
        origin |= {"weights": weights, "weights_sha256": file_sha256(Path(weights))}
    wrapped.origin = origin
    return wrapped
