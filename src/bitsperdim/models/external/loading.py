"""Loading of an external model from a Python file, a Python module or an exported program, and of its weights.

A Python file is run. Nothing else is run: weights are tensors, and an exported program is read as data
(:mod:`.exported`). An error in the user's code is reported in one sentence with its place.

Invariants (``tests/models/external/test_loading.py``): every way of loading gives the same model
(``test_every_way_is_the_same_model``); the current content of the files runs, also if two files import modules of the
same name from their own folders (``test_code_is_read_anew``); a pickle runs no code (``test_a_pickle_is_not_opened``);
each mistake is reported in one sentence.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch import nn

from bitsperdim.core.errors import InputError, shown
from bitsperdim.core.foreign import code_beside, files_named, hashes
from bitsperdim.models.external.blame import where
from bitsperdim.models.external.exported import read_exported
from bitsperdim.models.external.libraries import opened
from bitsperdim.models.external.methods import METHODS
from bitsperdim.models.external.weights import SUFFIXES, load_weights

WAYS = (
    "my_model.py, my_model.py:NAME, package.module:NAME, a program of torch.export (.pt2), a folder that a library "
    "saved (with --library) or arrays (.npz)"
)
EXAMPLES = {"-a": "checkpoint=w.pt", "--drawn": "height=16", "--ode": "n_steps=64"}
FILE = re.compile(r"(?P<file>.+\.py)(:(?P<name>\w+))?")
MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>\w+)")
FUNCTION = "load"
OF_IMAGES = ("image_shape", "n_levels")  # passed if the signature has them
OWN = frozenset(name.partition(".")[0] for name in sys.modules)  # modules in use by this package are never reloaded
N_OWN = len(sys.path)


@dataclass(frozen=True)
class Loaded:
    """A loaded model and its files.

    Attributes:
        model: model with a method for a likelihood (:mod:`.methods`); training or evaluation mode is not changed.
        build: ``build(image_shape=(C, H, W), n_levels=L)`` makes such a model for other images, in evaluation mode,
            with its initial weights; None: the model cannot be made with both arguments.
        files: SHA-256 of each file that the model depends on, by path: code, weights, and arguments that are files.
        name: name of the model, for output.
    """

    model: object
    build: Callable[..., object] | None
    files: Mapping[str, str]
    name: str


def load_model(
    place: str,
    arguments: Mapping[str, Any],
    weights: str | Path | None = None,
    *,
    weights_key: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    n_levels: int | None = None,
    device: torch.device | None = None,
    library: str | None = None,
) -> Loaded:
    """Load a model.

    In a file or module, the name refers to a subclass of torch.nn.Module, to a function that returns the model, or to a
    model object. A class or function is called with copies of the arguments; a model object is used directly. Without a
    name, the function ``load`` is used or, in a file, the only module class that is defined there. A file can import
    other files from its folder.

    Args:
        place: ``file.py``, ``file.py:name``, ``package.module:name``, ``file.pt2``, or a folder that the library saved.
        arguments: keyword arguments for the class or function.
        weights: file with the state dict, written by safetensors or torch.save.
        weights_key: key of the state dict in a file of torch.save that holds several things.
        image_shape: (C, H, W); passed if the signature has it and ``arguments`` does not.
        n_levels: number of levels L; passed in the same case as ``image_shape``.
        device: device for an exported program; other models can be moved by the caller.
        library: name of the library of which the model is; needed for a folder. Models are not adapted here.

    Raises:
        InputError: the model cannot be loaded; the message names the reason and, for an error in the user's code, its
            place.
    """
    if place.endswith(".pt2"):
        return _exported(place, arguments, weights, device)
    if library is not None and Path(place).is_dir():
        return _of_folder(Path(place), library, arguments, weights)
    path, name = _path_and_name(place)
    with _importable(place, path):
        module = _run(path) if path is not None else _imported(place)
        target = _target(module, place, name)
        if isinstance(target, nn.Module):
            if arguments:
                raise InputError(f"{place} is already a module object, so it takes no arguments; leave them out.")
            model = target
            build = None
        else:
            known = {"image_shape": image_shape, "n_levels": n_levels}
            model = _called(target, place, _complete(target, place, arguments, known))
            build = _builder(target, place, arguments)
    if model is None:
        raise InputError(f"{_words(place, target)} returned nothing; it must return the model.")
    files: list[str | Path] = [
        *(code_beside(path) if path is not None else _loaded(module)),
        *files_named(dict(arguments), ""),
    ]
    if weights is not None:
        load_weights(model, Path(weights), weights_key)
        files.append(weights)
    elif weights_key is not None:
        raise InputError(f"weights_key = {shown(weights_key)} is not allowed without a file of weights.")
    return Loaded(model, build, hashes(files), _stem(place))


def parsed_arguments(given: Sequence[str], flag: str = "-a") -> dict[str, Any]:
    """Parse arguments ``key=value`` of a command-line flag.

    Values are read as YAML: ``3``, ``1e-3``, ``true``, ``[1, 2]``, a word.

    Raises:
        InputError: a text is not ``key=value``, a key is given twice, or a value is not a number, a word, true, null or
            a list.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            example = EXAMPLES[flag]
            raise InputError(f"{flag} {shown(text)} is not allowed; it must be key=value, such as {flag} {example}.")
        if key in found:
            raise InputError(f"{flag} {key} is given twice.")
        try:
            found[key] = YAML(typ="safe", pure=True).load(value)
        except (YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"{flag} {shown(text)} is not allowed: its value is not YAML; quote it.") from error
        if not _is_plain(found[key]):
            raise InputError(
                f"{flag} {shown(text)} is not allowed; a value must be a number, a word, true, null or a list."
            )
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _exported(
    place: str, arguments: Mapping[str, Any], weights: str | Path | None, device: torch.device | None
) -> Loaded:
    if arguments or weights is not None:
        raise InputError(f"{place} is an exported program, which holds its weights and takes no arguments.")
    path = _existing(place)
    return Loaded(read_exported(path, device), None, hashes([path]), _stem(place))


