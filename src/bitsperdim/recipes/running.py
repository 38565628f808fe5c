"""Running a recipe: as a named DVC experiment in a copy of the workspace, queued as one, or stage by stage without DVC.

A run with parameters changed (``-S``) has a name of its own, made of the recipe's and the changes, so that it never
passes for the recipe's. A queued one is run later by ``dvc queue start``; an earlier experiment of its name is removed
when it is queued, for only one can have the name (what is in the queue already is neither queued nor run again), and
``dvc queue start`` knows nothing of the folder of logs, so that the times of a queued run are not in its result.

Either way the workspace stays as it is, an interrupted run goes on where it stopped (stages that are done are not run
again, a training goes on from its checkpoint), and what was made can be read by path.

Not here: what is kept of a run (:mod:`bitsperdim.recipes.result`).

Invariants (``tests/recipes/test_running.py``): the stages run in order, once; the second run does
nothing; another parameter, other images or an edit of the code starts anew; two runs never share a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import REPOSITORY, read_json, write_json, write_text
from bitsperdim.core.git import UNSHALLOW, GitError, NotARepositoryError, Provenance, Repository, provenance, repository
from bitsperdim.recipes.recipe import Recipe, SizeName, merged, overrides, read_yaml
from bitsperdim.recipes.settings import applied
from bitsperdim.runtime import finished as ended
from bitsperdim.runtime import stage

RUNS, LOGS = Path("runs"), Path("logs") / "recipes"
LOCK, STARTED = "lock", "started"  # in its folder of logs
BASED_ON = "based-on.json"  # in a run's folder: the commit and the parameters
CODE = ("src", "stages", "dvc.yaml")
OF_SCORING = ("preflight", "download", "dequantize", "evaluate")  # stages that scoring given weights needs
STOPPED = "The run stopped (status {}); what is done is kept, and the same command goes on from there."


@dataclass(frozen=True)
class Finished:
    """A run that came to its end.

    Attributes:
        name: of the experiment: the recipe and the size.
        read: returns the content of a file that the pipeline wrote or read, by its path in the repository.
        params: the whole content of its ``params.yaml``.
        logs: the folder of the stages' logs.
        provenance: of its code and parameters.
    """

    name: str
    read: Callable[[str], bytes]
    params: Mapping[str, Any]
    logs: Path
    provenance: Provenance


def run_name(recipe: str, size: SizeName, settings: Sequence[str] = ()) -> str:
    """Return the name of a run: the recipe, the size, and six digits that stand for the changed parameters if any."""
    digest = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:6]
    return f"{recipe}-{size}-{digest}" if settings else f"{recipe}-{size}"


def run(
    root: Path, recipe: Recipe, size: SizeName, *, with_dvc: bool, settings: Sequence[str] = (), queue: bool = False
) -> None:
    """Run a recipe to its end, or queue it.

    Args:
        root: of the repository.
        recipe: what to run.
        size: ``cpu`` or ``gpu``.
        with_dvc: as an experiment; otherwise stage by stage.
        settings: changed parameters as ``dvc exp run -S`` takes them; only with DVC.
        queue: whether it is put into DVC's queue instead; only with DVC.

    Raises:
        InputError: it needs DVC, the recipe or a parameter is not allowed, or a stage failed (it has said why).
    """
    params = recipe.parameters(read_yaml(root / "params.yaml"), size)
    if (settings or queue) and not with_dvc:
        raise InputError("--queue and -S make DVC experiments: they need DVC, and a git repository.")
    if settings:
        applied(params, settings)
    name = run_name(recipe.name, size, settings)
    environment = _environment(root, name)
    with _only_one(root / LOGS / name):
        write_text(root / LOGS / name / STARTED, "")
        if with_dvc:
            _with_dvc(root, name, [*overrides(recipe.changes(size)), *settings], environment, queue=queue)
        else:
            _without_dvc(root, name, params, environment)


def score(root: Path, recipe: Recipe, size: SizeName, params: Mapping[str, Any], weights: Path) -> Finished:
    """Score trained models under a recipe's parameters, without DVC; an interrupted call goes on where it stopped.

    Args:
        root: of the repository.
        recipe: what they are of.
        size: ``cpu`` or ``gpu``.
        params: the whole content of ``params.yaml`` under the recipe.
        weights: ``<model>/<seed>`` of each.

    Raises:
        InputError: a stage failed (it has said why).
    """
    name = f"{run_name(recipe.name, size)}-scored"
    with _only_one(root / LOGS / name):
        _without_dvc(root, name, params, _environment(root, name), weights)
    return _in_folder(root, name)


def _environment(root: Path, name: str) -> dict[str, str]:
    """Return the environment of a run's commands."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        REPOSITORY: str(root.resolve()),
        ended.VARIABLE: str(root / ended.folder_of_all()),
        stage.LOGS: str(root / LOGS / name),
    }


