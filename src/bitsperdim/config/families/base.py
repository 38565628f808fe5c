"""Common parts of the families' typed sections: training, sizes, likelihoods, latent codes, dequantization.

Invariants (``tests/config/test_families.py``): sizes that are far too large give an error message at once, instead of
exhausted memory later (``test_weights_are_foreseen``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from bitsperdim.core.errors import InputError

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=65_536)]
EvenSize = Annotated[int, Field(ge=2, le=65_536, multiple_of=2)]
Dropout = Annotated[float, Field(ge=0, le=0.99)]
Precision = Literal["float32", "bfloat16", "auto"]
SMALLEST_DROPOUT = 1 / 256  # as in models/parts/activations.py, which imports torch
MAX_WEIGHTS = 10**10  # 160 GB with gradients and the two moments of AdamW
Schedule = Literal["constant", "cosine", "exponential", "stages"]
Decay = Annotated[float, Field(ge=0, lt=1)]
LikelihoodName = Literal["bernoulli", "categorical", "logistic", "normal", "coupled_logistic"]  # as in heads.py


def odd(value: int) -> int:
    """Refuse an even number."""
    if value % 2 == 0:
        raise ValueError("odd")
    return value


def rising(values: list[Any]) -> list[Any]:
    """Refuse a list in which a value is not larger than the one before."""
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError("a list of rising numbers")
    return values


@dataclass(frozen=True)
class Images:
    """Properties of the images that are known before the images are prepared.

    Attributes:
        n_levels: L, after quantization or binarization.
        shape: (C, H, W); None: not known yet.
        n_classes: number of classes of the labels, 0 if there are no labels; None: not known yet.
    """

    n_levels: int
    shape: tuple[int, int, int] | None = None
    n_classes: int | None = None


def dense(sizes: Sequence[int]) -> int:
    """Return the number of weights of fully connected layers, without biases."""
    return sum(n_inputs * n_outputs for n_inputs, n_outputs in pairwise(sizes))


class Section(BaseModel):
    """A frozen section of ``params.yaml``, which refuses unknown keys and converts nothing silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TrainSection(Section):
    """The section ``train``; a model's section may override any of its keys under the model's own ``train``."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    seconds: PositiveFloat | None = None
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    learning_rate: PositiveFloat = 0.001
    schedule: Schedule = "cosine"
    final_learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    kl_warmup_steps: Annotated[int, Field(ge=0)] = 0
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: PositiveFloat = 1e-8
    initial_second_moment: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    gradient_clip: PositiveFloat | None = 10.0
    average_decay: Decay = 0.0
    patience: PositiveInt | None = 20
    validation_samples: Annotated[int, Field(ge=1, le=100_000)] = 16
    precision: Precision = "float32"
    compile: bool = False
    capture: bool = False


if TYPE_CHECKING:

    class TrainOverrides(Section):
        """Any subset of the keys of ``train``, for one model."""

else:
    TrainOverrides = create_model(
        "TrainOverrides",
        __base__=Section,
        # a default of None is not validated, so `epochs: null` is still refused
        **{name: (field.rebuild_annotation(), None) for name, field in TrainSection.model_fields.items()},
    )


class FamilySection(Section):
    """Base class of the sections of models, with the family and the model's own changes to ``train``.

    Attributes:
        network: import path of the class of the family's models; a section's own keys are its keyword arguments.
        has_latent_code: whether log p(z) - log q(z given x) is a part of the training objective.
    """

    network: ClassVar[str]
    has_latent_code: ClassVar[bool] = False
    family: str
    train: TrainOverrides = TrainOverrides()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keyword arguments for the family's class."""
        return self.model_dump(exclude={"family", "train", "train_samples", "finetune"})

    @property
    def n_train_samples(self) -> int:
        """K of the training objective: 1 means the ELBO (or, for exact models, the likelihood)."""
        return int(getattr(self, "train_samples", 1))

    def n_train_samples_in(self, epoch: int, n_epochs: int) -> int:
        """Return K of the training objective in one epoch, from 1 to ``n_epochs``."""
        return self.n_train_samples

    def first_finetuned_epoch(self, n_epochs: int) -> int | None:
        """Return the first epoch of fine-tuning; None: there is no fine-tuning."""
        return None

    def check_images(self, name: str, images: Images) -> None:
        """Raise InputError if this model cannot be built for such images, as far as they are known."""

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Raise InputError if this model cannot be trained with these settings.

        The settings include the model's own changes. Refused are a final learning rate that the schedule does not use
        or cannot reach, a warm-up of the KL term without a latent code, and ``compile`` together with ``capture``.
        """
        schedule, final = settings.schedule, settings.final_learning_rate
        here = f"params.yaml: {self.place(name, 'final_learning_rate')} = {final:g} is not allowed with"
        if schedule in ("constant", "stages") and final:
            raise InputError(f"{here} schedule = {schedule!r}, which has a fixed final rate; it must be 0.")
        if schedule == "exponential" and not final:
            raise InputError(f"{here} schedule = 'exponential', which never reaches 0; it must be above 0.")
        if final > settings.learning_rate:
            key = self.place(name, "learning_rate")
            raise InputError(
                f"{here} {key} = {settings.learning_rate:g}, from which the rate falls; it must be at most that."
            )
        if settings.capture and settings.compile:
            raise InputError(
                f"params.yaml: {self.place(name, 'capture')} = true is not allowed with "
                f"{self.place(name, 'compile')} = true; one of them must be false."
            )
        if settings.kl_warmup_steps and not self.has_latent_code:
            raise InputError(
                f"params.yaml: {self.place(name, 'kl_warmup_steps')} = {settings.kl_warmup_steps} is not allowed for "
                f"{name}, which has no latent code; it must be 0 for this model."
            )

    def place(self, name: str, key: str) -> str:
        """Return the full key of a training setting: in this model's section if set there, otherwise in ``train``.

        Args:
            name: name of this section.
            key: key of the setting.
        """
        return f"{name}.train.{key}" if key in self.train.model_fields_set else f"train.{key}"

    def check_files(self, name: str, binarization: str) -> None:
        """Raise InputError if a user's file that this model needs is missing, or cannot be used."""

    def files(self, stage: str) -> dict[str, str]:
        """Return path -> SHA-256 of the user's files that ``train`` or ``evaluate`` of this model reads."""
        return {}

    @property
    def code(self) -> list[Path]:
        """Files of this package that this model needs besides those of its family."""
        return []

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return a close lower bound of the number of weights for images (C, H, W) with L levels."""
        return 0

    def check_size(self, name: str, images: Images) -> None:
        """Refuse sizes that no device can hold; if the images are not known yet, assume the smallest ones."""
        n_weights = self.least_weights(images.shape or (1, 1, 1), images.n_levels)
        if n_weights > MAX_WEIGHTS:
            raise InputError(
                f"params.yaml: the sizes in {name} make a network of {n_weights:.1e} weights or more; at most "
                f"{MAX_WEIGHTS:.0e} are allowed, so choose smaller sizes."
            )

    def settings(self, train: TrainSection) -> TrainSection:
        """Return ``train`` with this model's own overrides."""
        return train.model_copy(update=self.train.model_dump(exclude_unset=True))


