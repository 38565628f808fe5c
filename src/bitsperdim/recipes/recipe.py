"""Reading ``recipes/<name>.yaml``: changes of ``params.yaml`` for two or three sizes, and published references.

Invariant (``tests/recipes/test_recipe.py``): every committed recipe validates against the committed
``params.yaml`` at every size that it has; every mistake in a recipe gives one sentence.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from bitsperdim.config.families.base import PositiveInt, Section
from bitsperdim.config.loading import load_yaml
from bitsperdim.config.params import Params
from bitsperdim.core.errors import InputError, shown
from bitsperdim.preflight.agreement import validated
from bitsperdim.preflight.last_commit import refuse_itself

FOLDER = Path("recipes")
RESULTS = FOLDER / "results"
SizeName = Literal["cpu", "long", "gpu"]
SIZES: tuple[SizeName, ...] = ("cpu", "long", "gpu")
Text = Annotated[str, Field(min_length=1)]
Unit = Literal["nats", "bits/dim"]


class Published(Section):
    """A published number with which a model of this recipe is compared.

    Attributes:
        model: name of the model's section in this recipe; None: the number is for these images in general.
        what: name that the authors give to their model.
        value: negative log-likelihood, smaller is better.
        unit: unit of the value.
        kind: ``exact``, ``bound`` or ``estimate``.
        protocol: data, K and other differences.
        source: authors, year, table.
    """

    model: Text | None
    what: Text
    value: Annotated[float, Field(allow_inf_nan=False)]
    unit: Unit
    kind: Literal["exact", "bound", "estimate"]
    protocol: Text
    source: Text


class Size(Section):
    """One size of a recipe: its own changes of parameters, and its approximate time in minutes."""

    minutes: PositiveInt
    params: dict[str, Any]


class Sizes(Section):
    """The sizes of a recipe: for two CPU cores, for a GPU, and optionally for hours on two CPU cores."""

    cpu: Size
    gpu: Size
    long: Size | None = None


class RecipeFile(Section):
    """The content of ``recipes/<name>.yaml``."""

    title: Text
    params: dict[str, Any]
    sizes: Sizes
    published: list[Published]


@dataclass(frozen=True)
class Recipe:
    """A recipe: its name and its content."""

    name: str
    content: RecipeFile

    def changes(self, size: SizeName) -> dict[str, Any]:
        """Return the changes of ``params.yaml`` for a size; the size's own changes take precedence.

        Raises:
            InputError: the recipe does not have this size.
        """
        found: Size | None = getattr(self.content.sizes, size)
        if found is None:
            raise InputError(f"recipes/{self.name}.yaml does not have the size {size}; choose {', '.join(self.sizes)}.")
        return merged(self.content.params, found.params)

    @property
    def sizes(self) -> list[SizeName]:
        """Sizes that this recipe has."""
        return [size for size in SIZES if getattr(self.content.sizes, size) is not None]

    def parameters(self, base: Mapping[str, Any], size: SizeName) -> dict[str, Any]:
        """Return the whole content of ``params.yaml`` under this recipe, validated.

        Raises:
            InputError: the recipe does not have this size, a parameter is not allowed, or a published number names a
                model that is not run.
        """
        content = merged(base, self.changes(size))
        try:
            params: Params = validated(content)
        except InputError as error:
            refuse_itself(base, error)
            raise InputError(f"recipes/{self.name}.yaml, size {size}: {error}") from error
        for reference in self.content.published:
            if reference.model is not None and reference.model not in params.models:
                raise InputError(
                    f"recipes/{self.name}.yaml: published names the model {reference.model!r}, which is not run; the "
                    f"models of this recipe are {', '.join(params.models)}."
                )
        return content


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``: mappings are merged key by key, anything else is replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def overrides(changes: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return changes in the form of DVC's ``-S``: ``++a.b=value``, which sets a key whether it exists or not."""
    found = []
    for key, value in changes.items():
        if isinstance(value, Mapping):
            found += overrides(value, f"{prefix}{key}.")
        else:
            found.append(f"++{prefix}{key}={_written(value)}")
    return found


def _written(value: Any) -> str:  # noqa: ANN401 - any YAML value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    return quoted(value, "'") if isinstance(value, str) else repr(value)


def quoted(text: str, mark: Literal["'", '"']) -> str:
    """Return text in quotes for Hydra, which treats a backslash as an escape only before a quote."""
    return (
        mark + re.sub(rf"(\\*)({mark}|$)", lambda match: match[1] * 2 + (f"\\{mark}" if match[2] else ""), text) + mark
    )


def names(root: Path) -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def close(word: str, known: Iterable[str]) -> str:
    """Return a question that suggests names similar to a mistyped one; an empty string if no name is similar."""
    found = difflib.get_close_matches(word[:64], known)
    return f", did you mean {' or '.join(found)}?" if found else ""


def read(root: Path, name: str) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: there is no recipe with this name, or the recipe is not valid.
    """
    known = names(root)
    if name not in known:
        choices = f"choose {', '.join(known)}" if known else "recipes/ is empty"
        raise InputError(f"There is no recipe {shown(name)}{close(name, known)}; {choices}.")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name.endswith(tuple(f"-{size}" for size in SIZES)):
        raise InputError(
            f"recipes/{name}.yaml: {name!r} cannot name a recipe; a name has lower-case letters, digits and "
            f"single '-', and does not end in -cpu, -long or -gpu."
        )
    content = read_yaml(root / FOLDER / f"{name}.yaml")
    try:
        return Recipe(name, RecipeFile.model_validate(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"recipes/{name}.yaml: {place} is not allowed: {first['msg']}.") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: the file cannot be read, or is not a mapping.
    """
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a mapping, not {type(content).__name__}.")
    return content


def result_name(recipe: str, size: SizeName) -> str:
    """Return the name of a result's files: the name of the recipe, with ``-long`` or ``-gpu`` for these sizes."""
    return recipe if size == "cpu" else f"{recipe}-{size}"


@contextlib.contextmanager
def reading_result(path: Path) -> Iterator[None]:
    """Turn any failure to read a file of a recipe's run or result into one sentence.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise almost any exception
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path} cannot be used ({type(error).__name__}: {reason}); remove or restore it.") from error
