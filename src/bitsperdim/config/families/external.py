"""Typed parameters of a user's own model: a Python file below ``external/``, and how the model is called.

Paths are relative to the repository and lie below ``external/``, which DVC watches. The checks here do not execute the
user's code. The training stage checks the rest, also with one sentence for each mistake.

Invariants (``tests/config/test_external_section.py``): every mistake gives one sentence, if possible before any work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from bitsperdim.config.families.base import FamilySection, Images, Section, TrainSection, check_classes
from bitsperdim.core.code import file_of
from bitsperdim.core.errors import InputError
from bitsperdim.core.foreign import FOLDER, hashes, names_in, needed_by, refuse_missing

MAX_VALUES = 10_000  # in `arguments`: a few lines of YAML can describe a list of billions of values
MAX_DEPTH = 20
PLAIN = "plain values: text, finite numbers, true, false, null, and lists and mappings of them"
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
ADAPTERS = "bitsperdim.models.external.libraries"  # its modules are the adapters, by the names of their libraries
Offers = Literal[
    "conditionals", "logits", "log_prob", "encode", "log_weights", "log_density", "bound", "velocity", "score"
]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


def below(*suffixes: str) -> Callable[[str], str]:
    """Return a check that refuses paths that are not below ``external/``, or end in another suffix."""

    def check(path: str) -> str:
        parts = PurePosixPath(path).parts
        is_below = path.isprintable() and len(parts) > 1 and parts[0] == FOLDER and ".." not in parts
        if not is_below or PurePosixPath(path).suffix not in suffixes:
            raise ValueError(f"a path that begins with {FOLDER}/ and ends in {' or '.join(suffixes)}")
        return path

    return check


def identifier(name: str) -> str:
    """Refuse a text that cannot be the name of a class or a function."""
    if not name.isidentifier():
        raise ValueError("the name of a class or a function")
    return name


def adapter(library: str) -> str:
    """Refuse the name of a library that has no adapter."""
    names = sorted(path.stem for path in file_of(ADAPTERS).parent.glob("[!_]*.py"))
    if library not in names:
        raise ValueError(f"one of {', '.join(names)}")
    return library


def plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse arguments that cannot be stored and read again, or that are too many or nested too deeply."""
    waiting: list[tuple[int, Any]] = [(0, arguments)]
    for _ in range(MAX_VALUES):
        if not waiting:
            break
        depth, value = waiting.pop()
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            waiting += [(depth + 1, each) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            waiting += [(depth + 1, each) for each in value]
        elif isinstance(value, str):
            value.encode()  # lone surrogates are a ValueError
        elif not (value is None or isinstance(value, bool | int) or (type(value) is float and math.isfinite(value))):
            raise ValueError(f"a mapping of {PLAIN}")
        if depth > MAX_DEPTH:
            raise ValueError(f"a mapping of {PLAIN}, nested at most {MAX_DEPTH} deep")
    else:
        raise ValueError(f"a mapping of at most {MAX_VALUES} values")
    if not all(key.isidentifier() for key in arguments):
        raise ValueError("a mapping of names of arguments to their values")
    return arguments


class OdeSection(Section):
    """How the differential equation of a velocity or a score is solved (``bitsperdim.models.external.ode``)."""

    times: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | None = None
    n_steps: Annotated[int, Field(ge=4, le=100_000, multiple_of=4)] = 32
    method: Literal["midpoint", "rk4"] = "rk4"
    probes: Annotated[int, Field(ge=1, le=10_000)] | Literal["exact"] | None = None
    schedule: Literal["vp", "ve", "ot"] | None = None
    noise: Literal["uniform", "truncated_normal", "gaussian", "variational"] | None = None


class ExternalSection(FamilySection):
    """A model that was made elsewhere, from a file below ``external/``."""

    network = "bitsperdim.models.external.family.external_model"
    family: Literal["external"]
    file: Annotated[str, AfterValidator(below(".py"))] | None = None
    name: Annotated[str, AfterValidator(identifier)] | None = None
    arguments: Annotated[dict[str, Any], AfterValidator(plain)] = {}
    weights: Annotated[str, AfterValidator(below(*WEIGHTS))] | None = None
    weights_key: str | None = None
    fit: bool = False
    library: Annotated[str, AfterValidator(adapter)] | None = None
    offers: Offers | None = None
    inputs: Literal["integers", "unit", "symmetric"] | None = None
    layout: Literal["channels_first", "channels_last", "flat", "plane"] | None = None
    range: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | None = None
    order: Literal["raster", "planes"] | None = None
    ode: OdeSection | None = None
    n_classes: Annotated[int, Field(ge=2, le=65_536)] | None = None
    train_samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    train_images: Annotated[str, AfterValidator(below(".npz"))] | None = None

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keyword arguments that determine the model, without ``train_images``, which does not affect it."""
        return {key: value for key, value in super().hyperparameters.items() if key != "train_images"}

    def check_images(self, name: str, images: Images) -> None:
        """Refuse a model without a file, and settings that do not fit each other or the images."""
        if self.file is None:
            raise InputError(
                f"params.yaml: {name}.file = null is not allowed for a model that is in models; it must be a path "
                f"that begins with {FOLDER}/ and ends in .py."
            )
        if self.range is not None and self.range[0] >= self.range[1]:
            raise InputError(
                f"params.yaml: {name}.range = {self.range} is not allowed; it must be two numbers, the smaller first."
            )
        if self.weights_key is not None and (self.weights is None or self.weights.endswith(".safetensors")):
            raise InputError(
                f"params.yaml: {name}.weights_key = {self.weights_key!r} is not allowed without {name}.weights from "
                f"torch.save; it must be null."
            )
        if self.layout == "plane" and images.shape is not None and images.shape[0] != 1:
            raise InputError(
                f"params.yaml: {name}.layout = 'plane' is not allowed with images of {images.shape[0]} channels; "
                f"choose another layout."
            )
        check_classes(name, self.n_classes, images)

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Refuse ``compile`` and ``capture`` for a user's own code."""
        super().check_training(name, settings)
        for key, value in (("compile", settings.compile), ("capture", settings.capture)):
            if self.fit and value:
                raise InputError(
                    f"params.yaml: {name}.train.{key} = true is not allowed with family = 'external'; write false in "
                    f"{name}.train."
                )

    def check_files(self, name: str, binarization: str) -> None:
        """Refuse missing files, a file that is not Python, and a class or function that the file does not define."""
        if self.file is None:
            return
        named = {"file": self.file, "weights": self.weights, "train_images": self.train_images}
        for key, path in named.items():
            if path is not None:
                refuse_missing(f"{name}.{key}", path)
        defined = names_in(Path(self.file))
        if self.name is not None and defined is not None and self.name not in defined:
            there = ", ".join(sorted(each for each in defined if not each.startswith("_"))[:14]) or "nothing"
            raise InputError(
                f"params.yaml: {name}.name = {self.name!r} is not in {self.file}, which defines {there}; choose a "
                f"class, or a function that returns the model."
            )
        if self.train_images is not None and binarization == "dynamic":
            raise InputError(
                f"params.yaml: {name}.train_images = {self.train_images!r} is not allowed with "
                f"dequantize.binarization = 'dynamic', which draws different images each time; it must be null."
            )

    @property
    def code(self) -> list[Path]:
        """The adapter of the model's library, which is imported by its name."""
        return [] if self.library is None else [file_of(f"{ADAPTERS}.{self.library}")]

    def files(self, stage: str) -> dict[str, str]:
        """Return the hashes of the user's files that ``train`` or ``evaluate`` reads, by their paths."""
        if self.file is None:
            return {}
        more = self.weights if stage == "train" else self.train_images
        return needed_by(self.file, self.arguments) | hashes([] if more is None else [more])
