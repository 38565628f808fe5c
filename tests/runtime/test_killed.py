"""Training and evaluation are killed at seeded moments, and still end with the bytes of an undisturbed run.

`make test-all` kills them twenty times in all, `make test` twice.

Some kills come at any moment, some at any moment after the first checkpoint of the run, some while another checkpoint
is written, and some while the stage writes its outputs. The same stage is started again each time, until all kills have
happened.
"""

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from bitsperdim.runtime import finished
from support import warm, workspace
from support.workspace import EVALUATE, TRAIN

INTERVAL = "0.02"  # seconds between two checkpoints
KINDS = ("under way", "a checkpoint", "any moment", "under way", "a checkpoint")
KINDS += ("outputs", "any moment", "a checkpoint", "under way", "outputs")  # kinds of the kills of each stage, in turn
OUTPUTS = {TRAIN: ("models", "results/vae/training_curve.csv"), EVALUATE: ("results",)}
LAST = {TRAIN: ("models",), EVALUATE: ("results",)}  # without the curve, which is written from the first epoch on


class Stages:
    """Starts stages in a folder, in processes that ``forks.py`` forks."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        tests = Path(__file__).parents[1]
        path = f"{repository / 'src'}{os.pathsep}{tests}"
        environment = {**os.environ, **workspace.ENVIRONMENT, "PYTHONPATH": path}
        self.forks = subprocess.Popen(
            [warm.python(), str(tests / "support" / "forks.py")],
            cwd=folder,
            env={**environment, "BITSPERDIM_CHECKPOINT_SECONDS": INTERVAL},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, stage: tuple[str, ...]) -> int:
        """Start a stage and return the ID of its process."""
        script, *arguments = stage
        line = json.dumps([str(self.repository / "stages" / script), arguments, str(self.folder / "output")])
        stdin, stdout = self.pipes
        stdin.write(line + "\n")
        stdin.flush()
        return int(stdout.readline())

    @property
    def pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.forks.stdin is not None
        assert self.forks.stdout is not None
        return self.forks.stdin, self.forks.stdout

    def has_ended(self) -> bool:
        """Return whether the process that was started last has ended."""
        return bool(select.select([self.pipes[1]], [], [], 0)[0])

    def status(self) -> int:
        """Wait for the end of the process; return its exit status, or minus the signal that killed it."""
        return int(self.pipes[1].readline())

    def close(self) -> None:
        self.pipes[0].close()
        self.forks.wait()
        self.pipes[1].close()


@pytest.fixture
def stages(tmp_path: Path, repository: Path) -> Iterator[Stages]:
    workspace.prepare(tmp_path, repository, {"train": {"epochs": 40}})
    started = Stages(tmp_path, repository)
    yield started
    started.close()


def files(folder: Path, *names: str) -> dict[str, int]:
    """Return path -> modification time of all files, temporary ones too, while a process creates and removes them."""
    found = {}
    for name in names:
        inside = [os.path.join(at, file) for at, _, inner in os.walk(folder / name) for file in inner]  # noqa: PTH118
        for path in (str(folder / name), *inside):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)  # noqa: PTH116 - for speed
                if stat.S_ISREG(status.st_mode):
                    found[path] = status.st_mtime_ns
    return found


def partial(folder: Path) -> list[str]:
    """Return the temporary files of checkpoints that are, or were, being written."""
    return [path for path in files(folder, "checkpoints") if "/.state" in path]


def kept(folder: Path) -> set[tuple[str, int]]:
    """Return the complete checkpoints and their modification times."""
    return {(path, when) for path, when in files(folder, "checkpoints").items() if "/state" in path}


def wait_until_stopped(process: int) -> None:
    """Wait until a process has stopped or ended; a busy machine takes a while to stop it."""
    status = Path("/proc") / str(process) / "stat"
    time.sleep(0.003)
    with contextlib.suppress(OSError):  # it has ended, or this system has no /proc
        while status.read_text().rpartition(") ")[2][:1] not in "TtZX":
            time.sleep(0.001)


def caught(process: int, has_ended: Callable[[], bool], is_there: Callable[[], Any]) -> bool:
    """Stop the process at a moment when a condition holds; return False if the process ended before."""
    while not has_ended():
        if is_there():
            os.kill(process, signal.SIGSTOP)
            wait_until_stopped(process)
            if is_there():
                return True
            os.kill(process, signal.SIGCONT)
    return False


def kill_once(stages: Stages, stage: tuple[str, ...], kind: str, moment: float) -> str:
    """Start a stage and kill it at ``moment`` or at the next occasion after it.

    Args:
        stages: starts the stage.
        stage: script and arguments.
        kind: kind of the kill.
        moment: seconds from the start for the kind ``any moment``, otherwise from the first checkpoint of the run.

    Returns:
        the kind, or '' if the stage ended before it was killed.
    """
    folder = stages.folder
    kept_before, there = kept(folder), files(folder, *LAST[stage])
    process = stages.start(stage)
    while kind in ("under way", "a checkpoint") and kept(folder) <= kept_before and not stages.has_ended():
        time.sleep(0.001)
    begun = time.monotonic()
    while kind != "outputs" and time.monotonic() < begun + moment and not stages.has_ended():
        time.sleep(0.001)
    occasions = {
        "any moment": lambda: True,
        "under way": lambda: True,
        "a checkpoint": lambda: partial(folder),
        "outputs": lambda: files(folder, *LAST[stage]) != there,
    }
    if caught(process, stages.has_ended, occasions[kind]):
        os.kill(process, signal.SIGKILL)
    status = stages.status()
    assert status in (0, -signal.SIGKILL), (folder / "output").read_text()
    return kind if status else ""


def came_from(folder: Path) -> str:
    """Return the messages of the last run about the checkpoints that it resumed from."""
    said = re.findall(
        r"(seed \d|annealing|simulation)[^\n]*from a checkpoint,? ?([^\n]*)", (folder / "output").read_text()
    )
    return ", ".join(f"{what}: {how.rstrip('.')}" for what, how in said)


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [(TRAIN, KINDS[:1]), (EVALUATE, KINDS[:1]), (TRAIN, KINDS), (EVALUATE, KINDS)],
    ids=["train once", "evaluate once", "train", "evaluate"],
)
def test_killed_at_any_moment_the_bytes_are_the_same(
    stage: tuple[str, ...], kinds: tuple[str, ...], stages: Stages, repository: Path, tmp_path: Path
) -> None:
    if stage == EVALUATE:
        workspace.make_models(tmp_path)
    before = workspace.written(tmp_path, *OUTPUTS[stage])
    whole = workspace.run(tmp_path, repository, *stage)  # a separate run, which is not killed
    assert whole.returncode == 0, whole.stderr
    assert "from a checkpoint" not in whole.stdout
    expected = workspace.written(tmp_path, *OUTPUTS[stage])
    name = stage[0].removesuffix(".py")
    seconds = json.loads((tmp_path / "logs" / f"{name}-vae.json").read_text())["seconds"]

    def is_whole() -> None:
        """Assert that the stage is finished: the outputs are those of the undisturbed run, and nothing else is left."""
        assert workspace.written(tmp_path, *OUTPUTS[stage]) == expected
        assert (tmp_path / "output").read_text().splitlines()[-1] == whole.stdout.splitlines()[-1]
        assert marked() == folders()

    def folders() -> set[Path]:
        return set((tmp_path / "checkpoints").glob("*"))

    def marked() -> set[Path]:
        return {path.parent for path in (tmp_path / "checkpoints").glob(f"*/{finished.MARK}")}

    def start_anew() -> None:
        """Remove the outputs, as DVC does, and the checkpoints of finished stages; other checkpoints stay."""
        for folder in marked():
            shutil.rmtree(folder)
        for output in expected.keys() - before.keys():
            (tmp_path / output).unlink()

    start_anew()
    rng, kills, n_resumed, n_finished = random.Random(0), 0, 0, 0
    while kills < len(kinds):
        kind = kinds[kills]
        moment = rng.uniform(0, 0.8 if kind == "any moment" else 0.15) * seconds
        hit = kill_once(stages, stage, kind, moment)
        origin = came_from(tmp_path)
        n_resumed += bool(origin)
        if hit:
            kills += 1
            left = len(partial(tmp_path))
            assert left or kind != "a checkpoint"
            what = f"kill {kills}, {moment:.2f} s, {kind}, {left} half-written"
        else:
            n_finished += 1
            assert n_finished <= len(kinds), "it mostly ended before it was killed"
            what = "ended"
            is_whole()
            start_anew()
        print(f"{name}: resumed from {origin or 'nothing'}; {what}")
    stages.start(stage)
    assert stages.status() == 0, (tmp_path / "output").read_text()
    origin = came_from(tmp_path)
    n_resumed += bool(origin)
    print(f"{name}: resumed from {origin}; ended")
    is_whole()
    if stage == TRAIN:  # as if it was killed before DVC recorded the outputs: no step is done again
        for output in expected.keys() - before.keys():
            (tmp_path / output).unlink()
        stages.start(stage)
        assert stages.status() == 0
        assert came_from(tmp_path)
        is_whole()
    assert n_resumed >= 1 + len(kinds) // 2
