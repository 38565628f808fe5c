"""Running a recipe: as a named DVC experiment in a copy of the workspace, in DVC's queue, or without DVC.

A run with changed parameters (``-S``) gets its own name, made of the recipe's name and a hash of the changes, so that
it is not confused with the recipe itself. ``dvc queue start`` runs a queued run later. Two experiments cannot have the
same name. So queueing removes an earlier experiment with the name, and a run that is already in the queue is neither
queued nor run again. ``dvc queue start`` does not know the folder of logs, so that the result of a queued run has no
times.

In a folder without ``src``, which ``bitsperdim init`` has laid out, the stages run the installed package.

In all cases the workspace does not change, an interrupted run resumes where it stopped (finished stages do not run
again, and training resumes from its checkpoint), and the files of a run can be read by path.

:mod:`bitsperdim.recipes.result` writes the result of a run.

Invariants (``tests/recipes/test_running.py``): the stages run in order, once; a second run does nothing; another
parameter, other images or an edit of the code starts a new run; two runs never share a folder.
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

from bitsperdim.core.code import SOURCE
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import REPOSITORY, read_json, write_json, write_text
from bitsperdim.core.git import UNSHALLOW, GitError, NotARepositoryError, Provenance, Repository, provenance, repository
from bitsperdim.recipes.recipe import Recipe, SizeName, merged, overrides, read_yaml, reading_result
from bitsperdim.recipes.settings import applied
from bitsperdim.runtime import finished as ended
from bitsperdim.runtime import stage

RUNS, LOGS = Path("runs"), Path("logs") / "recipes"
LOCK, STARTED = "lock", "started"  # files in a run's folder of logs
BASED_ON = "based-on.json"  # file in a run's folder, with the commit and the parameters
CODE = ("src", "stages", "dvc.yaml")
COPIED = ("src", "stages", "external")  # folders of a run without DVC; there is no src if the package is installed
OF_SCORING = ("preflight", "download", "dequantize", "evaluate")  # stages needed to score given weights
STOPPED = "The run stopped (status {}). Finished work is stored; run the same command again to resume."


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        name: name of the experiment: the recipe and the size.
        read: function that returns the content of a file of the pipeline by its path in the repository.
        params: the whole content of the run's ``params.yaml``.
        logs: folder of the stages' logs.
        provenance: commit and local changes of the run's code and parameters.
    """

    name: str
    read: Callable[[str], bytes]
    params: Mapping[str, Any]
    logs: Path
    provenance: Provenance


def run_name(recipe: str, size: SizeName, settings: Sequence[str] = ()) -> str:
    """Return the name of a run: the recipe, the size, and six digits of a hash of the changed parameters, if any."""
    digest = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:6]
    return f"{recipe}-{size}-{digest}" if settings else f"{recipe}-{size}"


def run(
    root: Path, recipe: Recipe, size: SizeName, *, with_dvc: bool, settings: Sequence[str] = (), queue: bool = False
) -> None:
    """Run a recipe, or put it into DVC's queue.

    Args:
        root: folder of the repository.
        recipe: the recipe to run.
        size: ``cpu``, ``long`` or ``gpu``.
        with_dvc: whether to run it as a DVC experiment; otherwise stage by stage.
        settings: changed parameters in the form of ``dvc exp run -S``; only with DVC.
        queue: whether to put it into DVC's queue instead of running it; only with DVC.

    Raises:
        InputError: DVC is needed, the recipe or a parameter is not allowed, or a stage failed (the stage has printed
            the reason).
    """
    params = recipe.parameters(read_yaml(root / "params.yaml"), size)
    if (settings or queue) and not with_dvc:
        raise InputError("--queue and -S make DVC experiments, which need DVC and a git repository.")
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
    """Score trained models with a recipe's parameters, without DVC; after an interruption, the same call resumes.

    Args:
        root: folder of the repository.
        recipe: recipe of the models.
        size: ``cpu``, ``long`` or ``gpu``.
        params: the whole content of ``params.yaml`` under the recipe.
        weights: folder with ``<model>/<seed>`` for each trained model.

    Raises:
        InputError: a stage failed (the stage has printed the reason).
    """
    name = f"{run_name(recipe.name, size)}-scored"
    with _only_one(root / LOGS / name):
        _without_dvc(root, name, params, _environment(root, name), weights)
    return _in_folder(root, name)


