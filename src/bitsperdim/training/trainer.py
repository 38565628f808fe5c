r"""The trainer for all models.

It maximizes the mean over images of

.. math:: \log \frac1K \sum_{k=1}^{K} w_k(x)

with K = ``train_samples``; with ``finetune``, the last epochs use another K. This is maximum likelihood for exact
models, the ELBO for K = 1, and the importance-weighted bound of Burda et al. 2016 for K > 1. A model without trainable
weights is fitted only by its ``initialise``.

The images are on the device. Dynamic binarization draws them again at each presentation. Dequantization noise is drawn
again too, unless the model asks for fixed noise. After every epoch, the validation bound is computed with the same
``validation_samples`` and the same random numbers for every model. It decides which weights are kept (from the
fine-tuned epochs, if there are any) and when to stop. Training never uses the test set.

With a :class:`~bitsperdim.runtime.checkpoints.Checkpoint`, the whole state is saved from time to time, also within an
epoch, and the next training run with the same fingerprint resumes from it. After SIGTERM or SIGINT, the current step is
finished and the state is saved before training stops. If ``seconds`` is set, training stops after the step that reaches
this time limit; the weights of that step are validated and may be kept.

Before the first step, the inputs are checked, and an autoregressive model is tested for looking ahead: its masks do not
change later, so a wrong mask is found before hours of training. The final weights are tested again, so that no
validation bound of a model that looks ahead is kept. The weights in between are not tested, because that would cost
more than the validation of a small set.

Several processes (:mod:`bitsperdim.runtime.distributed`) share every batch, and each has the whole state: it draws the
noise for the whole batch, takes the same steps, and makes the same decisions. The first process writes files and prints
messages. Any number of processes can resume from a checkpoint of any other number.

Other modules contain one step (:mod:`bitsperdim.training.step`), one step as a CUDA graph
(:mod:`bitsperdim.training.captured`), the presentation of images (:mod:`bitsperdim.training.batches`), and the
validation bound (:mod:`bitsperdim.training.validation`).

Invariants (``tests/training/test_training.py``): one seed gives the same bytes, interrupted or not; training returns
the best weights by validation, not the last ones; every image is presented once per epoch; a loss that is not finite
stops training with one sentence. ``tests/runtime/test_distributed.py``: two processes train as one, up to rounding.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bitsperdim.config.families import code_of
from bitsperdim.config.families.base import FamilySection, TrainSection
from bitsperdim.core.code import needed
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import sha256
from bitsperdim.core.labels import ASCII_SIGNS
from bitsperdim.core.randomness import Stream, stream
from bitsperdim.core.stopping import Interrupted, Request, deferred
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.models import ImageModel, build, check_labels
from bitsperdim.models.look_ahead import check_scorable
from bitsperdim.runtime import distributed
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.training.batches import Presentation
from bitsperdim.training.captured import CapturedSteps
from bitsperdim.training.step import Optimization, part_of, settings_on
from bitsperdim.training.trained import Trained
from bitsperdim.training.validation import mean_bound

CHECK_EVERY = 100  # steps between two checks of the losses, each of which waits for the device
Follow = Callable[[Sequence[Mapping[str, float | int]], Sequence[float]], None]


def train(
    name: str,
    section: FamilySection,
    shared: TrainSection,
    prepared: PreparedImages,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    follow: Follow | None = None,
) -> Trained:
    """Train one model with one seed.

    Args:
        name: name of the model's section, for messages.
        section: section of the model: the family, its hyperparameters and its own changes to ``train``.
        shared: the section ``train``.
        prepared: images with the splits ``train`` and ``validation``.
        seed: seed of the initial weights, the order of the images and all noise.
        device: device for the work.
        checkpoint: where the state of unfinished training is saved; None: it is not saved.
        follow: function that the first process calls after each epoch with the curve and the times so far.

    Raises:
        InputError: the images do not fit the model, the model looks ahead, a loss is not finite, no epoch had a finite
            validation bound, or the processes do not share the checkpoint folder.
        Interrupted: a signal asked the process to stop; the state has been saved.
    """
    description = prepared.description
    settings = settings_on(device, section, shared)
    model = build(section.family, section.hyperparameters, description.image_shape, description.n_levels, seed=seed).to(
        device
    )
    check_labels(model, prepared.labels)
    generator = stream("training", seed, device=device)
    labels = prepared.labels.get("train")
    presentation = Presentation(
        images=torch.from_numpy(prepared.images["train"]).to(device),
        labels=None if labels is None else torch.from_numpy(labels).to(device),
        train_levels=description.train_levels,
        dynamic=description.binarization == "dynamic",
        noise_seed=seed if model.keeps_noise else None,
        n_samples=section.n_train_samples,
    )
    trainer = _Trainer(name, model, section, settings, presentation, prepared, seed, generator, checkpoint, follow)
    images = presentation.drawn(presentation.images, generator)
    model.initialise(images)
    distributed.broadcast([*model.parameters(), *model.buffers()])  # machines may differ by rounding
    trainer.check(model)
    has_weights = any(parameter.requires_grad for parameter in model.parameters())
    trained = trainer.run() if has_weights else trainer.run_closed_form(images)
    trainer.check(trained.model)
    return trained


@dataclass
class _State:
    """The numbers in the state of unfinished training.

    Attributes:
        step: number of steps taken so far.
        epoch: number of the current epoch, from 1.
        curve: a row for each finished epoch.
        times: training time at the end of each finished epoch, seconds.
        best_log_p, best_epoch: the best mean validation bound, nats per image, and its epoch.
        last_log_p: mean validation bound of the last finished epoch, nats per image.
        seconds: training time of this run and of the runs before it.
        is_out_of_time: whether this time has reached ``seconds`` of the settings, by the clock of the first process.
    """

    step: int = 0
    epoch: int = 1
    curve: list[dict[str, float | int]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    best_log_p: float = -math.inf
    best_epoch: int = 0
    last_log_p: float = -math.inf
    seconds: float = 0.0
    is_out_of_time: bool = False


class _Trainer:
    """One training run: the model, its training images, and the state of training."""

    def __init__(
        self,
        name: str,
        model: ImageModel,
        section: FamilySection,
        settings: TrainSection,
        presentation: Presentation,
        prepared: PreparedImages,
        seed: int,
        generator: Stream,
        checkpoint: Checkpoint | None,
        follow: Follow | None,
    ) -> None:
        self.name, self.model, self.settings, self.seed = name, model, settings, seed
        self.section, self.follow = section, follow
        self.presentation, self.generator, self.checkpoint = presentation, generator, checkpoint
        self.device = presentation.images.device
        self.validation = (
            torch.from_numpy(prepared.images["validation"]).to(self.device),
            torch.from_numpy(prepared.labels["validation"]).to(self.device) if prepared.labels else None,
            torch.from_numpy(prepared.noise["validation"]).to(self.device),
        )
        self.n_steps = settings.epochs * math.ceil(len(presentation.images) / settings.batch_size)
        self.state = _State()
        self.captured: CapturedSteps | None = None
        self.order: Tensor | None = None  # order of the images in this epoch; None between two epochs
        self.losses: list[Tensor] = []  # losses of the steps of this epoch, on the device
        self.n_settled = 0  # number of these losses that are summed over processes and checked to be finite
        self.best_weights: dict[str, Tensor] | None = None
        self.request = Request()
        self.n_presented, self.step_seconds = 0, 0.0
        self.started = self.saved = time.monotonic()

    def check(self, model: ImageModel) -> None:
        """Raise InputError if a model looks ahead or validation images do not fit it; leave it in evaluation mode.

        Raises:
            InputError: a check fails; the message gives the reason.
        """
        try:
            check_scorable(model.eval(), *self.validation)
        except (ValueError, FloatingPointError) as error:
            reason = str(error).removesuffix(".")
            raise InputError(f"Training {self.name} (seed {self.seed}) stopped: {reason}.") from error

    def run_closed_form(self, images: Tensor) -> Trained:
        """Evaluate the model that ``initialise`` has fitted; the curve has one row, with epoch 0.

        For an external model, only some of the training images are evaluated, because it may be very slow.
        """
        labels = self.presentation.labels
        if self.model.origin is not None:
            images = images[: len(self.validation[0])]
            labels = None if labels is None else labels[: len(images)]
        train_log_p = mean_bound(self.model, images, labels, None, self.settings)
        log_p = mean_bound(self.model, *self.validation, self.settings)
        if math.isnan(log_p) or log_p == math.inf:
            raise InputError(f"The closed-form fit of {self.name} gives validation images a likelihood of {log_p}.")
        row = self.row(0, 0, 0.0, train_log_p, log_p)
        seconds = self.seconds
        return Trained(self.model, [row], 0, log_p, seconds, times=[seconds])

    def row(
        self, epoch: int, n_presented: int, learning_rate: float, train_log_p: float, log_p: float
    ) -> dict[str, float | int]:
        """Return one row of the training curve."""
        return {
            "epoch": epoch,
            "step": self.state.step,
            "n_presented": n_presented,
            "learning_rate": learning_rate,
            "train_bpd": bits_per_dim(train_log_p, self.model.image_shape),
            "validation_bpd": bits_per_dim(log_p, self.model.image_shape),
            "seed": self.seed,
        }

    def run(self) -> Trained:
        """Train until the last epoch, or until patience or time runs out; resume from a checkpoint if there is one."""
        settings, state = self.settings, self.state
        self.optimization = Optimization(self.model, settings, self.n_steps, self.generator)
        if settings.capture:
            self.captured = CapturedSteps(self.optimization, self.presentation, self.generator, self.name)
        self.resume()
        title = f"train {self.name} seed {self.seed}"
        silent = None if distributed.is_first() else True
        n_done = state.epoch - 1
        bar = tqdm(total=settings.epochs, initial=n_done, desc=title, unit="epoch", disable=silent, mininterval=0.5)
        with deferred() as self.request, bar:
            while not self.finished:
                row = self.run_epoch()
                bar.set_postfix_str(
                    f"train {row['train_bpd']:.4f}, validation {ASCII_SIGNS[self.model.kind]} "
                    f"{row['validation_bpd']:.4f} bits/dim ({-state.last_log_p:.2f} nats)"
                )
                bar.update()
                if self.follow is not None and distributed.is_first():
                    self.follow(state.curve, state.times)
                self.pause()
        if state.is_out_of_time and state.step < self.n_steps and distributed.is_first():
            print(
                f"{self.name} seed {self.seed}: stopped after {settings.seconds:g} s (train.seconds), in epoch "
                f"{state.epoch - 1}, after {state.step} of {self.n_steps} steps."
            )
        if self.best_weights is None:
            raise InputError(
                f"Training {self.name} (seed {self.seed}) gave some validation image probability 0 in every epoch; "
                f"try a smaller learning_rate."
            )
        if self.checkpoint is not None and self.seconds > self.checkpoint.interval:
            self.save()  # in case a later seed of the same stage is interrupted
        self.model.load_state_dict(self.best_weights)
        numbers = (state.best_epoch, state.best_log_p, self.seconds, self.n_presented, self.step_seconds)
        return Trained(self.model.eval(), state.curve, *numbers, times=state.times)

    @property
    def finished(self) -> bool:
        """Whether training is over: no epoch is left, patience has run out, or time has, after the validation."""
        n_done, patience = self.state.epoch - 1, self.settings.patience
        if self.state.is_out_of_time and self.order is None:
            return True
        return n_done >= self.settings.epochs or (patience is not None and n_done - self.state.best_epoch >= patience)

    @property
    def seconds(self) -> float:
        """The training time of this run and of the runs before it, in seconds."""
        return self.state.seconds + time.monotonic() - self.started

    def run_epoch(self) -> dict[str, float | int]:
        """Present every image once, then validate; return the row of the training curve.

        After an interruption, only the remaining images of the epoch are presented. If time runs out, the remaining
        images are not presented.
        """
        state = self.state
        self.model.train()
        if self.order is None:
            self.order = self.presentation.order(self.generator)
        batches = self.presentation.batches(self.order, self.settings.batch_size)
        started = time.monotonic()
        for index in batches[len(self.losses) :]:
            if state.is_out_of_time:
                break
            mine = distributed.share(len(index))
            self.generator.share = (mine.rows.start, mine.n_whole)
            self.losses.append(self.step_on(index[mine.rows], mine))
            self.n_presented += len(index)
            if len(self.losses) % CHECK_EVERY == 0:
                self.settle()
            self.pause()
        self.settle()
        self.step_seconds += time.monotonic() - started
        candidate = self.optimization.candidate
        log_p = mean_bound(candidate, *self.validation, self.settings, self.pause)
        if math.isnan(log_p) or log_p == math.inf:
            raise InputError(self.not_finite(state.step))
        n_images = torch.tensor([len(batch) for batch in batches[: len(self.losses)]], dtype=torch.float64)
        train_log_p = -float((torch.stack(self.losses).double().cpu() * n_images).sum() / n_images.sum())
        learning_rate = self.optimization.learning_rate(state.step - len(self.losses))
        n_presented = (state.epoch - 1) * len(self.presentation.images) + int(n_images.sum())
        row = self.row(state.epoch, n_presented, learning_rate, train_log_p, log_p)
        state.curve.append(row)
        state.times.append(self.seconds)
        state.last_log_p = log_p
        if state.epoch == self.section.first_finetuned_epoch(self.settings.epochs):
            state.best_log_p = -math.inf  # only fine-tuned weights may be kept
        if log_p > state.best_log_p:
            state.best_log_p, state.best_epoch = log_p, state.epoch
            self.best_weights = copy.deepcopy(candidate.state_dict())
        state.epoch += 1
        self.order, self.losses, self.n_settled = None, [], 0
        return row

    def step_on(self, index: Tensor, mine: distributed.Share) -> Tensor:
        """Take one step on some rows of the images; return their contribution to the loss, nats per image, detached."""
        if self.captured is None:
            return self.take_step(*self.presentation.batch(index, self.generator), mine)
        loss = self.captured.take_step(self.state.step, index, self.n_samples)
        self.state.step += 1
        return loss

    def take_step(self, x: Tensor, labels: Tensor | None, noise: Tensor | None, mine: distributed.Share) -> Tensor:
        """Take one step of the optimizer; return these images' contribution to the loss, nats per image, detached."""
        loss = self.optimization.take_step(self.state.step, x, labels, noise, self.n_samples, mine)
        self.state.step += 1
        return loss

    @property
    def n_samples(self) -> int:
        """The number of samples K of the objective in this epoch."""
        return self.section.n_train_samples_in(self.state.epoch, self.settings.epochs)

    def settle(self) -> None:
        """Sum the new losses over all processes; raise InputError if one of them is not finite."""
        new = self.losses[self.n_settled :]
        if not new:
            return
        whole = distributed.all_summed(torch.stack(new))
        bad = ~whole.isfinite()
        if bad.any():
            raise InputError(self.not_finite(self.state.step - len(new) + int(bad.nonzero()[0]) + 1))
        self.losses[self.n_settled :] = whole.unbind()
        self.n_settled = len(self.losses)

    def pause(self) -> None:
        """Save if a checkpoint is due, check the time limit, and stop if a signal asked for it.

        All processes do this at the same point of the work.

        Raises:
            Interrupted: a signal asked one of the processes to stop.
        """
        interval = math.inf if self.checkpoint is None else self.checkpoint.interval
        due = distributed.is_first() and time.monotonic() - self.saved >= interval
        limit = math.inf if self.settings.seconds is None else self.settings.seconds
        late = distributed.is_first() and self.seconds >= limit
        number, is_due, is_late = distributed.largest(self.request.number, int(due), int(late))
        self.state.is_out_of_time |= bool(is_late)
        if number or is_due:
            self.save()
        if number:
            distributed.largest()  # wait until the first process has saved
            where = "" if self.checkpoint is None else "; rerun the same command to resume"
            raise Interrupted(number, f"{self.name} (seed {self.seed}) stopped after {self.state.step} steps{where}")

    def save(self) -> None:
        """Save the whole state, for :meth:`resume`."""
        self.saved = time.monotonic()
        if self.checkpoint is None:
            return
        self.settle()
        if not distributed.is_first():
            return
        tensors = self.optimization.tensors() | {"generator": self.generator.get_state()}
        tensors |= {f"best.{name}": value for name, value in (self.best_weights or {}).items()}
        if self.order is not None:
            tensors["order"] = self.order
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        self.checkpoint.save(tensors, asdict(self.state) | {"seconds": self.seconds})
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Restore the state from the checkpoint, if there is one.

        Raises:
            InputError: the processes found different checkpoints.
        """
        found = None if self.checkpoint is None else self.checkpoint.load()
        step = -1 if found is None else found[1]["step"]
        highest, lowest = distributed.largest(step, -step)
        if highest != -lowest:
            raise InputError(
                f"Training {self.name} (seed {self.seed}) cannot resume, because its processes found different "
                f"checkpoints; the folder (BITSPERDIM_CHECKPOINTS) must be the same for all, or be removed."
            )
        if found is None:
            return
        tensors, values = found
        for name, value in values.items():
            setattr(self.state, name, value)
        self.optimization.load(tensors)
        best = part_of(tensors, "best")
        self.best_weights = {name: tensor.to(self.device) for name, tensor in best.items()} or None
        self.generator.set_state(tensors["generator"])
        self.order = tensors["order"].to(self.device) if "order" in tensors else None
        self.losses = list(tensors["losses"].to(self.device).unbind()) if "losses" in tensors else []
        self.n_settled = len(self.losses)
        if distributed.is_first():
            where = "at its end" if self.finished else f"in epoch {self.state.epoch}"
            print(
                f"{self.name} seed {self.seed}: resumes from a checkpoint {where}, "
                f"after {self.state.step} steps and {self.state.seconds:.0f} s."
            )

    def not_finite(self, step: int) -> str:
        settings = self.settings
        clip = f"{settings.gradient_clip:g}" if settings.gradient_clip is not None else "null"
        return (
            f"Training {self.name} (seed {self.seed}) met a loss that is not finite at step {step}, "
            f"epoch {self.state.epoch}; try a smaller learning_rate (now {settings.learning_rate:g}), "
            f"a smaller gradient_clip (now {clip}) "
            f"or precision: float32 (now {settings.precision})."
        )


def checkpoint_of(
    section: FamilySection,
    shared: TrainSection,
    prepared: PreparedImages,
    dataset_seed: int,
    device: torch.device,
    seed: int,
) -> Checkpoint:
    """Return the checkpoint of one training run, with a fingerprint that no other run has.

    Args:
        section: section of the model: the family, its hyperparameters and its own changes to ``train``.
        shared: the section ``train``.
        prepared: images with the splits ``train`` and ``validation``.
        dataset_seed: seed of the splits.
        device: device for the work.
        seed: seed of training.
    """
    decides: dict[str, object] = {
        "section": section.model_dump(mode="json"),
        "train": settings_on(device, section, shared).model_dump(mode="json"),
        "data": asdict(prepared.description),
        "labels": {split: sha256(labels) for split, labels in prepared.labels.items()},
        "dataset_seed": dataset_seed,
        "device": device.type,
        "seed": seed,
    }
    if files := section.files("train"):
        decides["files"] = files
    return Checkpoint.of(decides, needed(Path(__file__), *code_of(section.family), *section.code))
