"""Typed, validated ``params.yaml``.

Read as DVC reads it (YAML 1.2, so that ``1e-05`` is a number) and checked as a whole, before any
work: an unknown key, a missing one, a wrong type or a value out of range raises one sentence that
names the key, the value and what is allowed. Nothing is converted silently, and no key has a default
but a model's own changes to ``train``, which may be left out.

It does not check what only the data can tell (``dequantize`` does) and it imports no torch.

Invariants (``tests/config/test_params.py``): the committed ``params.yaml`` validates; every kind of
mistake gives one sentence; a float may be written as an integer, an integer not as a float. Whatever bytes the
file holds, it validates or gives one sentence, soon (``tests/test_fuzz.py``).
"""

from __future__ import annotations

import difflib
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from bitsperdim.config.families import (
    FAMILIES,
    FamilySection,
    FlowSection,
    Images,
    Section,
    Size,
    TrainOverrides,
    TrainSection,
    VariationalSection,
)
from bitsperdim.core.errors import InputError, shown
from bitsperdim.sources import SOURCES

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Scale = Annotated[float, Field(ge=0.1, le=100)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Number = TypeVar("Number", bound=float)
MAX_LISTED = 14  # names in a message
MAX_ENTRIES = 1_000  # models, seeds; pairs that merge keys of YAML bring into one mapping


def rising(values: list[Any]) -> list[Any]:
    """Refuse a list in which a value is not above the one before."""
    if any(later <= earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError("a list of rising numbers")
    return values


def without_control_characters(text: str) -> str:
    """Refuse what no path of a file can be, or no terminal should show."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("text without control characters")
    return text


Rising = Annotated[list[Number], Field(min_length=1, max_length=20), AfterValidator(rising)]

# Names of sections, stages and folders under results/ that a model may not take.
RESERVED = (
    *("dataset", "dequantize", "train", "evaluate", "models", "seeds", "preflight", "download", "report"),
    *("density_and_mass", "project_delay", "universal_resnet"),
)


class DatasetSection(Section):
    """Which images, and the seed of everything drawn once about them: splits, binarization, noise."""

    name: str
    path: Annotated[str, Field(min_length=1, max_length=4_096), AfterValidator(without_control_characters)]
    n_levels: Annotated[int, Field(ge=2, le=256)] | None
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Seed


class DequantizeSection(Section):
    """What is done to the levels of an image before any model sees it."""

    bits: Annotated[int, Field(ge=1, le=7)] | None
    binarization: Literal["none", "threshold", "dynamic", "static"]


class AnnealedSection(Section):
    """Annealed importance sampling of some images, beside the importance sampling of all."""

    n_images: Annotated[int, Field(ge=0, le=1_000_000)] | None
    n_simulated: Annotated[int, Field(ge=0, le=1_000_000)] | None
    n_chains: Annotated[int, Field(ge=2, le=10_000)]
    n_steps: Annotated[int, Field(ge=2, le=100_000)]
    n_leapfrog: Annotated[int, Field(ge=1, le=1_000)]


class EvaluateSection(Section):
    """Importance sampling on the test set."""

    n_samples: Annotated[int, Field(ge=1, le=1_000_000)]
    chunk_size: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    n_pictures: Annotated[int, Field(ge=1, le=1_024)]
    seed: Seed
    proposal: Literal["encoder", "prior"]
    annealed: AnnealedSection


class DequantizingSection(Section):
    """The flow that the study trains in several ways, and the images that it sees."""

    n_images: Annotated[int, Field(ge=2, le=1_000_000)]
    transform: Literal["maf", "nsf"]
    n_transforms: Annotated[int, Field(ge=1, le=1_000)]
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]
    n_bins: Annotated[int, Field(ge=2, le=1_000)]
    logit_margin: Annotated[float, Field(ge=0, lt=0.5)] | None
    variational: VariationalSection
    train_samples: Annotated[int, Field(ge=2, le=10_000)]
    n_samples: Annotated[int, Field(ge=2, le=100_000)]
    train: TrainOverrides = TrainOverrides()

    def flow(self, way: str) -> FlowSection:
        """Return the section of the flow with one way of dequantizing."""
        content = self.model_dump(exclude={"n_images", "n_samples", "train"})
        content |= {"family": "flow", "train": self.train.model_dump(exclude_unset=True)}
        is_weighted = way == "importance_weighted"
        content["dequantization"] = "uniform" if is_weighted else way
        content["train_samples"] = self.train_samples if is_weighted else 1
        return FlowSection.model_validate(content)


class DensityAndMassSection(Section):
    """The study of densities and masses: what is counted, fitted, drawn and coded."""

    seed: Seed
    max_pixels: Annotated[int, Field(ge=1_000, le=1_000_000_000)]
    n_steps: Annotated[int, Field(ge=1, le=2_000)]  # with the largest step size, scales of e^-250: no overflow
    step_size: Annotated[float, Field(gt=0, le=0.25)]
    n_replicates: Annotated[int, Field(ge=2, le=1_000)]
    n_samples: Annotated[int, Field(ge=2, le=4_096)]
    n_symbols: Annotated[int, Field(ge=2, le=50_000)]
    dequantizing: DequantizingSection


class MistakeSection(Section):
    """A proposal of infinite variance: tasks off the critical path at half their mean or less."""

    scale_critical: Scale
    scale_others: Annotated[float, Field(ge=0.1, le=0.5)]


class CrossEntropySection(Section):
    """The optimization of a proposal, level by level."""

    n_samples: Annotated[int, Field(ge=100, le=1_000_000)]
    elite_share: Annotated[float, Field(ge=0.01, le=0.5)]
    n_final: Annotated[int, Field(ge=1, le=100)]
    max_rounds: Annotated[int, Field(ge=1, le=1_000)]


class ProjectDelaySection(Section):
    """The study of a rare delay: the deadline, the proposals, how often each is drawn from."""

    seed: Seed
    deadline: Annotated[float, Field(ge=20, le=200)]  # the mean is 18; at 200 the probability is 2e-16
    n_samples: Annotated[
        list[Annotated[int, Field(ge=2, le=10_000_000)]], Field(min_length=1, max_length=20), AfterValidator(rising)
    ]
    scale_all: Scale
    scale_critical: Annotated[list[Scale], Field(min_length=1, max_length=10), AfterValidator(rising)]
    mistake: MistakeSection
    n_replicates: Annotated[int, Field(ge=2, le=1_000)]
    replicate_samples: Annotated[
        list[Annotated[int, Field(ge=2, le=10_000)]], Field(min_length=1, max_length=10), AfterValidator(rising)
    ]
    cross_entropy: CrossEntropySection


class LearningRatesSection(Section):
    """The largest learning rate of each kind of network in the study of the one-neuron ResNet."""

    resnet: Rate
    dense: Rate
    single: Rate
    approximation: Rate


class UniversalResnetSection(Section):
    """The study of the one-neuron ResNet: what is trained and for how long, what is constructed."""

    seed: Seed
    n_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    n_seeds: Annotated[int, Field(ge=2, le=1_000)]
    n_points: Annotated[int, Field(ge=10, le=100_000)]
    learning_rates: LearningRatesSection
    depths: Rising[Annotated[int, Field(ge=1, le=1_000)]]
    cells_line: Rising[Annotated[int, Field(ge=2, le=1_000)]]
    cells_plane: Rising[Annotated[int, Field(ge=2, le=128)]]


class Params(Section):
    """The whole of ``params.yaml``; ``sections`` holds every model section by name."""

    dataset: DatasetSection
    dequantize: DequantizeSection
    models: Annotated[list[str], Field(min_length=1, max_length=MAX_ENTRIES)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_ENTRIES)]
    train: TrainSection
    evaluate: EvaluateSection
    density_and_mass: DensityAndMassSection
    project_delay: ProjectDelaySection
    universal_resnet: UniversalResnetSection
    sections: dict[str, FamilySection]

    def section(self, model: str) -> FamilySection:
        """Return the section of one model."""
        if model not in self.sections:
            raise InputError(
                f"There is no model section {shown(model)} in params.yaml; there are {_listed(self.sections)}."
            )
        return self.sections[model]


def read_params(path: Path) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        InputError: one sentence naming the key, its value and what is allowed.
    """
    return validate(load_yaml(path))


def load_yaml(path: Path) -> object:
    """Read a YAML file as DVC does.

    Raises:
        InputError: one sentence with the place where it is not YAML.
    """
    try:
        reader = YAML(typ="safe")
        reader.Constructor = _Constructor
        with warnings.catch_warnings():  # of what YAML allows: an anchor that is used again
            warnings.simplefilter("ignore")
            return reader.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    except (YAMLError, ValueError) as error:  # ValueError: an impossible date, an integer that is none
        # problem_mark names the place in every error of the scanner and the parser
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not valid YAML{place}: {problem}.") from error


class _Constructor(SafeConstructor):
    """Refuses mappings that merge others, which merge others, until no memory holds them."""

    def flatten_mapping(self, node: MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_ENTRIES:
            problem = f"merge keys make a mapping of more than {MAX_ENTRIES} pairs"
            raise ConstructorError(None, None, problem, node.start_mark)


def validate(content: object) -> Params:
    """Validate the content of ``params.yaml``; see :func:`read_params`."""
    if not isinstance(content, Mapping):
        raise InputError(f"params.yaml must be a mapping of sections, but it holds {shown(content)}.")
    for key in content:
        if not isinstance(key, str):
            raise InputError(f"params.yaml: {shown(key)} is not a section name; section names are text.")
    own = {name: content[name] for name in Params.model_fields if name in content and name != "sections"}
    rest = {name: value for name, value in content.items() if name not in own}
    sections: dict[str, FamilySection] = {}
    for name, value in rest.items():
        sections[name] = model_section(name, value)
    try:
        params = Params(**own, sections=sections)
    except ValidationError as error:
        raise InputError(_sentence(error, Params)) from error
    _check_lists(params)
    _check_levels(params)
    return params


def raw_levels(params: Params) -> int:
    """Return the number of levels of the images as the source gives them."""
    return params.dataset.n_levels or SOURCES[params.dataset.name].n_levels


def model_levels(params: Params) -> int:
    """Return L, the number of levels that the models see: after quantization and binarization."""
    if params.dequantize.binarization != "none":
        return 2
    if params.dequantize.bits is not None:
        return int(2**params.dequantize.bits)
    return raw_levels(params)


def model_section(name: str, value: object) -> FamilySection:
    """Validate the section of one model.

    Raises:
        InputError: one sentence naming the key, its value and what is allowed.
    """
    known = [*(field for field in Params.model_fields if field != "sections")]
    if not isinstance(value, Mapping) or "family" not in value:
        raise InputError(
            f"params.yaml: {_key(name)} is not a known section{_suggestion(name, known)}; known are {_listed(known)}, "
            f"and model sections, which have a key 'family'."
        )
    if name in RESERVED or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
        raise InputError(
            f"params.yaml: {shown(name)} cannot name a model; a name has at most 64 lower-case letters, digits, "
            f"'_' and '-', begins with a letter, and is not that of a stage or of another section."
        )
    family = value["family"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"params.yaml: {name}.family = {shown(family)} is not a family; choose {_listed(FAMILIES)}.")
    try:
        return FAMILIES[family].model_validate(dict(value))
    except ValidationError as error:
        raise InputError(_sentence(error, FAMILIES[family], prefix=name)) from error


def _check_lists(params: Params) -> None:
    for model in params.models:
        if model not in params.sections:
            raise InputError(
                f"params.yaml: models names {shown(model)}, which has no section; sections are "
                f"{_listed(params.sections)}."
            )
    for key, values in (("models", params.models), ("seeds", params.seeds)):
        value, n_times = Counter[object](values).most_common(1)[0]
        if n_times > 1:
            raise InputError(f"params.yaml: {key} names {value!r} twice; each may stand there once.")


def _check_levels(params: Params) -> None:
    name = params.dataset.name
    if name not in SOURCES:
        raise InputError(f"params.yaml: dataset.name = {shown(name)} is not a data set; choose {_listed(SOURCES)}.")
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
    levels, bits = raw_levels(params), params.dequantize.bits
    if bits is not None and 2**bits >= levels:
        raise InputError(
            f"params.yaml: dequantize.bits = {bits} is not allowed; {2**bits} levels are not fewer than "
            f"the {levels} that the images have, so choose fewer bits or null."
        )
    check_images(params, source.image_shape, source.n_classes)


def check_images(params: Params, shape: tuple[int, int, int] | None, n_classes: int | None) -> None:
    """Refuse models that cannot be built for images of a shape (C, H, W) and a number of classes, None: unknown."""
    images = Images(model_levels(params), shape, n_classes)
    for model in params.models:
        section = params.sections[model]
        section.check_images(model, images)
        section.check_size(model, images)
        section.check_training(model, section.settings(params.train))
    params.density_and_mass.dequantizing.flow("variational").check_size("density_and_mass.dequantizing", images)


def _sentence(error: ValidationError, schema: type[Section], prefix: str = "") -> str:
    """Turn the first of pydantic's errors into one sentence."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    path = ".".join(_key(key) for key in ([prefix, *keys] if prefix else keys))
    value = shown(first["input"])
    context = first.get("ctx", {})
    kind = first["type"]
    if kind == "missing":
        return f"params.yaml: {path} is missing{_of_what(schema, keys)}."
    if kind == "extra_forbidden":
        known = list(_fields(schema, keys[:-1]))
        return (
            f"params.yaml: {path} is not a known key{_suggestion(keys[-1], known)} (its value is {value}); "
            f"allowed are {_listed(known)}."
        )
    allowed = _allowed(kind, context, first["msg"])
    if kind == "list_type":
        entry = first["input"]
        is_word = isinstance(entry, str) and entry.lower() != "none" and bool(re.fullmatch(r"[\w.-]{1,40}", entry))
        is_plain = is_word or (type(entry) is int and abs(entry) < 10**9)
        allowed += f": write [{entry}]" if is_plain else ", written [FIRST, SECOND]"
    if keys and type(None) in get_args(getattr(_fields(schema, keys[:-1]).get(keys[-1]), "annotation", None)):
        allowed += ", or null"
    return f"params.yaml: {path} = {value} is not allowed; it must be {allowed}."


def _allowed(kind: str, context: Mapping[str, Any], message: str) -> str:
    bounds = {
        "greater_than": ("gt", "above"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "below"),
        "less_than_equal": ("le", "at most"),
    }
    if kind in bounds:
        key, words = bounds[kind]
        return f"{words} {context[key]}"
    if kind == "multiple_of":
        return f"a multiple of {context['multiple_of']}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        return f"a list of {'at least' if kind == 'too_short' else 'at most'} {bound} entries"
    types = {
        "int_type": "an integer",
        "int_from_float": "an integer",
        "float_type": "a number",
        "string_type": "text",
        "string_unicode": "text without lone surrogates",
        "list_type": "a list",
        "bool_type": "true or false",
        "model_type": "a mapping of keys to values",
        "model_attributes_type": "a mapping of keys to values",
        "dict_type": "a mapping of keys to values",
        "finite_number": "a finite number",
    }
    return types.get(kind, message[:1].lower() + message[1:])


def _fields(schema: type[Section], keys: list[str]) -> Mapping[str, Any]:
    """Return the fields of the (nested) section that ``keys`` leads to."""
    for key in keys:
        if key.isdigit():  # an entry of a list, whose schema is known already
            continue
        annotation = schema.model_fields[key].annotation if key in schema.model_fields else None
        inner = [annotation, *get_args(annotation)]  # a section by itself, in a list, or one that may be null
        sections = [each for each in inner if isinstance(each, type) and issubclass(each, Section)]
        if not sections:
            return {}
        schema = sections[0]
    fields = dict(schema.model_fields)
    fields.pop("sections", None)
    return fields


def _of_what(schema: type[Section], keys: list[str]) -> str:
    known = _fields(schema, keys[:-1])
    field = known.get(keys[-1])
    annotation = getattr(field, "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"; it is a section with the keys {_listed(annotation.model_fields)}"
    return f"; the keys there are {_listed(known)}" if known else ""


def _key(name: str) -> str:
    """Return a key as a message shows it: in quotes where it is strange."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) else shown(name)


def _suggestion(word: str, known: list[str]) -> str:
    word = word[:64]
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:MAX_LISTED]) + (f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else "")