def check_dropout(name: str, dropout: float) -> None:
    """Raise InputError if the dropout rate of a model would be rounded to 0."""
    if 0 < dropout < SMALLEST_DROPOUT:
        raise InputError(
            f"params.yaml: {name}.dropout = {dropout} is not allowed; it must be 0, or at least {SMALLEST_DROPOUT}, "
            f"because it is rounded to a multiple of that."
        )


def check_classes(name: str, n_classes: int | None, images: Images) -> None:
    """Check that ``n_classes`` of a model fits the labels of the images.

    Raises:
        InputError: the images have no labels, or more classes; the message says how many.
    """
    if n_classes is None or images.n_classes is None or 0 < images.n_classes <= n_classes:
        return
    there, allowed = (
        (f"whose labels have {images.n_classes} classes", f"at least {images.n_classes}, or null")
        if images.n_classes
        else ("that have no labels", "null")
    )
    raise InputError(
        f"params.yaml: {name}.n_classes = {n_classes} is not allowed with images {there}; it must be {allowed}."
    )


class HeadSection(FamilySection):
    """Base class of the sections whose network can have any likelihood, with the likelihood and its components."""

    likelihood: LikelihoodName = "categorical"
    n_mixtures: Annotated[int, Field(ge=1, le=1_000)] = 1

    def n_groups(self, shape: tuple[int, int, int]) -> int:
        """Return the number of groups of a pixel's channels that a causal network must keep in order."""
        return 1 if self.likelihood == "coupled_logistic" else shape[0]

    def n_outputs(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of a network's outputs for each pixel, or a few less."""
        of_a_channel = {"bernoulli": 1, "categorical": n_levels}.get(self.likelihood, 2 * self.n_mixtures)
        return shape[0] * of_a_channel

    def check_images(self, name: str, images: Images) -> None:
        """Refuse a Bernoulli likelihood for images with more than two levels, and mixtures that have no effect."""
        if self.likelihood == "bernoulli" and images.n_levels != 2:
            raise InputError(
                f"params.yaml: {name}.likelihood = 'bernoulli' needs images of 2 levels, but these have "
                f"{images.n_levels}; "
                f"choose 'categorical', or set dequantize.binarization to 'threshold' or 'dynamic'."
            )
        if self.likelihood in ("bernoulli", "categorical") and self.n_mixtures != 1:
            raise InputError(
                f"params.yaml: {name}.n_mixtures = {self.n_mixtures} is not allowed with likelihood = "
                f"{self.likelihood!r}, because a mixture of several is equal to a single one; it must be 1."
            )


class FinetuneSection(Section):
    """The last epochs of training, with another K."""

    epochs: PositiveInt
    train_samples: Annotated[int, Field(ge=1, le=10_000)]


class LatentSection(HeadSection):
    """Base class of the sections of variational autoencoders, importance-weighted if ``train_samples`` exceeds 1."""

    has_latent_code = True
    train_samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    doubly_reparameterized: bool = False
    finetune: FinetuneSection | None = None

    def n_train_samples_in(self, epoch: int, n_epochs: int) -> int:
        """Return K of the training objective in one epoch, from 1 to ``n_epochs``."""
        first = self.first_finetuned_epoch(n_epochs)
        is_late = first is not None and epoch >= first
        return self.finetune.train_samples if self.finetune is not None and is_late else self.train_samples

    def first_finetuned_epoch(self, n_epochs: int) -> int | None:
        """Return the first epoch of fine-tuning; None: there is no fine-tuning."""
        return None if self.finetune is None else n_epochs - self.finetune.epochs + 1

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Refuse fine-tuning that takes all epochs, or that training might never reach.

        A warm-up of the KL term with doubly reparameterized gradients is refused, too: they are wrong during a warm-up.
        """
        super().check_training(name, settings)
        if settings.kl_warmup_steps and self.doubly_reparameterized:
            raise InputError(
                f"params.yaml: {self.place(name, 'kl_warmup_steps')} = {settings.kl_warmup_steps} is not allowed with "
                f"{name}.doubly_reparameterized = true, whose gradients are right only without a warm-up; it must be 0."
            )
        if self.finetune is None:
            return
        if self.finetune.train_samples == self.train_samples:
            raise InputError(
                f"params.yaml: {name}.finetune.train_samples = {self.finetune.train_samples} is not allowed; it must "
                f"differ from {name}.train_samples."
            )
        if self.finetune.epochs >= settings.epochs:
            raise InputError(
                f"params.yaml: {name}.finetune.epochs = {self.finetune.epochs} is not allowed with {settings.epochs} "
                f"epochs of training; it must be less, since fine-tuning takes the last of these epochs."
            )
        for key, value in (("patience", settings.patience), ("seconds", settings.seconds)):
            if value is not None:
                raise InputError(
                    f"params.yaml: {name}.train.{key} = {value:g} is not allowed with {name}.finetune; it must be "
                    f"null, since training might stop before fine-tuning starts."
                )


class MaskedSection(HeadSection):
    """Base class of the sections of masked convolutions, in which every group of channels has its own feature maps."""

    n_filters: EvenSize  # each family has its own default

    def check_images(self, name: str, images: Images) -> None:
        """Refuse fewer than two feature maps for each group of channels."""
        super().check_images(name, images)
        if images.shape is not None and self.n_filters < (least := 2 * self.n_groups(images.shape)):
            raise InputError(
                f"params.yaml: {name}.n_filters = {self.n_filters} is not allowed with likelihood = "
                f"{self.likelihood!r} and images of {images.shape[0]} channels; it must be at least {least}."
            )


def of_coupling(n_inputs: int, n_filters: int, n_blocks: int, n_outputs: int) -> int:
    """Return the number of weights of the network of one coupling, without biases."""
    return 9 * n_filters * (n_inputs + n_outputs) + 10 * n_blocks * n_filters**2


class VariationalSection(Section):
    """Sizes of the network of learned dequantization noise; other noise has no network."""

    n_couplings: Annotated[int, Field(ge=1, le=100)] = 2
    n_filters: Size = 16
    n_blocks: Annotated[int, Field(ge=0, le=100)] = 1

    def least_weights(self, shape: tuple[int, int, int]) -> int:
        """Return the number of weights of all couplings."""
        return self.n_couplings * of_coupling(2 * shape[0], self.n_filters, self.n_blocks, 2 * shape[0])


class DequantizedSection(FamilySection):
    """Base class of the sections of flows, with the kind of dequantization noise, mainly in training."""

    logit_margin: Annotated[float, Field(ge=0, lt=0.5)] | None = 0.0
    dequantization: Literal["none", "uniform_fixed", "uniform", "variational"] = "uniform"
    variational: VariationalSection = VariationalSection()
    train_samples: Annotated[int, Field(ge=1, le=10_000)] = 1

    def check_images(self, name: str, images: Images) -> None:
        """Refuse several samples of noise if there is no noise."""
        if self.dequantization == "none" and self.train_samples != 1:
            raise InputError(
                f"params.yaml: {name}.train_samples = {self.train_samples} is not allowed with "
                f"{name}.dequantization = 'none'; it must be 1, since there is no noise to sample."
            )

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Refuse ``capture`` for steps whose noise comes from the CPU."""
        super().check_training(name, settings)
        if settings.capture and self.dequantization == "uniform_fixed":
            raise InputError(
                f"params.yaml: {self.place(name, 'capture')} = true is not allowed with {name}.dequantization = "
                f"'uniform_fixed', whose noise comes from the CPU; it must be false."
            )

    def weights_of_noise(self, shape: tuple[int, int, int]) -> int:
        """Return the number of weights of the network of learned noise."""
        return self.variational.least_weights(shape) if self.dequantization == "variational" else 0
