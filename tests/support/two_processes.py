"""What each of several processes comes to: run by torchrun with a folder, where ``<rank>.json`` is written.

Also imported, for the same trainings in one process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsperdim.core import randomness
from bitsperdim.core.errors import InputError
from bitsperdim.core.stopping import Interrupted
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.runtime import distributed
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training import step, trainer
from bitsperdim.training.trained import Trained
from support.training_cases import prepared, run, weights

STOPPED_AFTER = 7  # steps, of which an epoch has five


def dynamic() -> PreparedImages:
    data = prepared("dynamic", n_levels=2)
    data.images["validation"] = (data.images["validation"] > 1).astype(np.uint8)
    return data


def with_labels() -> PreparedImages:
    data = prepared()
    data.labels.update({split: (array[:, 0, 0, 0] % 3).astype(np.int64) for split, array in data.images.items()})
    return data


CASES: dict[str, Callable[[], Trained]] = {
    "histogram": lambda: run("histogram"),
    "iwae": lambda: run("iwae", epochs=3, average_decay=0.5, finetune={"epochs": 1, "train_samples": 3}),
    "vae": lambda: run("vae", epochs=2, kl_warmup_steps=4, initial_second_moment=1.0, eps=1e-4, schedule="stages"),
    "conv_vae": lambda: run("conv_vae", dynamic(), epochs=2),
    "gated_pixelcnn": lambda: run("gated_pixelcnn", with_labels(), epochs=2, n_classes=3),
    "pixelcnn_pp": lambda: run("pixelcnn_pp", epochs=2, gradient_clip=0.1),
    "flow": lambda: run("flow", prepared(n_train=65), epochs=2),  # the last batch has one image, and one share none
    "realnvp": lambda: run("realnvp", epochs=2, weight_decay=0.1),
}


def wrong_fraction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(distributed.Share, "fraction", property(lambda self: 1 / distributed.world_size()))


def same_noise_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(randomness.Stream, "share", property(lambda self: None, lambda self, value: None))


def no_average_of_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "DistributedDataParallel", lambda module, **_: module)


def no_sums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(distributed, "all_summed", lambda values: values)


def whole_batch_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(distributed, "share", lambda n: distributed.Share(slice(0, n), n, n))


MUTANTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "uneven shares count the same": ("iwae", wrong_fraction),
    "latent noise of the first share for all": ("iwae", same_noise_for_all),
    "binarization of the first share for all": ("conv_vae", same_noise_for_all),
    "dropout of the first share for all": ("pixelcnn_pp", same_noise_for_all),
    "dequantization of the first share for all": ("flow", same_noise_for_all),
    "gradients of the own share alone": ("pixelcnn_pp", no_average_of_gradients),
    "losses of the own share alone": ("realnvp", no_sums),
    "every share the whole batch": ("realnvp", whole_batch_for_all),
}


def in_float64(patch: pytest.MonkeyPatch) -> None:
    """Let models have weights of float64, where rounding has no consequences."""
    build = trainer.build
    patch.setattr(trainer, "build", lambda *arguments, **options: build(*arguments, **options).double())


def told(trained: Trained) -> dict[str, Any]:
    """What there is to compare, and a hash of the very bits of the weights."""
    values = weights(trained)
    return {
        "weights": values.double().tolist(),
        "bits": hashlib.sha256(values.numpy().tobytes()).hexdigest(),
        "curve": trained.curve,
        "best_epoch": trained.best_epoch,
        "validation_log_p": trained.validation_log_p,
    }


@contextlib.contextmanager
def at_step(number: int, do: Callable[[Tensor], Tensor], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Do something with the loss of one step."""
    take_step = trainer._Trainer.take_step

    def doing(self: Any, *batch: Any) -> Tensor:
        loss = take_step(self, *batch)
        return do(loss) if self.state.step == number else loss

    with patch.context() as inner:
        inner.setattr(trainer._Trainer, "take_step", doing)
        yield


def kept(checkpoint: Checkpoint) -> Trained:
    """A training that has a checkpoint."""
    return run("iwae", dynamic(), epochs=3, average_decay=0.5, checkpoint=checkpoint)


def stopped(checkpoint: Checkpoint, by: int) -> str:
    """What is said by a training that one process gets a signal for."""

    def ask(loss: Tensor) -> Tensor:
        if distributed.rank() == by:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    patch = pytest.MonkeyPatch()
    with pytest.raises(Interrupted) as caught, at_step(STOPPED_AFTER, ask, patch):
        kept(checkpoint)
    assert caught.value.number == signal.SIGTERM
    return str(caught.value)


def not_finite_at_the_last() -> str:
    """What is said where one process alone has a loss that is NaN."""
    is_last = distributed.rank() == distributed.world_size() - 1
    patch = pytest.MonkeyPatch()
    with pytest.raises(InputError) as caught, at_step(3, lambda loss: loss * (torch.nan if is_last else 1), patch):
        run("vae")
    return str(caught.value)


def different_checkpoints(folder: Path) -> str:
    """What is said where only the first process finds a checkpoint."""
    checkpoint = Checkpoint(folder / ("there" if distributed.is_first() else "nowhere"), "one")
    with pytest.raises(InputError) as caught:
        kept(checkpoint)
    return str(caught.value)


def out_of_time() -> list[int]:
    """The steps at the ends of epochs where the clock of the first process, and of no other, comes to the limit."""
    with pytest.MonkeyPatch.context() as patch:
        is_first = distributed.is_first()
        patch.setattr(trainer._Trainer, "seconds", property(lambda self: float(self.state.step if is_first else 0)))
        return [int(row["step"]) for row in run("vae", seconds=7).curve]


def main(folder: Path) -> None:
    """Run everything; ``folder/there`` has a checkpoint of one process."""
    torch.set_num_threads(1)
    with distributed.joined(torch.device("cpu")), pytest.MonkeyPatch.context() as always:
        in_float64(always)
        n = distributed.rank()
        content: dict[str, Any] = {name: told(case()) for name, case in CASES.items()}
        for name, (case, mutate) in MUTANTS.items():
            with pytest.MonkeyPatch.context() as patch:
                mutate(patch)
                content[name] = told(CASES[case]())
        content["not finite"] = not_finite_at_the_last()
        content["different checkpoints"] = different_checkpoints(folder)
        content["out of time"] = out_of_time()
        content["stopped"] = stopped(Checkpoint(folder / "here", "one", interval=1e9), by=1)
        content["resumed"] = told(kept(Checkpoint(folder / "there", "one", interval=1e9)))
        gathered = distributed.gathered(torch.arange(n * 2, n * 2 + 1 + n)[:, None])
        content["gathered"] = [rows.flatten().tolist() for rows in gathered]
        (folder / f"{n}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
