"""The family ``external``: a model that was made elsewhere, made of a section of ``params.yaml``.

The user's file is executed, its class or function called with the arguments of the section, weights are loaded, and
what comes of it is wrapped (:mod:`.wrapping`). ``image_shape`` and ``n_levels`` are passed where the signature names
them. Whatever goes wrong in somebody else's code is one sentence.

With ``fit`` its weights are trained as those of any family are. Without, nothing of it is trainable, and the training
stage saves it as it came, as a model in closed form.

Invariants (``tests/models/external/test_family.py``): a saved model comes back
(``test_a_saved_model_comes_back``); a file that has changed since is refused
(``test_another_file_is_refused``); every mistake is one sentence (``test_every_mistake_is_one_sentence``).
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.foreign import code_beside, file_sha256, needed_by
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.convention import Convention, Inputs, Layout
from bitsperdim.models.external.methods import offers_of
from bitsperdim.models.external.wrapping import wrap

DECLARED = ("offers", "inputs", "layout", "range", "order")  # keys of an attribute `bitsperdim` of a model
REASON = 300  # characters of somebody else's message


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
    model = made(file, name, dict(arguments or {}), {"image_shape": image_shape, "n_levels": n_levels})
    if weights is not None:
        load_weights(model, weights, weights_key)
    if isinstance(model, nn.Module) and not fit:
        model.requires_grad_(False)
    if fit and not (isinstance(model, nn.Module) and any(each.requires_grad for each in model.parameters())):
        raise InputError(f"fit = true is not allowed: the model of {file} has no weights to be trained; write false.")
    said = {"offers": offers, "inputs": inputs, "layout": layout, "range": range, "order": order}
    known = {**declared(model), **{key: value for key, value in said.items() if value is not None}}
    offer = offers_of(model, known.get("offers"))[0]
    wrapped = wrap(
        offer,
        image_shape,
        n_levels,
        convention=Convention(known.get("inputs", "integers"), known.get("layout", "channels_first")),
        n_classes=n_classes,
        interval=interval(known.get("range")),
        order=known.get("order", "raster"),
    )
    files = needed_by(file, arguments or {})
    origin = {"file": file, "sha256": file_sha256(Path(file)), "offers": offer.method, "files": files}
    if weights is not None:
        origin |= {"weights": weights, "weights_sha256": file_sha256(Path(weights))}
    wrapped.origin = origin
    return wrapped


def made(file: str, name: str | None, arguments: dict[str, Any], known: Mapping[str, Any]) -> object:
    """Return what the class or function of a file gives for the arguments.

    Args:
        file: of Python.
        name: of the class or function; None: see :func:`chosen`.
        arguments: of it.
        known: further arguments, for a signature that names them.
    """
    with importable(Path(file)):
        target, called = chosen(executed(Path(file)), file, name)
        if isinstance(target, nn.Module):  # an instance, made by the file itself
            return target
        if not callable(target):
            raise InputError(f"{called} in {file} is {type(target).__name__}; it must be a class or a function.")
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # it does not say
            given = copy.deepcopy(arguments)
        else:
            of_images = {key: value for key, value in known.items() if key in signature.parameters}
            given = {**of_images, **copy.deepcopy(arguments)}
            try:
                signature.bind(**given)
            except TypeError as error:
                raise InputError(
                    f"{called} in {file} refuses the arguments {', '.join(given) or 'that are given, none'}: {error}; "
                    f"it takes {called}{signature}."
                ) from error
        try:
            return target(**given)
        except (InputError, KeyboardInterrupt, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{called} in {file} raised {reason(error, file)}.") from error


@contextmanager
def importable(path: Path) -> Iterator[None]:
    """Let a file import what lies in its folder, as a script can: anew, since an earlier model's may be known."""
    folder = str(path.resolve().parent)
    for each in code_beside(path):
        parts = each.relative_to(path.parent).with_suffix("").parts
        sys.modules.pop(".".join(parts).removesuffix(".__init__"), None)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what is imported only when a method is called


