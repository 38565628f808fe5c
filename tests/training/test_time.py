"""Training with a time limit stops after the step that reaches the limit, and validates the weights of that step.

The clock of these tests shows the number of steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsperdim.config.families.base import TrainSection
from bitsperdim.core.stopping import Interrupted
from bitsperdim.core.units import bits_per_dim
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training import trainer
from support.training_cases import SETTINGS, prepared, run, spied, weights


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step take one second."""
    monkeypatch.setattr(trainer._Trainer, "seconds", property(lambda self: float(self.state.step)))


def test_it_stops_in_the_middle_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stops after the seventh step, with five steps per epoch; until then, a longer training run is the same."""
    seen = spied(monkeypatch)
    whole = run("vae", learning_rate=0.003)
    stopped = run("vae", learning_rate=0.003, seconds=7)
    assert len(seen) == 20 + 7
    assert all(torch.equal(one, other) for one, other in zip(seen[20:], seen, strict=False))
    ends = [(row["epoch"], row["step"], row["n_presented"]) for row in stopped.curve]
    assert ends == [(1, 5, 75), (2, 7, 75 + 32)]
    assert stopped.times == [5, 7]
    assert stopped.curve[0] == whole.curve[0]
    assert stopped.best_epoch == 2
    kept = torch.cat([p.flatten() for p in stopped.model.parameters()])
    assert torch.equal(kept, seen[-1])
    images = torch.from_numpy(prepared().images["validation"])
    log_p = trainer.mean_bound(stopped.model, images, None, None, TrainSection.model_validate(SETTINGS))
    assert stopped.curve[1]["validation_bpd"] == pytest.approx(bits_per_dim(log_p, (1, 2, 3)), rel=1e-6)
    assert "vae seed 0: stopped after 7 s (train.seconds), in epoch 2, after 7 of 20 steps." in capsys.readouterr().out


def test_the_training_bound_is_that_of_the_steps_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch then has two batches of 16 images, whose losses have the same weight."""
    losses: list[float] = []
    take_step = trainer._Trainer.take_step

    def spy(self: Any, *batch: Any) -> Tensor:
        loss = take_step(self, *batch)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(trainer._Trainer, "take_step", spy)
    stopped = run("vae", seconds=7)
    assert stopped.curve[1]["train_bpd"] == pytest.approx(bits_per_dim(-sum(losses[5:]) / 2, (1, 2, 3)), rel=1e-6)
    assert stopped.curve[1]["learning_rate"] > 0


@pytest.mark.parametrize(
    ("seconds", "rows"), [(1, [1]), (5, [5]), (5.5, [5, 6]), (20, [5, 10, 15, 20]), (99, [5, 10, 15, 20])]
)
def test_it_stops_after_the_step_that_comes_to_the_limit(
    seconds: float, rows: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [row["step"] for row in run("iwae", seconds=seconds).curve] == rows
    assert ("stopped after" in capsys.readouterr().out) == (rows[-1] < 20)


@pytest.mark.parametrize("n_pauses", [3, 10, 11, 12, 13])
def test_what_was_before_an_interruption_counts(
    n_pauses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training is interrupted after the third step, the last step, within and at the end of validation, and after it.

    It pauses after each of the five steps, each of the two validation batches, and each epoch.
    """
    settings: dict[str, Any] = {"seconds": 7, "average_decay": 0.5}
    whole = run("vae", **settings)
    checkpoint = Checkpoint(tmp_path / "one", "one", interval=0.0)
    seen, pause, counted = spied(monkeypatch), trainer._Trainer.pause, iter(range(1, 100))

    def interrupted(self: Any) -> None:
        pause(self)
        if next(counted) == n_pauses:
            raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Trainer, "pause", interrupted)
        with pytest.raises(Interrupted):
            run("vae", checkpoint=checkpoint, **settings)
    assert len(seen) == (3 if n_pauses == 3 else 7)
    gone_on = run("vae", checkpoint=checkpoint, **settings)
    assert len(seen) == 7
    assert gone_on.curve == whole.curve
    assert torch.equal(weights(gone_on), weights(whole))
    assert "resumes from a checkpoint" in capsys.readouterr().out