def _of_folder(folder: Path, library: str, arguments: Mapping[str, Any], weights: str | Path | None) -> Loaded:
    if arguments or weights is not None:
        raise InputError(f"{folder} is a folder of {library}, which holds its weights and takes no arguments.")
    return Loaded(opened(folder, library), None, hashes(folder.rglob("*")), folder.resolve().name)


def _path_and_name(place: str) -> tuple[Path | None, str | None]:
    """Return the file that a place names, None for a module, and the name in it."""
    if found := FILE.fullmatch(place):
        return _existing(found["file"]), found["name"]
    if found := MODULE.fullmatch(place):
        return None, found["name"]
    if place.endswith(SUFFIXES):
        raise InputError(
            f"{shown(place)} holds weights and no model; give the Python file that makes the model, and the weights "
            f"with --weights."
        )
    if Path(place).is_dir():
        raise InputError(f"{shown(place)} is a folder; say with --library which library saved it, such as pythae.")
    raise InputError(f"{shown(place)} is not the place of a model; it must be {WAYS}.")


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{shown(name)} is not a file.")
    return path


def _run(path: Path) -> ModuleType:
    """Run a Python file as a module with a unique name in ``sys.modules``, which dataclasses need.

    The file is compiled here, because Python's cache of compiled files depends on modification times.
    """
    with _told(str(path)):
        source = path.read_bytes()
        module = ModuleType(f"{path.stem}_{hashlib.sha256(source).hexdigest()[:12]}")
        module.__file__ = str(path.resolve())
        sys.modules[module.__name__] = module
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


def _imported(place: str) -> ModuleType:
    with _told(place):
        return importlib.import_module(place.partition(":")[0])