def executed(path: Path) -> ModuleType:
    """Execute a file of Python as a module of its own.

    Raises:
        InputError: it is not there, is no Python, or raises an error.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    module = ModuleType(f"{path.stem}_{file_sha256(path)[:12]}")  # which hides no module of the file's own name
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    try:  # compiled here: a cache of compiled files goes by times, and the hash is of these bytes
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be executed: it raised {reason(error, str(path))}.") from error
    return module


def chosen(module: ModuleType, file: str, name: str | None) -> tuple[object, str]:
    """Return the class or function that is meant, and its name.

    Raises:
        InputError: there is none, or there are several; it lists them.
    """
    if name is not None:
        if not hasattr(module, name):
            raise InputError(f"There is no {name!r} in {file}.")
        return getattr(module, name), name
    if callable(found := getattr(module, "load", None)):
        return found, "load"
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    if len(classes) != 1:
        there = f"several classes of modules ({', '.join(classes)})" if classes else "no class of a module"
        raise InputError(
            f"{file} has {there} and no function `load`; say by `name` which class, or function that returns the "
            f"model, is meant."
        )
    [(only, target)] = classes.items()
    return target, only


def load_weights(model: object, path: str, key: str | None) -> None:
    """Load the weights of a module from a file of safetensors, or of ``torch.save``; nothing of it is executed.

    Raises:
        InputError: there is no such file, it is damaged, or its weights are not those of the module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"weights = {path!r} is not allowed: the model is {type(model).__name__}, no torch.nn.Module.")
    state = stored(path)
    if key is not None:
        if not isinstance(state, Mapping) or key not in state:
            raise InputError(f"weights_key = {key!r} is not in {path}, which holds {held(state)}.")
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path} must hold the state_dict of the model, name by name a tensor, but holds {held(state)}; say by "
            f"`weights_key` where that is."
        )
    try:
        model.load_state_dict(dict(state))
    except Exception as error:  # names or shapes
        raise InputError(f"The weights of {path} do not fit {type(model).__name__}: {reason(error)}.") from error


def stored(path: str) -> object:
    """Return what a file of weights holds.

    Raises:
        InputError: it is not there, or damaged.
    """
    import torch

    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"weights = {path!r} is not a file.") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise InputError(
            f"{path} is not a readable file of tensors alone, by safetensors or torch.save ({type(error).__name__})."
        ) from error


def held(content: object) -> str:
    """Return what a file of weights holds, in a few words."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    names = ", ".join(shown(key) for key in list(content)[:4])
    return f"{len(content)} entries, such as {names}" if content else "nothing"


def declared(model: object) -> dict[str, Any]:
    """Return what a model says of itself in an attribute ``bitsperdim``.

    Raises:
        InputError: that is not a dict of these keys.
    """
    said = getattr(model, "bitsperdim", {})
    if not isinstance(said, Mapping) or not set(said) <= set(DECLARED):
        raise InputError(
            f"The attribute bitsperdim of {type(model).__name__} must be a dict with some of the keys "
            f"{', '.join(DECLARED)}, not {shown(said)}."
        )
    return dict(said)


def interval(given: object) -> tuple[float, float] | None:
    """Return the interval of a density as two numbers.

    Raises:
        InputError: these are not two numbers.
    """
    if given is None:
        return None
    values = list(given) if isinstance(given, list | tuple) else []
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        raise InputError(f"range = {shown(given)} is not allowed; it must be two numbers (low, high).")
    return float(values[0]), float(values[1])


def reason(error: BaseException, file: str | None = None) -> str:
    """Return an error in one line, with the last line of a file that led to it."""
    words = " ".join(str(error).split())[:REASON].rstrip(".")
    traceback, line = error.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f"{type(error).__name__}{f': {words}' if words else ''}{f' (line {line})' if line else ''}"