def _in_folder(root: Path, name: str) -> Finished:
    """Return a run without DVC that came to its end."""
    folder = root / RUNS / name
    with reading_result(folder / BASED_ON):
        based_on = read_json(folder / BASED_ON)
        params, origin = based_on["params"], Provenance.recorded(based_on)
    return Finished(name, lambda path: (folder / path).read_bytes(), params, root / LOGS / name, origin)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second run of one recipe beside the first; a stage that outlived its run counts as one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder.name} is running already; wait for it, or stop it.") from error
        os.set_inheritable(file.fileno(), True)  # what is started holds the lock too
        yield


def is_running(folder: Path) -> bool:
    """Return whether a run has this folder of logs now."""
    path = folder / LOCK
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def dvc_is_there(root: Path) -> bool:
    """Return whether experiments can be run here: DVC is installed and the repository is one of git.

    Raises:
        GitError: git cannot tell.
    """
    if importlib.util.find_spec("dvc") is None:
        return False
    try:
        repository(root)
    except NotARepositoryError:
        return False
    except GitError as error:
        raise GitError(
            f"{error} (with --without-dvc a recipe runs nevertheless, and its result says that its commit is unknown)"
        ) from error
    return True


def finished(root: Path, recipe: Recipe, size: SizeName, *, with_dvc: bool) -> Finished:
    """Return a recipe's run that came to its end, now or earlier.

    Raises:
        InputError: there is none, or none yet.
    """
    name = run_name(recipe.name, size)
    logs = root / LOGS / name
    missing = InputError(f"There is no finished run {name!r}; run `bitsperdim recipe {recipe.name} --size {size}`.")
    if not with_dvc:
        folder = root / RUNS / name
        if not (folder / "done" / "report").exists():
            raise missing
        return _in_folder(root, name)
    if name not in (found := experiment_references(root)):
        refuse_queued(root, name)
        raise missing
    _, commit = found[name]
    here = repository(root)

    def read(path: str) -> bytes:
        import dvc.api  # imported here: two seconds
        import dvc.exceptions

        try:
            content: bytes = dvc.api.read(f"{here.prefix}{path}", repo=str(root), rev=commit, mode="rb")
        except (OSError, dvc.exceptions.DvcException) as error:
            raise InputError(
                f"{path} of the experiment {name} cannot be read ({error}); run the recipe again."
            ) from error
        return content

    params = YAML(typ="safe").load(read("params.yaml").decode("utf-8"))
    return Finished(name, read, params, logs, _of_experiment(here, commit, params, recipe.changes(size)))


def _of_experiment(here: Repository, commit: str, params: Mapping[str, Any], changes: Mapping[str, Any]) -> Provenance:
    """Return the commit on which an experiment was based, and whether more than a recipe's changes were made to it."""
    parent = None
    try:
        parent = here.ask("rev-parse", "--verify", f"{commit}^").decode().strip()
        name = f"{parent}:./params.yaml"
        base = YAML(typ="safe").load((here.read([name])[name] or b"{}").decode("utf-8"))
        changed = bool(here.ask("diff", "--name-only", parent, commit, "--", *CODE))
    except GitError as error:
        return Provenance(parent, None, str(error))
    return Provenance(parent, changed or params != merged(base, changes))


def experiment_references(root: Path) -> dict[str, tuple[str, str]]:
    """Return name -> (reference, commit) of DVC's experiments in this repository.

    Raises:
        InputError: it is none, or git cannot tell.
    """
    listing = repository(root).ask("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").decode()
    entries = (line.split(" ") for line in listing.splitlines())
    return {reference.rsplit("/", 1)[1]: (reference, commit) for reference, commit in entries}


def refuse_queued(root: Path, name: str) -> None:
    """Refuse an experiment that waits in DVC's queue, or runs from there.

    Raises:
        InputError: it does; the sentence says how it is run, watched or taken out. That needs the number of its task:
            DVC takes a name for that of any task, a finished one too.
    """
    if not (root / ".dvc" / "tmp" / "exps" / "celery").exists():  # nothing was ever queued
        return
    from dvc.repo import Repo  # imported here: a second

    with Repo(str(root)) as repository:
        queue = repository.experiments.celery_queue
        waiting, running = (
            {entry.name: entry.stash_rev[:7] for entry in entries}
            for entries in (queue.iter_queued(), queue.iter_active())
        )
    if name in running:
        raise InputError(
            f"{name} is running already, from DVC's queue: `dvc queue logs {running[name]}` shows what it does, "
            f"`dvc queue kill {running[name]}` stops it."
        )
    if name in waiting:
        raise InputError(
            f"{name} is queued already and has not run: `dvc queue start` runs it, "
            f"`dvc queue remove {waiting[name]}` takes it out."
        )


