r"""The one trainer, for every model.

It maximizes the mean over images of

.. math:: \log \frac1K \sum_{k=1}^{K} w_k(x)

with K = ``train_samples``, and another K in the last epochs where there is a ``finetune``: maximum likelihood for
exact models, the ELBO for K = 1, the importance-weighted bound of Burda et al. 2016 beyond. A model without trainable
weights is fitted by its ``initialise`` alone.

Images live on the device. Dynamic binarization draws them anew at each presentation; dequantization noise is
fresh too, unless the model asks for noise that is fixed for ever. The
validation bound is taken after every epoch with the same ``validation_samples`` and the same
random numbers for every model, and decides which weights are kept (of the fine-tuned epochs, where there are any) and
when to stop; the test set is never seen.

With a :class:`~bitsperdim.checkpoints.Checkpoint` the whole state is kept from time to time, also in the
middle of an epoch, and the next training of the same fingerprint goes on from there.

Not here yet: several GPUs.

Invariants (``tests/test_training.py``): one seed gives one set of bytes, interrupted or not; the best
weights by validation come back, not the last; every image is presented once an epoch; a loss that is
not finite stops with one sentence.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from bitsperdim.checkpoints import Checkpoint
from bitsperdim.data.preparation import PreparedImages
from bitsperdim.errors import InputError
from bitsperdim.estimation import log_mean_exp
from bitsperdim.families import FamilySection, TrainSection
from bitsperdim.models import ImageModel, build, check_labels
from bitsperdim.randomness import stream
from bitsperdim.units import bits_per_dim

CHECK_EVERY = 100  # steps between two looks at the losses, each of which waits for the device
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CURVE_COLUMNS = ("epoch", "step", "learning_rate", "train_bpd", "validation_bpd", "seed")


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about.

    Attributes:
        model: with the best weights by validation, in evaluation mode.
        curve: one row per epoch, the keys :data:`CURVE_COLUMNS`.
        best_epoch: the epoch of the weights; 0 for a closed-form model.
        validation_log_p: the mean validation bound at that epoch, nats per image.
        seconds: of all the runs that it took, without what an interruption threw away.
    """

    model: ImageModel
    curve: list[dict[str, float | int]]
    best_epoch: int
    validation_log_p: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Presentation:
    """The training images on the device, drawn anew at each presentation where binarization is dynamic.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        train_levels: of the images before binarization.
        dynamic: whether they are binarized at each presentation.
        noise_seed: of dequantization noise that each image keeps for ever; None where the model draws its own.
        n_samples: K of the objective.
    """

    images: Tensor
    labels: Tensor | None
    train_levels: int
    dynamic: bool
    noise_seed: int | None = None
    n_samples: int = 1

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the rows of all images in random order, (N,): one epoch."""
        return torch.randperm(len(self.images), generator=generator, device=self.images.device)

    def batches(self, order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
        """Split an epoch into batches of rows; the last may be smaller."""
        return order.split(batch_size)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the images of some rows as the model sees them, their labels, and their noise if it is fixed."""
        labels = None if self.labels is None else self.labels[index]
        return self.drawn(self.images[index], generator), labels, self.fixed_noise(index)

    def fixed_noise(self, index: Tensor) -> Tensor | None:
        """Return the dequantization noise of some rows, (K, B, C, H, W) in [0, 1), the same whenever they come."""
        if self.noise_seed is None:
            return None
        shape = (self.n_samples, *self.images.shape[1:])
        # each image has a generator of its own, so that none is stored; torch's would ignore all but 32 bits of a seed
        keys = [np.array([self.noise_seed, row], dtype=np.uint64) for row in index.tolist()]
        draws = [np.random.Generator(np.random.Philox(key=key)).random(shape, dtype=np.float32) for key in keys]
        return torch.from_numpy(np.stack(draws, axis=1)).to(self.images.device)

    def drawn(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Binarize with probability x / (L-1) where binarization is dynamic; else return the images."""
        if not self.dynamic:
            return images
        uniform = torch.rand(images.shape, generator=generator, device=images.device)
        return (uniform * (self.train_levels - 1) < images).to(torch.uint8)


def train(
    name: str,
    section: FamilySection,
    shared: TrainSection,
    prepared: PreparedImages,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train one model with one seed.

    Args:
        name: of the section, for messages.
        section: the family, its hyperparameters and its own changes to ``train``.
        shared: the section ``train``.
        prepared: with the splits ``train`` and ``validation``.
        seed: of the initial weights, the order of the images and all noise.
        device: where the work is done.
        checkpoint: where the state of an unfinished training is kept; None: nowhere.

    Raises:
        InputError: a loss is not finite, or no epoch had a finite validation bound.
    """
    description = prepared.description
    settings = section.settings(shared)
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
    trainer = _Trainer(name, model, section, settings, presentation, prepared, seed, generator, checkpoint)
    images = presentation.drawn(presentation.images, generator)
    model.initialise(images)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return trainer.run_closed_form(images)
    return trainer.run()


@dataclass
class _State:
    """The numbers of a training that is under way.

    Attributes:
        step: taken so far.
        epoch: the one that is being trained, from 1.
        curve: a row for each finished epoch.
        best_log_p, best_epoch: by validation.
        last_log_p: the validation bound of the last finished epoch.
        seconds: of this run and those before it.
    """

    step: int = 0
    epoch: int = 1
    curve: list[dict[str, float | int]] = field(default_factory=list)
    best_log_p: float = -math.inf
    best_epoch: int = 0
    last_log_p: float = -math.inf
    seconds: float = 0.0


class _Trainer:
    """One training: the model, what it is shown, and how far it has come."""

    def __init__(
        self,
        name: str,
        model: ImageModel,
        section: FamilySection,
        settings: TrainSection,
        presentation: Presentation,
        prepared: PreparedImages,
        seed: int,
        generator: torch.Generator,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.name, self.model, self.settings, self.seed = name, model, settings, seed
        self.section = section
        self.presentation, self.generator, self.checkpoint = presentation, generator, checkpoint
        self.device = presentation.images.device
        self.validation = (
            torch.from_numpy(prepared.images["validation"]).to(self.device),
            torch.from_numpy(prepared.labels["validation"]).to(self.device) if prepared.labels else None,
            torch.from_numpy(prepared.noise["validation"]).to(self.device),
        )
        self.n_steps = settings.epochs * math.ceil(len(presentation.images) / settings.batch_size)
        self.state = _State()
        self.order: Tensor | None = None  # of the images in this epoch; None between two epochs
        self.losses: list[Tensor] = []  # of this epoch, on the device, looked at from time to time
        self.best_weights: dict[str, Tensor] | None = None
        self.started = self.saved = time.monotonic()

    def learning_rate(self, step: int) -> float:
        """Rise linearly over ``warmup_steps`` (at most half of the run), then stay, or fall along a half cosine."""
        highest, warmup = self.settings.learning_rate, min(self.settings.warmup_steps, self.n_steps // 2)
        if step < warmup:
            return highest * (step + 1) / warmup
        if self.settings.schedule == "constant":
            return highest
        progress = (step - warmup) / max(1, self.n_steps - warmup)
        return highest * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def run_closed_form(self, images: Tensor) -> Trained:
        """Score the model as ``initialise`` left it: one row, epoch 0."""
        labels = self.presentation.labels
        train_log_p = mean_bound(self.model, images, labels, None, self.settings)
        log_p = mean_bound(self.model, *self.validation, self.settings)
        if math.isnan(log_p):
            raise InputError(f"The closed-form fit of {self.name} gives validation images a likelihood that is NaN.")
        return Trained(self.model, [self.row(0, 0.0, train_log_p, log_p)], 0, log_p, time.monotonic() - self.started)

    def row(self, epoch: int, learning_rate: float, train_log_p: float, log_p: float) -> dict[str, float | int]:
        """Return one row of the training curve."""
        return {
            "epoch": epoch,
            "step": self.state.step,
            "learning_rate": learning_rate,
            "train_bpd": bits_per_dim(train_log_p, self.model.image_shape),
            "validation_bpd": bits_per_dim(log_p, self.model.image_shape),
            "seed": self.seed,
        }

    def run(self) -> Trained:
        """Train until the last epoch, or until patience runs out; go on from a checkpoint where there is one."""
        settings, state = self.settings, self.state
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.average = AveragedModel(self.model, multi_avg_fn=self.update_average) if settings.average_decay else None
        self.resume()
        title = f"train {self.name} seed {self.seed}"
        with tqdm(
            total=settings.epochs, initial=state.epoch - 1, desc=title, unit="epoch", disable=None, mininterval=0.5
        ) as bar:
            while not self.finished:
                row = self.run_epoch()
                bar.set_postfix_str(
                    f"train {row['train_bpd']:.4f}, validation {row['validation_bpd']:.4f} bits/dim "
                    f"({-state.last_log_p:.2f} nats)"
                )
                bar.update()
                self.save_if_due()
        if self.best_weights is None:
            raise InputError(
                f"Training {self.name} (seed {self.seed}) gave the validation images no mass in any epoch; "
                f"try a smaller learning_rate."
            )
        if self.checkpoint is not None and self.seconds > self.checkpoint.interval:
            self.save()  # should a later seed of the same stage be interrupted
        self.model.load_state_dict(self.best_weights)
        return Trained(self.model.eval(), state.curve, state.best_epoch, state.best_log_p, self.seconds)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left, or patience has run out."""
        n_done, patience = self.state.epoch - 1, self.settings.patience
        return n_done >= self.settings.epochs or (patience is not None and n_done - self.state.best_epoch >= patience)

    @property
    def seconds(self) -> float:
        """Of this run and those before it."""
        return self.state.seconds + time.monotonic() - self.started

    def run_epoch(self) -> dict[str, float | int]:
        """Present every image once (after an interruption those that are left), then validate; return the row."""
        state = self.state
        self.model.train()
        if self.order is None:
            self.order = self.presentation.order(self.generator)
        batches = self.presentation.batches(self.order, self.settings.batch_size)
        for index in batches[len(self.losses) :]:
            self.losses.append(self.take_step(*self.presentation.batch(index, self.generator)))
            if len(self.losses) % CHECK_EVERY == 0:
                self.check_losses(CHECK_EVERY)
            self.save_if_due()
        self.check_losses(len(self.losses))
        candidate = self.model if self.average is None else cast(ImageModel, self.average.module)
        log_p = mean_bound(candidate, *self.validation, self.settings)
        if math.isnan(log_p):
            raise InputError(self.not_finite(state.step))
        n_images = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
        train_log_p = -float((torch.stack(self.losses).double().cpu() * n_images).sum() / n_images.sum())
        row = self.row(state.epoch, self.learning_rate(state.step - len(batches)), train_log_p, log_p)
        state.curve.append(row)
        state.last_log_p = log_p
        if state.epoch == self.section.first_finetuned_epoch(self.settings.epochs):
            state.best_log_p = -math.inf  # the weights that are kept are fine-tuned ones
        if log_p > state.best_log_p:
            state.best_log_p, state.best_epoch = log_p, state.epoch
            self.best_weights = copy.deepcopy(candidate.state_dict())
        state.epoch += 1
        self.order, self.losses = None, []
        return row

    def take_step(self, x: Tensor, labels: Tensor | None, noise: Tensor | None) -> Tensor:
        """Take one step of the optimizer; return the loss in nats per image, detached."""
        precision = DTYPES[self.settings.precision]
        n_samples = self.section.n_train_samples_in(self.state.epoch, self.settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.state.step)
        with torch.autocast(self.device.type, dtype=precision, enabled=precision != torch.float32):
            log_w = self.model.log_weights(x, n_samples, labels=labels, generator=self.generator, noise=noise)
        loss = -log_mean_exp(log_w).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.state.step += 1
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def update_average(self, average: Iterable[Tensor], current: Iterable[Tensor], _: object) -> None:
        """Move the averaged weights towards the current ones."""
        weight = average_weight(self.settings.average_decay, self.state.step - 1)
        for kept, new in zip(average, current, strict=True):
            kept.lerp_(new, 1 - weight)

    def check_losses(self, n_last: int) -> None:
        """Raise InputError where one of the last losses is not finite."""
        bad = ~torch.stack(self.losses[-n_last:]).isfinite()
        if bad.any():
            raise InputError(self.not_finite(self.state.step - n_last + int(bad.nonzero()[0]) + 1))

    def save_if_due(self) -> None:
        """Save the state where the last one is older than the checkpoint's interval."""
        if self.checkpoint is not None and time.monotonic() - self.saved >= self.checkpoint.interval:
            self.save()

    def save(self) -> None:
        """Write the whole state: what :meth:`resume` reads."""
        if self.checkpoint is None:
            return
        if self.losses:
            self.check_losses(len(self.losses))
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        parts: dict[str, dict[str, Tensor]] = {"model": self.model.state_dict(), "best": self.best_weights or {}}
        parts["average"] = {} if self.average is None else self.average.state_dict()
        for number, values in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer.{number}"] = values
        for part, values in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in values.items()}
        if self.order is not None:
            tensors["order"] = self.order
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        self.checkpoint.save(tensors, asdict(self.state) | {"seconds": self.seconds})
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        found = None if self.checkpoint is None else self.checkpoint.load()
        if found is None:
            return
        tensors, values = found
        for name, value in values.items():
            setattr(self.state, name, value)

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        if self.average is not None:
            self.average.load_state_dict(part("average."))
        self.best_weights = {name: tensor.to(self.device) for name, tensor in part("best.").items()} or None
        content: dict[str, Any] = self.optimizer.state_dict()
        for number, parameter in enumerate(self.model.parameters()):
            if moments := part(f"optimizer.{number}."):
                content["state"][number] = {name: laid_out(value, parameter) for name, value in moments.items()}
        self.optimizer.load_state_dict(content)
        self.generator.set_state(tensors["generator"])
        self.order = tensors["order"].to(self.device) if "order" in tensors else None
        self.losses = list(tensors["losses"].to(self.device).unbind()) if "losses" in tensors else []
        print(
            f"{self.name} seed {self.seed}: goes on from a checkpoint in epoch {self.state.epoch}, "
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


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor`` with the strides of a parameter: a fused optimizer walks both through memory as they lie."""
    return torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor


def average_weight(decay: float, n_averaged: int) -> float:
    """Return the weight of the past in a moving average: it rises to ``decay``, so that the start is forgotten."""
    return min(decay, (1 + n_averaged) / (10 + n_averaged))


@torch.no_grad()
def mean_bound(
    model: ImageModel, images: Tensor, labels: Tensor | None, noise: Tensor | None, settings: TrainSection
) -> float:
    """Return the mean over images of the bound with ``validation_samples``, nats, always on the same random numbers.

    Args:
        model: on the device of the images; left in evaluation mode.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        noise: (N, C, H, W), the dequantization noise of the first sample.
        settings: batch size, samples and precision.
    """
    model.eval()
    device = images.device
    generator = stream("validation", device=device)
    precision = DTYPES[settings.precision]
    total = 0.0
    for start in range(0, len(images), settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            log_w = model.log_weights(
                images[rows],
                settings.validation_samples,
                labels=None if labels is None else labels[rows],
                generator=generator,
                noise=None if noise is None else noise[rows],
            )
        total += float(log_mean_exp(log_w.double()).sum())
    return total / len(images)
