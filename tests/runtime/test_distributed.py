"""Several real processes on the CPU compute the same as one process, and one of them prints for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsperdim.core import stopping
from bitsperdim.core.errors import InputError
from bitsperdim.runtime import device, distributed
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.finished import MARK
from support import two_processes, warm
from support.stage_runs import StageFolder

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ROUNDING = 1e-9  # float64 rounding errors, amplified by training; a mistake gives a difference of at least 1e-3
STOPPED = "(seed 0) stopped after 7 steps; rerun the same command to resume"
Told = dict[str, Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> tuple[Path, list[Told]]:
    """Run two processes; return their folder, in which one process left a checkpoint before, and the result of each."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        two_processes.in_float64(patch)
        two_processes.stopped(Checkpoint(folder / "there", "one"), by=0)
    paths = os.pathsep.join(str(repository / name) for name in ("src", "tests"))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [warm.python(), *TORCHRUN, str(repository / "tests" / "support" / "two_processes.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def difference(a: Told, b: Told) -> float:
    """Return the largest absolute difference of all weights and numbers."""
    keys = ("train_bpd", "validation_bpd")
    curves = [[row[key] for row in told["curve"] for key in keys] for told in (a, b)]
    numbers = [[*told["weights"], *curve, told["validation_log_p"]] for told, curve in zip((a, b), curves, strict=True)]
    return float(np.abs(np.subtract(*numbers)).max())


@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_are_one(case: str, both: tuple[Path, list[Told]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes give the result of one up to rounding, and both have the same bits.

    The cases have noise of every kind, uneven and empty shares, averages, and clipping. If the noise, the weights of
    the shares or the sums are wrong on purpose, the result differs.
    """
    first, second = both[1]
    two_processes.in_float64(monkeypatch)
    alone = json.loads(json.dumps(two_processes.told(two_processes.CASES[case]())))
    assert difference(alone, first[case]) < ROUNDING
    assert alone["best_epoch"] == first[case]["best_epoch"]
    assert first[case] == second[case]
    for mutant, (of, _) in two_processes.MUTANTS.items():
        if of == case:
            assert difference(alone, first[mutant]) > 1e6 * ROUNDING, mutant


def test_every_kind_of_mistake_is_made() -> None:
    assert {of for of, _ in two_processes.MUTANTS.values()} == set(two_processes.CASES) - {
        "histogram",
        "vae",
        "gated_pixelcnn",
    }


def test_one_goes_on_where_two_stopped_and_the_reverse(
    both: tuple[Path, list[Told]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM to one of two processes stops both after the same step, within an epoch; the run can be resumed."""
    folder, (first, second) = both
    assert (
        first["stopped"] == second["stopped"] == "iwae (seed 0) stopped after 7 steps; rerun the same command to resume"
    )
    two_processes.in_float64(monkeypatch)
    alone, gone_on = (
        two_processes.told(two_processes.kept(checkpoint)) for checkpoint in (None, Checkpoint(folder / "here", "one"))
    )
    assert "after 7 steps" in capsys.readouterr().out
    assert difference(alone, gone_on) < ROUNDING
    assert difference(alone, first["resumed"]) < ROUNDING
    assert first["resumed"] == second["resumed"]


def test_all_run_out_of_time_at_once(both: tuple[Path, list[Told]]) -> None:
    """All stop after the seventh step by the clock of the first process; an epoch has five steps."""
    assert [told["out of time"] for told in both[1]] == [[5, 7], [5, 7]]


def test_a_mistake_of_one_is_known_to_all(both: tuple[Path, list[Told]]) -> None:
    first, second = both[1]
    assert first["not finite"] == second["not finite"]
    assert "met a loss that is not finite at step 3, epoch 1; try" in first["not finite"]
    assert first["different checkpoints"] == second["different checkpoints"]
    assert "its processes found different checkpoints; the folder (" in first["different checkpoints"]


def test_rows_of_different_numbers_are_gathered(both: tuple[Path, list[Told]]) -> None:
    assert all(told["gathered"] == [[0], [2, 3]] for told in both[1])


@pytest.mark.parametrize("n_processes", [1, 2, 3, 8])
@pytest.mark.parametrize("n_rows", [1, 2, 5, 16])
def test_shares_are_the_whole(n_rows: int, n_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: n_processes)
    rows: list[int] = []
    for number in range(n_processes):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        mine = distributed.share(n_rows)
        taken = list(range(n_rows))[mine.rows]
        assert len(taken) == max(1, mine.n_own)
        assert n_rows // n_processes <= mine.n_own <= -(-n_rows // n_processes)
        rows += taken[: mine.n_own]
    assert rows == list(range(n_rows))


@pytest.mark.parametrize(
    ("name", "n_gpus", "expected"), [("auto", 2, "cuda:1"), ("cuda", 4, "cuda:1"), ("cuda:1", 2, ""), ("cuda", 1, "")]
)
def test_each_process_has_its_gpu(name: str, n_gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("BITSPERDIM_DEVICE", name)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(device, "prepare_gpu", lambda _: None)
    if expected:
        assert str(device.set_up_device()) == expected
    else:
        with pytest.raises(InputError, match=f"{name!r} is not enough for the 2 processes on this machine"):
            device.set_up_device()


@pytest.mark.parametrize("is_launched", [False, True])
@pytest.mark.parametrize(("name", "expected"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_a_lone_process_has_a_gpu_with_a_number(
    is_launched: bool, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.distributed refuses a GPU without a number, even for one process per machine."""
    launched = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} if is_launched else {}
    for variable, value in {"BITSPERDIM_DEVICE": name, **launched}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "prepare_gpu", lambda _: None)
    assert str(device.set_up_device()) == expected


def test_on_a_gpu_float32_is_float32_and_algorithms_are_deterministic() -> None:
    """The test runs in a separate process, because the settings apply to the whole process."""
    code = """
import torch
from bitsperdim.runtime.device import prepare_gpu
torch.cuda.set_device = lambda device: print(device)
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
prepare_gpu(torch.device("cuda:1"))
print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)
print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
print(torch.utils.deterministic.fill_uninitialized_memory, __import__("os").environ["CUBLAS_WORKSPACE_CONFIG"])
with torch.backends.cudnn.flags(enabled=True):
    pass
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "cuda:1 False False False True True False :4096:8"
    assert result.stdout.split() == expected.split()
    assert (result.returncode, result.stderr) == (0, "")


CPU = device.torch.device("cpu")
LOST = RuntimeError("[../gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    ("rank", "error", "of_the_first", "told"),
    [
        (0, InputError("no"), None, True),
        (1, InputError("no"), "InputError: no", False),
        (1, InputError("no"), "OSError: full", True),
        (1, InputError("no"), None, True),
        (1, LOST, "OSError: full", False),
        (1, LOST, None, True),
        (1, stopping.Interrupted(15), "OSError: full", False),
        (3, InputError("no"), "InputError: no", False),
        (2, InputError("no"), "InputError: no", True),  # the first process of the second machine
    ],
)
def test_what_fails_everywhere_is_told_once(
    rank: int, error: BaseException, of_the_first: str | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine has two processes, all share a store, and the launcher's signals end a process that has failed."""
    store = distributed.dist.HashStore()
    if of_the_first is not None:
        store.set(f"failed/{rank // 2 * 2}", of_the_first)
    for name, value in {
        "is_torchelastic_launched": lambda: True,
        "init_process_group": lambda *_, **__: None,
        "destroy_process_group": lambda: None,
    }.items():
        monkeypatch.setattr(distributed.dist, name, value)
    monkeypatch.setattr(distributed.dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "PATIENCE", 0.01)
    monkeypatch.setattr(stopping, "_HAS_SOMETHING_TO_SAY", threading.Event())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_RANK", str(rank % 2))
    before = signal.getsignal(signal.SIGTERM)
    expected = InputError if error is LOST else type(error)
    with pytest.raises(expected) as caught, distributed.joined(CPU):
        raise error
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_DFL
    assert ("Another process of this stage has stopped" in str(caught.value)) == (error is LOST)
    assert stopping.speaks() == told


def test_a_stage_of_two_processes_is_stopped_and_goes_on(stage_folder: StageFolder) -> None:
    """One process gets a signal and both stop with one message; the resumed run has the curve of one process."""
    signalled = (*TORCHRUN, str(stage_folder.tests / "support" / "signalled.py"), "7", "1", "SIGTERM")
    stopped = stage_folder.run(*signalled, stage="train", model="vae")
    assert stopped.returncode != 0
    assert stopped.stderr.count(f"\ntrain: vae {STOPPED}.\n") == 1, stopped.stderr
    assert not (stage_folder.folder / "models").exists()
    gone_on = stage_folder.run(*TORCHRUN, stage="train", model="vae")
    assert gone_on.returncode == 0, gone_on.stderr
    assert gone_on.stdout.count("resumes from a checkpoint in epoch 2, after 7 steps") == 1
    assert gone_on.stdout.count("validation") == 1
    assert "Traceback" not in gone_on.stderr
    assert stage_folder.results("vae")[0] == pytest.approx(stage_folder.in_one_process("vae")[0], rel=1e-5)
    log = json.loads((stage_folder.folder / "logs" / "train-vae.json").read_text())
    assert log["n_processes"] == 2
    assert log["images_per_second"] > 0
    assert len(list(stage_folder.folder.glob(f"checkpoints/*/{MARK}"))) == 1


def test_a_mistake_of_all_is_told_once(stage_folder: StageFolder) -> None:
    stage_folder.change(
        ("learning_rate: 0.001", "learning_rate: 1.0e30"), ("gradient_clip: 10.0", "gradient_clip: null")
    )
    failed = stage_folder.run(*TORCHRUN, stage="train", model="vae")
    assert failed.returncode != 0
    assert failed.stderr.count("train: Training vae (seed 0) met a loss that is not finite") == 1
    assert failed.stderr.count("Traceback") == 1, failed.stderr  # only torchrun's own traceback
    assert list((stage_folder.folder / "logs").glob("*")) == []
