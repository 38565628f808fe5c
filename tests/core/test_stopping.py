"""Signals end a stage in an orderly way, the state of training is saved, and the former handlers are restored."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.core.stopping import Interrupted, deferred, raised
from bitsperdim.runtime.checkpoints import Checkpoint
from support.stage_runs import StageFolder
from support.training_cases import run

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Set default signal handlers, since tests that run in the background ignore Ctrl-C; restore them afterwards."""
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_raised(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, raised():
        os.kill(os.getpid(), number)
    assert caught.value.number == number
    assert isinstance(caught.value, KeyboardInterrupt)


def test_a_second_signal_does_not_wait() -> None:
    seen = []
    with deferred() as request:
        seen.append(request.number)
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(request.number)
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [0, signal.SIGTERM]
    assert caught.value.number == signal.SIGINT


@pytest.mark.parametrize("context", [raised, deferred])
def test_handlers_are_put_back(context: Callable[[], AbstractContextManager]) -> None:
    """A signal that was ignored, for example by nohup, stays ignored."""
    before = [signal.getsignal(number) for number in BOTH]
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with context():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not before[1]
        assert signal.getsignal(signal.SIGTERM) is before[1]
    finally:
        for number, handler in zip(BOTH, before, strict=True):
            signal.signal(number, handler)


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with raised(), deferred():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_validation_stops_too_and_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal in the first batch of the second validation stops the run there; resumed, it gives the same bytes."""
    from bitsperdim.training import validation
    from support.training_cases import weights

    checkpoint = Checkpoint(tmp_path / "one", "one", interval=1e9)
    n_batches = 0
    bound_of = validation.bound_of

    def counting(*arguments: Any) -> Any:
        nonlocal n_batches
        n_batches += 1
        if n_batches == 3:  # each validation has two batches
            os.kill(os.getpid(), signal.SIGINT)
        return bound_of(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "bound_of", counting)
        with pytest.raises(Interrupted, match="stopped after 10 steps; rerun the same command to resume"):
            run("iwae", checkpoint=checkpoint)
    assert n_batches == 3
    gone_on, whole = run("iwae", checkpoint=checkpoint), run("iwae")
    assert gone_on.curve == whole.curve
    assert weights(gone_on).equal(weights(whole))


def test_a_stopped_stage_goes_on_to_the_same_bytes(stage_folder: StageFolder) -> None:
    """SIGTERM, later Ctrl-C, then a run to the end, compared with a run without signals in this process."""
    for step, name, status in (("7", "SIGTERM", 143), ("12", "SIGINT", 130)):
        stopped = stage_folder.run(
            str(stage_folder.tests / "support" / "signalled.py"), step, "0", name, stage="train", model="vae"
        )
        assert stopped.returncode == status, stopped.stderr
        sentence = f"vae (seed 0) stopped after {step} steps; rerun the same command to resume"
        assert stopped.stderr == f"\ntrain: {sentence}.\n"
        found = {path.name for path in stage_folder.folder.iterdir()}
        # the curve exists only if the run took more than a second
        assert found - {"curve.csv"} == {"params.yaml", "images", "logs", "checkpoints"}
    assert "after 7 steps" in stopped.stdout
    assert stage_folder.run(stage="train", model="vae").returncode == 0
    assert stage_folder.results("vae") == stage_folder.in_one_process("vae")


def test_two_signals_end_a_stage_at_once(stage_folder: StageFolder) -> None:
    signalled = (str(stage_folder.tests / "support" / "signalled.py"), "7", "0", "SIGTERM,SIGTERM")
    stopped = stage_folder.run(*signalled, stage="train", model="vae")
    assert (stopped.returncode, stopped.stderr) == (143, "\ntrain: interrupted.\n")
    assert not list(stage_folder.folder.glob("checkpoints/*"))
