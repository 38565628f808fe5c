r"""The one trainer, for every model.

It maximizes the mean over images of

.. math:: \log \frac1K \sum_{k=1}^{K} w_k(x)

with K = ``train_samples``: maximum likelihood for exact models, the ELBO for K = 1, the
importance-weighted bound of Burda et al. 2016 beyond. A model without trainable weights is fitted
by its ``initialise`` alone.

Images live on the device. Dynamic binarization draws them anew at each presentation. The
validation bound is taken after every epoch with the same ``validation_samples`` and the same
random numbers for every model, and decides which weights are kept and when to stop; the test set
is never seen.

Not here yet: several GPUs, checkpoints.

Invariants (``tests/test_training.py``): one seed gives one set of bytes; the best weights by
validation come back, not the last; every image is presented once an epoch; a loss that is not
finite stops with one sentence.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from bitsperdim.data.preparation import PreparedImages
from bitsperdim.errors import InputError
from bitsperdim.estimation import log_mean_exp
from bitsperdim.families import FamilySection, TrainSection
from bitsperdim.models import ImageModel, build
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
    """

    model: ImageModel
    curve: list[dict[str, float | int]]
    best_epoch: int
    validation_log_p: float


@dataclass(frozen=True)
class Presentation:
    """The training images on the device, drawn anew at each presentation where binarization is dynamic."""

    images: Tensor
    labels: Tensor | None
    train_levels: int
    dynamic: bool

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Present every image once, in random order; the last batch may be smaller."""
        order = torch.randperm(len(self.images), generator=generator, device=self.images.device)
        for index in order.split(batch_size):
            yield self.drawn(self.images[index], generator), None if self.labels is None else self.labels[index]

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
) -> Trained:
    """Train one model with one seed.

    Args:
        name: of the section, for messages.
        section: the family, its hyperparameters and its own changes to ``train``.
        shared: the section ``train``.
        prepared: with the splits ``train`` and ``validation``.
        seed: of the initial weights, the order of the images and all noise.
        device: where the work is done.

    Raises:
        InputError: a loss is not finite, or no epoch had a finite validation bound.
    """
    description = prepared.description
    settings = section.settings(shared)
    model = build(section.family, section.hyperparameters, description.image_shape, description.n_levels, seed=seed).to(
        device
    )
    generator = torch.Generator(device).manual_seed(seed)
    labels = prepared.labels.get("train")
    presentation = Presentation(
        images=torch.from_numpy(prepared.images["train"]).to(device),
        labels=None if labels is None else torch.from_numpy(labels).to(device),
        train_levels=description.train_levels,
        dynamic=description.binarization == "dynamic",
    )
    trainer = _Trainer(name, model, section, settings, presentation, prepared, seed, generator)
    images = presentation.drawn(presentation.images, generator)
    model.initialise(images)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return trainer.run_closed_form(images)
    return trainer.run()


class _Trainer:
    """The state of one training."""

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
    ) -> None:
        self.name, self.model, self.settings, self.seed = name, model, settings, seed
        self.n_samples = section.n_train_samples
        self.presentation, self.generator = presentation, generator
        self.device = presentation.images.device
        self.validation = (
            torch.from_numpy(prepared.images["validation"]).to(self.device),
            torch.from_numpy(prepared.labels["validation"]).to(self.device) if prepared.labels else None,
            torch.from_numpy(prepared.noise["validation"]).to(self.device),
        )
        self.n_steps = settings.epochs * math.ceil(len(presentation.images) / settings.batch_size)
        self.step = 0

    def learning_rate_factor(self, step: int) -> float:
        """Rise linearly over ``warmup_steps`` (at most half of the run), then stay, or fall along a half cosine."""
        warmup = min(self.settings.warmup_steps, self.n_steps // 2)
        if step < warmup:
            return (step + 1) / warmup
        if self.settings.schedule == "constant":
            return 1.0
        progress = (step - warmup) / max(1, self.n_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def run_closed_form(self, images: Tensor) -> Trained:
        """Score the model as ``initialise`` left it: one row, epoch 0."""
        labels = self.presentation.labels
        train_log_p = mean_bound(self.model, images, labels, None, self.settings)
        log_p = mean_bound(self.model, *self.validation, self.settings)
        if math.isnan(log_p):
            raise InputError(f"The closed-form fit of {self.name} gives validation images a likelihood that is NaN.")
        return Trained(self.model, [self.row(0, 0.0, train_log_p, log_p)], 0, log_p)

    def row(self, epoch: int, learning_rate: float, train_log_p: float, log_p: float) -> dict[str, float | int]:
        """Return one row of the training curve."""
        return {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": learning_rate,
            "train_bpd": bits_per_dim(train_log_p, self.model.image_shape),
            "validation_bpd": bits_per_dim(log_p, self.model.image_shape),
            "seed": self.seed,
        }

    def run(self) -> Trained:
        """Train until the last epoch, or until patience runs out."""
        settings = self.settings
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.learning_rate_factor)
        self.average = AveragedModel(self.model, multi_avg_fn=self.update_average) if settings.average_decay else None
        curve: list[dict[str, float | int]] = []
        best_log_p, best_epoch, best_weights = -math.inf, 0, None
        title = f"train {self.name} seed {self.seed}"
        with tqdm(range(1, settings.epochs + 1), desc=title, unit="epoch", disable=None, mininterval=0.5) as bar:
            for epoch in bar:
                learning_rate = self.optimizer.param_groups[0]["lr"]
                train_log_p = self.run_epoch(epoch)
                candidate = self.model if self.average is None else cast(ImageModel, self.average.module)
                log_p = mean_bound(candidate, *self.validation, settings)
                if math.isnan(log_p):
                    raise InputError(self.not_finite(self.step, epoch))
                row = self.row(epoch, learning_rate, train_log_p, log_p)
                curve.append(row)
                bar.set_postfix_str(
                    f"train {row['train_bpd']:.4f}, validation {row['validation_bpd']:.4f} bits/dim ({-log_p:.2f} nats)"
                )
                if log_p > best_log_p:
                    best_log_p, best_epoch = log_p, epoch
                    best_weights = copy.deepcopy(candidate.state_dict())
                elif settings.patience is not None and epoch - best_epoch >= settings.patience:
                    break
        if best_weights is None:
            raise InputError(
                f"Training {self.name} (seed {self.seed}) gave the validation images no mass in any epoch; "
                f"try a smaller learning_rate."
            )
        self.model.load_state_dict(best_weights)
        return Trained(self.model.eval(), curve, best_epoch, best_log_p)

    def run_epoch(self, epoch: int) -> float:
        """Present every image once; return the mean training bound in nats per image."""
        self.model.train()
        losses: list[Tensor] = []  # on the device, looked at from time to time
        n_images: list[int] = []
        first_step = self.step
        for x, labels in self.presentation.batches(self.settings.batch_size, self.generator):
            losses.append(self.take_step(x, labels))
            n_images.append(len(x))
            if len(losses) % CHECK_EVERY == 0:
                self.check(losses[-CHECK_EVERY:], self.step - CHECK_EVERY, epoch)
        self.check(losses, first_step, epoch)
        weights = torch.tensor(n_images, dtype=torch.float64)
        return -float((torch.stack(losses).double().cpu() * weights).sum() / weights.sum())

    def take_step(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Take one step of the optimizer; return the loss in nats per image, detached."""
        precision = DTYPES[self.settings.precision]
        with torch.autocast(self.device.type, dtype=precision, enabled=precision != torch.float32):
            log_w = self.model.log_weights(x, self.n_samples, labels=labels, generator=self.generator)
        loss = -log_mean_exp(log_w).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def update_average(self, average: Iterable[Tensor], current: Iterable[Tensor], _: object) -> None:
        """Move the averaged weights towards the current ones."""
        weight = average_weight(self.settings.average_decay, self.step - 1)
        for kept, new in zip(average, current, strict=True):
            kept.lerp_(new, 1 - weight)

    def check(self, losses: list[Tensor], first_step: int, epoch: int) -> None:
        """Raise InputError at the first loss that is not finite."""
        bad = ~torch.stack(losses).isfinite()
        if bad.any():
            raise InputError(self.not_finite(first_step + int(bad.nonzero()[0]) + 1, epoch))

    def not_finite(self, step: int, epoch: int) -> str:
        settings = self.settings
        clip = f"{settings.gradient_clip:g}" if settings.gradient_clip is not None else "null"
        return (
            f"Training {self.name} (seed {self.seed}) met a loss that is not finite at step {step}, epoch {epoch}; "
            f"try a smaller learning_rate (now {settings.learning_rate:g}), a smaller gradient_clip (now {clip}) "
            f"or precision: float32 (now {settings.precision})."
        )


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
    generator = torch.Generator(device).manual_seed(0)
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
