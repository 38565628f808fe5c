"""Sources of results: the workspace, a git revision, a DVC experiment, or a committed result of a recipe.

Parameters are those that ``dvc.lock`` has for the numbers. If ``params.yaml`` has been edited since, a note says so.

Invariants (``tests/comparing/test_source.py``): a name is looked up as a revision, then as a recipe's result, then as
an experiment (``test_names_are_looked_up_in_order``); the error for an unknown name lists the choices.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bitsperdim.comparing import history
from bitsperdim.comparing.cache import Cache, locked_params, md5_of, parse
from bitsperdim.comparing.numbers import Images, NoImagesError, Scored, fitting, read_images, relevant
from bitsperdim.comparing.origin import Origin, read_origin
from bitsperdim.config.params import RESERVED
from bitsperdim.core import made_with
from bitsperdim.core.errors import InputError
from bitsperdim.core.git import SHORT, UNSHALLOW, GitError, NotARepositoryError, Provenance, Repository, repository
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.recipes.recipe import RESULTS
from bitsperdim.recipes.result import SAME_AS

WORKSPACE = "workspace"
Kind = Literal["workspace", "revision", "experiment", "recipe result"]


@dataclass(frozen=True)
class Source:
    """A set of results.

    Attributes:
        name: name as the user typed it.
        kind: kind of source that was found for the name.
        commit: commit of a revision or experiment, or the commit on which a recipe's run was based, if it is known.
        models: models with results, in the order of the report.
        read: function that returns a model's result; raises InputError if it is damaged.
        provenance: commit and local changes that the results come from; None for the workspace.
    """

    name: str
    kind: Kind
    commit: str | None
    models: list[str]
    read: Callable[[str], Scored]
    provenance: Provenance | None = None

    @property
    def words(self) -> str:
        """Short description of the source."""
        if self.kind == "workspace":
            return "the workspace"
        return f"{self.kind} {self.name}" + (f" ({self.provenance.words})" if self.provenance else "")


def find(root: Path, name: str, cache: Cache) -> Source:
    """Return the source with this name.

    Raises:
        InputError: there is no such source; the message lists the choices.
    """
    results = sorted(path.stem for path in (root / RESULTS).glob("*.json"))
    if name in ("", WORKSPACE):
        folders = [path.parent.name for path in sorted((root / "results").glob("*/metrics.json"))]
        return of_files(name or WORKSPACE, "workspace", None, folders, _reader(root), cache)
    try:
        here = repository(root)
        commit = history.commit_of(here, name)
    except NotARepositoryError as error:
        here, commit, names, why = None, None, [], f", and {str(error).removesuffix('.')}"
    except GitError as error:
        if name not in results:
            raise GitError(f"{name!r} is not a recipe result, and {error}") from error
        here, commit = None, None
    if here is not None and commit is not None:
        return of_files(name, "revision", commit, history.models_at(here, commit), _at(here, commit), cache)
    if name in results:
        return of_recipe(root, name)
    if here is not None:
        found = history.experiment(here, name)
        if found is not None:
            folders = history.models_at(here, found.commit)
            return of_files(name, "experiment", found.commit, folders, _at(here, found.commit), cache)
        names = [item.name for item in history.experiments(here)]
        why = f"; this is a shallow clone: {UNSHALLOW}" if here.is_shallow else ""
    close = difflib.get_close_matches(name, [*results, *names], 1)
    raise InputError(
        f"There is no revision, recipe result or experiment {name!r}"
        + (f" (did you mean {close[0]!r}?)" if close else "")
        + f"{why}; experiments are {', '.join(names) or 'none'}; recipe results are {', '.join(results) or 'none'}."
    )


def _reader(root: Path) -> Callable[[str], bytes | None]:
    def read(path: str) -> bytes | None:
        file = root / path
        return file.read_bytes() if file.is_file() else None

    return read


def _at(here: Repository, commit: str) -> Callable[[str], bytes | None]:
    return lambda path: here.read([name := f"{commit}:./{path}"])[name]


def of_files(
    name: str, kind: Kind, commit: str | None, folders: list[str], file: Callable[[str], bytes | None], cache: Cache
) -> Source:
    """Return the source of a workspace or a commit.

    Args:
        name: name as the user typed it.
        kind: kind of the source.
        commit: the commit; None for the workspace.
        folders: names of the folders under ``results`` that have metrics.
        file: function that returns the content of a file by its path, or None.
        cache: DVC's cache.
    """
    place = "in the workspace" if commit is None else f"at {commit[:SHORT]}"
    models = _in_order([folder for folder in folders if folder not in RESERVED], file("results/models.json"))
    lock = (file("dvc.lock") or b"").decode("utf-8", "replace")
    written = parse((file("params.yaml") or b"").decode("utf-8", "replace"))
    written = written if isinstance(written, Mapping) else {}

    def read(model: str) -> Scored:
        metrics = file(f"results/{model}/metrics.json")
        if metrics is None:
            raise InputError(f"There is no results/{model}/metrics.json {place}.")
        numbers = AnyMetrics.read(metrics, f"results/{model}/metrics.json {place}")
        params, now = relevant({**written, **locked_params(lock, model)}, model), relevant(written, model)
        notes = []
        edited = sorted(
            key for key in {*params, *now} if params.get(key) != now.get(key) or (key in params) != (key in now)
        )
        if edited and written:
            notes.append(
                f"params.yaml {place} has been edited since these numbers were made ({', '.join(edited[:3])})."
            )
        named = md5_of(lock, f"results/{model}/metrics.json")
        if named and hashlib.md5(metrics, usedforsecurity=False).hexdigest() != named:
            notes.append(f"results/{model}/metrics.json {place} differs from the file in dvc.lock; run `dvc repro`.")

        def images() -> Images:
            path = f"results/{model}/per_image.csv"
            content = file(path)
            md5 = md5_of(lock, path)
            if content is None and md5:
                content = cache.read(md5)
            if content is None and commit is not None:
                content = cache.fetch(path, commit)
            if content is None:
                what = "per_image.csv, the log-likelihood of each image,"
                remedy = "run `dvc pull` or `dvc repro`"
                if commit is None:
                    raise NoImagesError(f"{what} is neither {place} nor in DVC's cache: {remedy}.")
                raise NoImagesError(
                    f"{what} {place} is neither in DVC's cache nor on a remote: {remedy} on that commit."
                )
            return read_images(content, numbers, f"{path} {place}")

        return Scored(model, numbers, params, images, notes, read_origin(file, lock, model))

    return Source(name, kind, commit, models, read, None if commit is None else Provenance(commit, False))


def of_recipe(root: Path, name: str) -> Source:
    """Return a recipe's result as a source: a JSON file, with the log-likelihoods in an .npz file beside it.

    Raises:
        InputError: the JSON file is damaged.
    """
    path = RESULTS / f"{name}.json"
    try:
        content = json.loads((root / path).read_text(encoding="utf-8"))
        entries = {model: entry["metrics"] for model, entry in content["models"].items()}
        params = dict(content["params"])
        provenance = Provenance.recorded(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it does not have the format that `bitsperdim recipe` writes.") from error

    def read(model: str) -> Scored:
        numbers = AnyMetrics.of(entries[model], f"{path}, {model}")

        def images() -> Images:
            file = path.with_suffix(".npz")
            try:
                with (root / file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                    stored, same_as = arrays[model], arrays.get(SAME_AS)
            except FileNotFoundError as error:
                what = f"{file}, with the log-likelihood of each image,"
                raise NoImagesError(f"{what} is missing; restore it with git.") from error
            except Exception as error:  # a damaged file can raise almost any exception
                raise InputError(f"{file} is damaged: it does not hold the log-likelihoods of {model}.") from error
            return fitting(stored, same_as, numbers, str(file))

        return Scored(model, numbers, relevant(params, model), images, origin=_origin_of_recipe(content, model))

    return Source(name, "recipe result", provenance.commit, list(entries), read, provenance)


def _origin_of_recipe(content: Mapping[str, Any], model: str) -> Origin:
    """Return the recorded origin of a recipe's result; its code is that of a commit, and has no stored hashes."""
    stages, data = content.get("stages"), content.get("data")
    logs = stages if isinstance(stages, Mapping) else {}
    hashes = data.get("sha256") if isinstance(data, Mapping) else None
    images = {str(split): str(value) for split, value in hashes.items()} if isinstance(hashes, Mapping) else {}
    return Origin(
        images=images, used={stage: made_with.read(logs.get(f"{stage}@{model}")) for stage in made_with.FILES}
    )


def _in_order(models: list[str], listed: bytes | None) -> list[str]:
    """Return the models in the order of ``results/models.json``, followed by all others."""
    try:
        order = list(json.loads(listed or b"{}")["models"])
    except (ValueError, KeyError, TypeError):
        order = []
    return sorted(models, key=lambda model: (order.index(model) if model in order else len(order), model))
