"""A step that is recorded and launched again equals a plain step, tested with a stand-in for CUDA graphs.

The stand-in is in ``recorded.py``; ``tests/runtime/test_gpu.py`` tests real graphs on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.core.errors import InputError
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training import captured, step
from bitsperdim.training.step import Optimization
from support import recorded
from support.training_cases import SECTIONS, power_cut, prepared, run, weights

CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in SECTIONS if name not in ("histogram", "gaussian", "realnvp")},
    "realnvp": {"dequantization": "uniform"},
}


work = captured.CapturedSteps.work


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow the stand-in for graphs on the CPU."""
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    monkeypatch.setattr(captured, "Graph", recorded.RecordedGraph)
    monkeypatch.setattr(captured, "beside", lambda work: work())
    monkeypatch.setattr(recorded.RecordedGraph, "n_launched", 0)


def assert_same(model: str, n_launched: int, data: Any = None, **changes: Any) -> None:
    plain = run(model, data, **changes)
    recorded.RecordedGraph.n_launched = 0
    launched = run(model, data, capture=True, **changes)
    assert recorded.RecordedGraph.n_launched == n_launched
    torch.testing.assert_close(weights(launched), weights(plain), rtol=1e-4, atol=1e-5)
    for one, other in zip(launched.curve, plain.curve, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("model", CASES)
def test_a_captured_step_is_the_same(model: str) -> None:
    """The steps have different learning rates, gradient clipping, and an average of the weights.

    Four of the five batches of an epoch have the full size, and the first three steps run without a graph.
    """
    assert_same(model, 5, epochs=2, gradient_clip=0.1, average_decay=0.9, warmup_steps=4, **CASES[model])


@pytest.mark.parametrize(
    ("model", "n_launched", "changes"),
    [
        ("vae", 5, {"precision": "bfloat16"}),
        ("pixelcnn_pp", 5, {"precision": "bfloat16"}),
        ("iwae", 9, {"kl_warmup_steps": 6, "epochs": 3}),
        ("vae", 2 * 5, {"finetune": {"epochs": 2, "train_samples": 3}, "epochs": 4}),  # each K has its own graph
        ("vae", 5, {"gradient_clip": None, "weight_decay": 0.1, "initial_second_moment": 1.0}),
        ("gated_pixelcnn", 5, {"n_classes": 4}),
        ("vae", 0, {"batch_size": 75}),  # two epochs of one step, so there is no graph
        ("vae", 3, {"batch_size": 100, "epochs": 6}),  # a batch that is never full
    ],
)
def test_what_changes_from_step_to_step_is_followed(model: str, n_launched: int, changes: dict[str, Any]) -> None:
    data = prepared()
    if "n_classes" in changes:
        data.labels.update({name: (array[:, 0, 0, 0] % 4).astype(np.int64) for name, array in data.images.items()})
    assert_same(model, n_launched, data, **{"epochs": 2, "average_decay": 0.9, **changes})


def test_images_are_binarized_anew_in_each_step() -> None:
    data = prepared("dynamic", n_levels=2)
    data.images["validation"] = np.minimum(data.images["validation"], 1)
    assert_same("vae", 9, data, epochs=3)


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    """The resumed run records its own graphs and continues from the saved state."""
    checkpoint = Checkpoint(tmp_path / "place", "place", interval=0.0)
    whole = run("iwae", capture=True, average_decay=0.9)
    with power_cut(13, "step_on"):
        run("iwae", capture=True, average_decay=0.9, checkpoint=checkpoint)
    rest = run("iwae", capture=True, average_decay=0.9, checkpoint=checkpoint)
    torch.testing.assert_close(weights(rest), weights(whole), rtol=1e-4, atol=1e-5)


def rate_of_the_host(self: Optimization, number: int) -> None:
    for group in self.optimizer.param_groups:
        group["lr"] = self.learning_rate(number)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Optimization, "set_learning_rate", rate_of_the_host),
        (Optimization, "average_step", lambda self, number: 0.5),
        (Optimization, "kl_weight", lambda self, number: 0.5),
        (captured.CapturedSteps, "work", lambda self, index, n: work(self, torch.arange(len(index)), n)),
        (recorded.RecordedGraph, "launch", lambda self: None),
    ],
)
def test_a_step_that_does_not_follow_is_noticed(
    owner: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests notice a number or images that do not change, and a graph that is not launched."""
    options: dict[str, Any] = {"epochs": 3, "average_decay": 0.9, "kl_warmup_steps": 6}
    plain = run("vae", **options)
    monkeypatch.setattr(owner, name, broken)
    launched = run("vae", capture=True, **options)
    assert not torch.allclose(weights(launched), weights(plain), rtol=1e-4, atol=1e-5)


def test_work_that_waits_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = step.Objective.forward

    def waiting(self: Any, *arguments: Any) -> Tensor:
        loss = forward(self, *arguments)
        assert float(loss.detach()) > 0
        return loss

    monkeypatch.setattr(step.Objective, "forward", waiting)
    with pytest.raises(
        InputError, match=r"^params.yaml: train.capture = true is not possible for vae \(.*local_scalar"
    ):
        run("vae", capture=True)


def test_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "DEVICES", ("cuda",))
    with pytest.raises(InputError, match=r"not possible for vae on the device cpu: it needs a CUDA GPU. Write false."):
        run("vae", capture=True)


def test_noise_of_the_host_and_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="its dequantization noise is fixed"):
        run("realnvp", capture=True)
    monkeypatch.setattr(captured, "world_size", lambda: 2)
    with pytest.raises(InputError, match="in 2 processes"):
        run("vae", capture=True)
