"""Adapters for models of other libraries, chosen by one word: ``library="zuko"``.

An adapter is a module of this package with the name of the library. Its function ``adapt(model)`` returns an object
that offers one of :data:`~bitsperdim.models.external.methods.METHODS`. If the library saves models as folders, its
function ``open_folder(folder)`` returns such a model, which is then adapted like any other. A new adapter is one new
module and one line of :data:`LIBRARIES`. A library is imported only if its name is given.

Invariants (``tests/models/external/libraries/test_libraries.py``): without a word nothing changes
(``test_without_a_word_the_model_is_unchanged``); an unknown word, a library that is not installed and a model of
another class are refused in one sentence (``test_what_is_refused``); every adapter has its line
(``test_every_adapter_has_its_line``).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from bitsperdim.core.code import file_of
from bitsperdim.core.errors import InputError, shown
from bitsperdim.models.external.distributions import first_line

# what the models of each library give
LIBRARIES: Mapping[str, str] = {
    "diffusers": "pipelines of a UNet2DModel and a scheduler, which give draws of a bound",
    "flow_matching": "solvers of ordinary differential equations and wrapped models, which give a velocity",
    "nflows": "flows, which give a log-density",
    "normflows": "flows, which give a log-density",
    "pythae": "variational autoencoders with a Bernoulli decoder, which give an encoder, a decoder and a prior",
    "zuko": "flows and other distributions, which give a log-density",
}


def adapted(model: object, library: str | None) -> object:
    """Return a model of a library as an object that offers a likelihood.

    Args:
        model: model of the library; if it holds a module, the module is an attribute of the result too.
        library: name of the library, a key of :data:`LIBRARIES`; None: the model is returned unchanged.

    Raises:
        InputError: there is no adapter of this name, the library cannot be imported, or the adapter does not take the
            model.
    """
    return model if library is None else _adapter(library).adapt(model)


def opened(folder: Path, library: str) -> object:
    """Return the model that a library saved as a folder, in evaluation mode; :func:`adapted` takes it.

    Args:
        folder: folder that the library wrote.
        library: name of the library.

    Raises:
        InputError: there is no adapter of this name, the library cannot be imported or saves no folders, or the model
            cannot be read.
    """
    adapter = _adapter(library)
    if not hasattr(adapter, "open_folder"):
        raise InputError(
            f"{folder} is a folder, but {library} does not save models as folders; give the Python file that makes "
            f"the model, and its weights with --weights."
        )
    return adapter.open_folder(folder)


def versioned(library: str) -> str:
    """Return the name of a library with its installed version, such as ``zuko 1.6.0``."""
    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # it was imported from a folder
        version = str(getattr(import_module(library), "__version__", "of unknown version"))
    return f"{library} {version}"


def code_of(library: str | None) -> list[Path]:
    """Return the file of an adapter, for hashes of the code that a number depends on; without a library, none."""
    return [] if library is None else [file_of(f"{__name__}.{library}")]


def refusal(model: object, library: str, allowed: str, why: str | None = None) -> InputError:
    """Return the error for a model that an adapter does not take.

    Args:
        model: the model.
        library: name of the library.
        allowed: models that are allowed, in words.
        why: reason; None: the model is of another class.
    """
    kind = model if isinstance(model, type) else type(model)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    what = f"the class {name} itself" if isinstance(model, type) else name
    reason = "" if why is None else f", {why}"
    return InputError(f"With library = {library!r} the model cannot be {what}{reason}; it must be {allowed}.")


def _adapter(library: str) -> ModuleType:
    if not isinstance(library, str) or library not in LIBRARIES:
        choices = "; ".join(f"{name} ({words})" for name, words in LIBRARIES.items())
        raise InputError(f"library = {shown(library)} is not allowed; it must be one of {choices}.")
    try:
        import_module(library)
    except ImportError as error:
        raise InputError(
            f"library = {library!r} needs the Python package {library}, which cannot be imported "
            f"({first_line(error)}); install it with `pip install {library}`."
        ) from error
    return import_module(f"{__name__}.{library}")