def _with_dvc(root: Path, name: str, changes: list[str], environment: Mapping[str, str], *, queue: bool) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    here = repository(root)
    if here.is_shallow:  # DVC would run it, and keep nothing of it in silence
        raise InputError(f"{root} is a shallow clone, where DVC keeps no experiment that runs in a copy: {UNSHALLOW}.")
    refuse_queued(root, name)
    earlier = experiment_references(root).get(name)
    if earlier:  # what it computed stays in DVC's cache
        failed = "DVC did not remove the earlier experiment (status {})."
        _call([*dvc, "exp", "remove", "--quiet", name], root, environment, failed)
    settings = [part for change in changes for part in ("-S", change)]
    is_queued = False
    try:
        how, failed = ("--queue", "DVC did not queue it (status {}).") if queue else ("--temp", STOPPED)
        _call([*dvc, "exp", "run", how, "--name", name, *settings], root, environment, failed)
        is_queued = queue
    finally:
        if earlier and not is_queued and name not in experiment_references(root):
            here.ask("update-ref", *earlier)


def _without_dvc(
    root: Path, name: str, params: Mapping[str, Any], environment: Mapping[str, str], weights: Path | None = None
) -> None:
    """Run the commands of ``dvc.yaml`` in order in a copy of the code; what is done is marked.

    Args:
        root: of the repository.
        name: of the run.
        params: the content of its ``params.yaml``.
        environment: of the commands.
        weights: a folder of trained models, which are scored, and nothing else is done; None: they are trained here.
    """
    folder = root / RUNS / name
    done, fingerprint = folder / "done", _fingerprint(root, params, weights)
    if not (done / fingerprint).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("src", "stages"):
            shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        if weights is not None:
            shutil.copytree(weights, folder / "models")
        here = merged(params, {"dataset": {"path": str(root / params["dataset"]["path"])}})  # own images stay there
        with (folder / "params.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(here, file)
        write_json(folder / BASED_ON, {**provenance(root, *CODE, "params.yaml").as_record(), "params": params})
        write_text(done / fingerprint, "")
    for label, command in commands(read_yaml(root / "dvc.yaml"), params):
        if weights is not None and label.partition("@")[0] not in OF_SCORING:
            continue
        marker = done / label
        if marker.exists():
            print(f"{label} is done already.", flush=True)
            continue
        print(f"Running {label}:", flush=True)
        _call(["/bin/sh", "-c", command], folder, environment)
        write_text(marker, "")


def commands(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the label and the command of every stage of ``dvc.yaml`` in order, as DVC would fill them in.

    Raises:
        InputError: a command refers to something that is no parameter.
    """
    found = []
    for label, definition in pipeline["stages"].items():
        models = params["models"] if "foreach" in definition else [None]
        for model in models:
            command: str = definition.get("do", definition)["cmd"]
            for key in re.findall(r"\$\{([\w.]+)\}", command):
                command = command.replace(f"${{{key}}}", _value(key, params, model))
            command = command.replace(r"\${", "${")  # what is left to the shell
            found.append((label if model is None else f"{label}@{model}", command))
    return found


def _value(key: str, params: Mapping[str, Any], model: str | None) -> str:
    if key == "item" and model is not None:
        return model
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"dvc.yaml: ${{{key}}} is no parameter.")
        value = value[part]
    return str(value)


def _fingerprint(root: Path, params: Mapping[str, Any], weights: Path | None) -> str:
    """Return a hash of the parameters, the code, the user's own images, and the weights that are scored."""
    digest = hashlib.sha256(repr(sorted(params.items())).encode())
    images = root / params["dataset"]["path"]
    folders = (root / "src", root / "stages", images, *([] if weights is None else [weights]))
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in (root / "dvc.yaml", *files, *([images] if images.is_file() else [])):
        if "__pycache__" not in path.parts and not path.parent.name.endswith(".egg-info"):
            digest.update(f"{path.relative_to(root) if path.is_relative_to(root) else path}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _call(command: list[str], folder: Path, environment: Mapping[str, str], failed: str = STOPPED) -> None:
    with subprocess.Popen(command, cwd=folder, env=environment, close_fds=False) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # it was interrupted as well: let it tidy up
            process.wait()
            raise
    if status:
        raise InputError(failed.format(status))


@contextlib.contextmanager
def reading_result(path: Path) -> Iterator[None]:
    """Turn any failure to read what a recipe left into one sentence.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path} cannot be used ({type(error).__name__}: {reason}); remove or restore it.") from error