@contextmanager
def _importable(place: str, path: Path | None) -> Iterator[None]:
    """Let a file import other files from its folder; for a Python module, from the current folder.

    These files are imported again, because another model may have loaded modules of the same names. Afterwards the
    folder stays in ``sys.path``, behind the original entries, for imports inside of methods.
    """
    if path is None:
        package = re.split("[.:]", place)[0]
        parent = Path()
        code = [each for each in (Path(package), Path(f"{package}.py")) if each.exists()]
    else:
        parent = path.parent
        code = code_beside(path)
    folder = str(parent.resolve())
    names = {each.relative_to(parent).parts[0].removesuffix(".py") for each in code} - OWN
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.insert(N_OWN, folder)  # before the folders of earlier models


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Turn an exception in the user's code into an InputError of one sentence with its place."""
    try:
        yield
    except (InputError, MemoryError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
        what = f"{type(error).__name__}: {(message.splitlines() or [''])[0][:300]}".rstrip(". :")
        at = where(error)
        raise InputError(f"{place} cannot be loaded: {at}{': ' if at else ''}{what}.") from error


def _target(module: ModuleType, place: str, name: str | None) -> Any:  # noqa: ANN401 - a class, a function, a module
    if name is not None:
        if not hasattr(module, name):
            raise InputError(f"{place}: there is no {name!r} in it.")
        named = getattr(module, name)
        if not callable(named):  # module objects are callable
            raise InputError(
                f"{place} is {type(named).__name__}; it must be a class of modules, a module object or a function."
            )
        return named
    function = getattr(module, FUNCTION, None)
    if callable(function):
        return function
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]
    if len(classes) > 1:  # mere layers have no method for a likelihood
        classes = [value for value in classes if any(hasattr(value, method) for method in METHODS)] or classes
    if len(classes) == 1:
        return classes[0]
    if not classes:
        raise InputError(f"{place} defines no subclass of torch.nn.Module and no function {FUNCTION}; it needs one.")
    names = ", ".join(item.__name__ for item in classes[:8]) + (", ..." if len(classes) > 8 else "")
    raise InputError(
        f"{place} defines {len(classes)} subclasses of torch.nn.Module ({names}); choose one by "
        f"its name, {place}:{classes[-1].__name__}, or define a function {FUNCTION} that returns the model."
    )


def _complete(
    target: Callable[..., Any], place: str, arguments: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Add the known properties of the images to the arguments, and check them against the signature."""
    signature = _signature(target)
    named = {key: value for key, value in known.items() if key in signature.parameters and value is not None}
    whole = {**named, **arguments}
    try:
        signature.bind(**whole)
    except TypeError as error:
        raise InputError(
            f"{_words(place, target)} refuses the arguments ({', '.join(whole) or 'none'}): {error}; it takes "
            f"{', '.join(signature.parameters) or 'no arguments'}."
        ) from error
    return whole


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):  # functions written in C have no signature; they may take anything
        return inspect.Signature([inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)])


def _called(target: Callable[..., Any], place: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the model
    with _told(_words(place, target)):
        return target(**copy.deepcopy(dict(arguments)))


def _builder(target: Callable[..., Any], place: str, arguments: Mapping[str, Any]) -> Callable[..., object] | None:
    """Return a function that makes the model for other images; arguments that are weight files are left out."""
    parameters = _signature(target).parameters
    if any(key not in parameters or key in arguments for key in OF_IMAGES):
        return None
    rest = {key: value for key, value in arguments.items() if not str(value).endswith(SUFFIXES)}
    optional = [key for key, item in parameters.items() if item.default is not inspect.Parameter.empty]
    if any(key not in optional for key in arguments if key not in rest):
        return None  # the model cannot be made without weights

    def build(*, image_shape: tuple[int, int, int], n_levels: int) -> object:
        built = _called(target, place, {**rest, "image_shape": image_shape, "n_levels": n_levels})
        return built.eval() if isinstance(built, nn.Module) else built

    return build


def _words(place: str, target: Callable[..., Any]) -> str:
    name = getattr(target, "__name__", type(target).__name__)
    return place if place.endswith(f":{name}") else f"{place}:{name}"


def _stem(place: str) -> str:
    file, _, name = place.partition(":")
    return Path(file).stem if file.endswith((".py", ".pt2")) else f"{file}.{name}"


def _loaded(module: ModuleType) -> list[Path]:
    """Return the loaded files of the package of a module, without installed ones."""
    package = module.__name__.partition(".")[0]
    loaded = [each for name, each in list(sys.modules.items()) if name.partition(".")[0] == package]
    files = [getattr(each, "__file__", None) for each in loaded]
    return [Path(file) for file in files if file and "site-packages" not in file]