def _environment(root: Path, name: str) -> dict[str, str]:
    """Return the environment variables of a run's commands."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        REPOSITORY: str(root.resolve()),
        ended.VARIABLE: str(root / ended.folder_of_all()),
        stage.LOGS: str(root / LOGS / name),
    }


def _in_folder(root: Path, name: str) -> Finished:
    """Return a finished run that was made without DVC."""
    folder = root / RUNS / name
    with reading_result(folder / BASED_ON):
        based_on = read_json(folder / BASED_ON)
        params, origin = based_on["params"], Provenance.recorded(based_on)
    return Finished(name, lambda path: (folder / path).read_bytes(), params, root / LOGS / name, origin)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second run of a recipe while the first runs; a stage that is still running counts as a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder.name} is already running; wait for it, or stop it.") from error
        os.set_inheritable(file.fileno(), True)  # child processes hold the lock, too
        yield


def is_running(folder: Path) -> bool:
    """Return whether a run is now using this folder of logs."""
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
    """Return whether DVC experiments can run here: DVC is installed, and the folder is a git repository.

    Raises:
        GitError: git fails.
    """
    if importlib.util.find_spec("dvc") is None:
        return False
    try:
        repository(root)
    except NotARepositoryError:
        return False
    except GitError as error:
        raise GitError(
            f"{error} (with --without-dvc the recipe can still run; its result then says that its commit is unknown)"
        ) from error
    return True


def with_a_commit(root: Path) -> Repository:
    """Return the git repository of a folder, in which DVC can run experiments: it has a commit.

    Raises:
        InputError: the folder is not a git repository, or it has no commits.
    """
    here = repository(root)
    if here.find("rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise InputError(
            f"{root} has no commits, and a DVC experiment is based on one; make one first: "
            f"`git add --all`, then `git commit`."
        )
    return here


def finished(root: Path, recipe: Recipe, size: SizeName, *, with_dvc: bool) -> Finished:
    """Return a recipe's finished run, from now or earlier.

    Raises:
        InputError: there is no run, or it has not finished.
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
    """Return the commit on which an experiment is based, and whether it differs in more than the recipe's changes."""
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
        InputError: the folder is not a git repository, or git fails.
    """
    listing = repository(root).ask("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").decode()
    entries = (line.split(" ") for line in listing.splitlines())
    return {reference.rsplit("/", 1)[1]: (reference, commit) for reference, commit in entries}


def refuse_queued(root: Path, name: str) -> None:
    """Refuse an experiment that waits in DVC's queue, or runs from there.

    Raises:
        InputError: the experiment is queued or running; the message says how to start, watch, stop or remove it. It
            names the task by its number, because DVC would take a name for that of any task, also a finished one.
    """
    if not (root / ".dvc" / "tmp" / "exps" / "celery").exists():  # the queue was never used
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
            f"{name} is already running from DVC's queue: `dvc queue logs {running[name]}` shows its output, "
            f"`dvc queue kill {running[name]}` stops it."
        )
    if name in waiting:
        raise InputError(
            f"{name} is already in DVC's queue: `dvc queue start` runs it, "
            f"`dvc queue remove {waiting[name]}` removes it."
        )


def _with_dvc(root: Path, name: str, changes: list[str], environment: Mapping[str, str], *, queue: bool) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    here = with_a_commit(root)
    if here.is_shallow:  # DVC would run it, but silently store nothing
        raise InputError(
            f"{root} is a shallow clone, in which DVC does not store experiments that run in a copy: {UNSHALLOW}."
        )
    refuse_queued(root, name)
    earlier = experiment_references(root).get(name)
    if earlier:  # its results stay in DVC's cache
        failed = "DVC did not remove the earlier experiment (status {})."
        _call([*dvc, "exp", "remove", "--quiet", name], root, environment, failed)
    settings = [part for change in changes for part in ("-S", change)]
    is_queued = False
    try:
        how, failed = ("--queue", "DVC did not queue the run (status {}).") if queue else ("--temp", STOPPED)
        _call([*dvc, "exp", "run", how, "--name", name, *settings], root, environment, failed)
        is_queued = queue
    finally:
        if earlier and not is_queued and name not in experiment_references(root):
            here.ask("update-ref", *earlier)


def _without_dvc(
    root: Path, name: str, params: Mapping[str, Any], environment: Mapping[str, str], weights: Path | None = None
) -> None:
    """Run the commands of ``dvc.yaml`` in order in a copy of the code; finished stages are marked.

    Args:
        root: folder of the repository.
        name: name of the run.
        params: content of the run's ``params.yaml``.
        environment: environment variables of the commands.
        weights: folder of trained models, which are only scored; None: models are trained here.
    """
    folder = root / RUNS / name
    done, fingerprint = folder / "done", _fingerprint(root, params, weights)
    if not (done / fingerprint).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for part in (name for name in COPIED if (root / name).is_dir()):
            shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        if weights is not None:
            shutil.copytree(weights, folder / "models")
        here = merged(
            params, {"dataset": {"path": str(root / params["dataset"]["path"])}}
        )  # the user's images are not copied
        with (folder / "params.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(here, file)
        write_json(folder / BASED_ON, {**provenance(root, *CODE, "params.yaml").as_record(), "params": params})
        write_text(done / fingerprint, "")
    for label, command in commands(read_yaml(root / "dvc.yaml"), params):
        if weights is not None and label.partition("@")[0] not in OF_SCORING:
            continue
        marker = done / label
        if marker.exists():
            print(f"{label} is already done.", flush=True)
            continue
        print(f"Running {label}:", flush=True)
        _call(["/bin/sh", "-c", command], folder, environment)
        write_text(marker, "")


def commands(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the label and the command of every stage of ``dvc.yaml`` in order, with parameters filled in as by DVC.

    Raises:
        InputError: a command refers to something that is not a parameter.
    """
    found = []
    for label, definition in pipeline["stages"].items():
        models = params["models"] if "foreach" in definition else [None]
        for model in models:
            command: str = definition.get("do", definition)["cmd"]
            for key in re.findall(r"\$\{([\w.]+)\}", command):
                command = command.replace(f"${{{key}}}", _value(key, params, model))
            command = command.replace(r"\${", "${")  # variables of the shell
            found.append((label if model is None else f"{label}@{model}", command))
    return found


def _value(key: str, params: Mapping[str, Any], model: str | None) -> str:
    if key == "item" and model is not None:
        return model
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"dvc.yaml: ${{{key}}} is not a parameter in params.yaml.")
        value = value[part]
    return str(value)


def _fingerprint(root: Path, params: Mapping[str, Any], weights: Path | None) -> str:
    """Return a hash of the parameters, the code, the user's own models and images, and the weights that are scored."""
    digest = hashlib.sha256(repr(sorted(params.items())).encode())
    images = root / params["dataset"]["path"]
    code = root / "src" if (root / "src").is_dir() else SOURCE / "bitsperdim"
    folders = (code, root / "stages", root / "external", images, *([] if weights is None else [weights]))
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
        except KeyboardInterrupt:  # the child was interrupted, too: let it finish its cleanup
            process.wait()
            raise
    if status:
        raise InputError(failed.format(status))
