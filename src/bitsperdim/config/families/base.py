"""What the typed sections of several families have in common: sizes, likelihoods, latent codes, dequantization.

Invariants (``tests/config/test_families.py``): some zeros too many are a sentence at once and not an exhausted memory
later (``test_weights_are_foreseen``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from bitsperdim.core.errors import InputError

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=65_536)]
EvenSize = Annotated[int, Field(ge=2, le=65_536, multiple_of=2)]
Precision = Literal["float32", "bfloat16", "auto"]
MAX_WEIGHTS = 10**10  # with gradients and the two moments of AdamW 160 GB
Schedule = Literal["constant", "cosine", "exponential", "stages"]
Decay = Annotated[float, Field(ge=0, lt=1)]
LikelihoodName = Literal["bernoulli", "categorical", "logistic", "normal", "coupled_logistic"]  # as in heads.py


def odd(value: int) -> int:
    """Refuse an even number."""
    if value % 2 == 0:
        raise ValueError("odd")
    return value


def rising(values: list[Any]) -> list[Any]:
    """Refuse a list in which a value is not above the one before."""
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError("a list of rising numbers")
    return values


@dataclass(frozen=True)
class Images:
    """What is known of the images before they are there.

    Attributes:
        n_levels: L, as the models see them.
        shape: (C, H, W); None where it is not known yet.
        n_classes: of the labels, 0 where there are none; None where it is not known yet.
    """

    n_levels: int
    shape: tuple[int, int, int] | None = None
    n_classes: int | None = None


def dense(sizes: Sequence[int]) -> int:
    """Return the number of weights of fully connected layers, without biases."""
    return sum(n_inputs * n_outputs for n_inputs, n_outputs in pairwise(sizes))


class Section(BaseModel):
    """A frozen section of ``params.yaml``: no unknown key, no silent conversion; defaults may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TrainSection(Section):
    """The trainer (section ``train``); a model's section may override any of these under its own ``train``."""

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
    """What the section of every model has: its family, and its own changes to ``train``.

    Attributes:
        network: the class of the family's models, by its path; a section's own keys are its keyword arguments.
        has_latent_code: whether log p(z) - log q(z given x) is a part of its objective.
    """

    network: ClassVar[str]
    has_latent_code: ClassVar[bool] = False
    family: str
    train: TrainOverrides = TrainOverrides()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments of the family's class."""
        return self.model_dump(exclude={"family", "train", "train_samples", "finetune"})

    @property
    def n_train_samples(self) -> int:
        """The K of the training objective: 1 is the ELBO (or, for exact models, the likelihood)."""
        return int(getattr(self, "train_samples", 1))

    def n_train_samples_in(self, epoch: int, n_epochs: int) -> int:
        """The K of the training objective in one epoch, from 1 to ``n_epochs``."""
        return self.n_train_samples

    def first_finetuned_epoch(self, n_epochs: int) -> int | None:
        """The first epoch of the fine-tuning; None where there is none."""
        return None

    def check_images(self, name: str, images: Images) -> None:
        """Raise InputError where this model cannot be built for such images, as far as they are known."""

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Raise InputError where this model cannot be trained with these settings, which are its own already.

        Here: a final learning rate that its schedule does not have or cannot reach, a warm-up of a term that is not
        there, and two ways at once to make a step faster.
        """
        schedule, final = settings.schedule, settings.final_learning_rate
        here = f"params.yaml: {self.place(name, 'final_learning_rate')} = {final:g} is not allowed with"
        if schedule in ("constant", "stages") and final:
            raise InputError(f"{here} schedule = {schedule!r}, which says itself how the rate ends; it must be 0.")
        if schedule == "exponential" and not final:
            raise InputError(f"{here} schedule = 'exponential', which never comes to 0; it must be above 0.")
        if final > settings.learning_rate:
            key = self.place(name, "learning_rate")
            raise InputError(
                f"{here} {key} = {settings.learning_rate:g}, from which it falls; it must be at most that."
            )
        if settings.capture and settings.compile:
            raise InputError(
                f"params.yaml: {self.place(name, 'capture')} = true is not allowed with "
                f"{self.place(name, 'compile')} = true; one of them must be false."
            )
        if settings.kl_warmup_steps and not self.has_latent_code:
            raise InputError(
                f"params.yaml: {self.place(name, 'kl_warmup_steps')} = {settings.kl_warmup_steps} is not allowed for "
                f"{name}, which has no latent code; it must be 0 there."
            )

    def place(self, name: str, key: str) -> str:
        """Return where a setting of the training stands: in this section, which has a name, or in ``train``."""
        return f"{name}.train.{key}" if key in self.train.model_fields_set else f"train.{key}"

    def check_files(self, name: str, binarization: str) -> None:
        """Raise InputError where a file beside the package that this model needs is not there, or not usable."""

    def files(self, stage: str) -> dict[str, str]:
        """Return path -> SHA-256 of the files beside the package that ``train`` or ``evaluate`` of this model reads."""
        return {}

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return a number of weights that this model exceeds for images (C, H, W) of L levels, but not by far."""
        return 0

    def check_size(self, name: str, images: Images) -> None:
        """Refuse sizes that no device holds; of images that are not known yet, for the smallest ones."""
        n_weights = self.least_weights(images.shape or (1, 1, 1), images.n_levels)
        if n_weights > MAX_WEIGHTS:
            raise InputError(
                f"params.yaml: the sizes in {name} make a network of {n_weights:.1e} weights or more; at most "
                f"{MAX_WEIGHTS:.0e} are allowed, so choose smaller ones."
            )

    def settings(self, train: TrainSection) -> TrainSection:
        """Return ``train`` with this model's own overrides."""
        return train.model_copy(update=self.train.model_dump(exclude_unset=True))


def check_classes(name: str, n_classes: int | None, images: Images) -> None:
    """Refuse to be given classes of images that have no labels, or more of them.

    Raises:
        InputError: saying how many there are.
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
    """What every section has whose network may have any likelihood: which one, and of how many components."""

    likelihood: LikelihoodName = "categorical"
    n_mixtures: Annotated[int, Field(ge=1, le=1_000)] = 1

    def n_groups(self, shape: tuple[int, int, int]) -> int:
        """Into how many groups the channels of a pixel fall that a causal network has to keep in order."""
        return 1 if self.likelihood == "coupled_logistic" else shape[0]

    def n_outputs(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """How many outputs a network has for each pixel, or a few less."""
        of_a_channel = {"bernoulli": 1, "categorical": n_levels}.get(self.likelihood, 2 * self.n_mixtures)
        return shape[0] * of_a_channel

    def check_images(self, name: str, images: Images) -> None:
        """Refuse a Bernoulli likelihood for images of more than two levels, and mixtures that add nothing."""
        if self.likelihood == "bernoulli" and images.n_levels != 2:
            raise InputError(
                f"params.yaml: {name}.likelihood = 'bernoulli' needs images of 2 levels, but these have "
                f"{images.n_levels}; "
                f"choose 'categorical', or set dequantize.binarization to 'threshold' or 'dynamic'."
            )
        if self.likelihood in ("bernoulli", "categorical") and self.n_mixtures != 1:
            raise InputError(
                f"params.yaml: {name}.n_mixtures = {self.n_mixtures} is not allowed with likelihood = "
                f"{self.likelihood!r}, of which a mixture is no more than one; write 1."
            )


class FinetuneSection(Section):
    """The last epochs of a training, with another K."""

    epochs: PositiveInt
    train_samples: Annotated[int, Field(ge=1, le=10_000)]


class LatentSection(HeadSection):
    """What both variational autoencoders have; ``train_samples`` above 1 makes them importance-weighted."""

    has_latent_code = True
    train_samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    doubly_reparameterized: bool = False
    finetune: FinetuneSection | None = None

    def n_train_samples_in(self, epoch: int, n_epochs: int) -> int:
        """The K of the training objective in one epoch, from 1 to ``n_epochs``."""
        first = self.first_finetuned_epoch(n_epochs)
        is_late = first is not None and epoch >= first
        return self.finetune.train_samples if self.finetune is not None and is_late else self.train_samples

    def first_finetuned_epoch(self, n_epochs: int) -> int | None:
        """The first epoch of the fine-tuning; None where there is none."""
        return None if self.finetune is None else n_epochs - self.finetune.epochs + 1

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Refuse a fine-tuning that is all of the training, or that it may never come to.

        And a warm-up of the KL term with derivatives that hold without one alone.
        """
        super().check_training(name, settings)
        if settings.kl_warmup_steps and self.doubly_reparameterized:
            raise InputError(
                f"params.yaml: {self.place(name, 'kl_warmup_steps')} = {settings.kl_warmup_steps} is not allowed with "
                f"{name}.doubly_reparameterized = true, whose derivatives are those of the bound itself; it must be 0."
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
                f"epochs; it must be below, since these are the last of them."
            )
        for key, value in (("patience", settings.patience), ("seconds", settings.seconds)):
            if value is not None:
                raise InputError(
                    f"params.yaml: {name}.train.{key} = {value:g} is not allowed with {name}.finetune; it must be "
                    f"null, since training might stop before it comes to that."
                )


class MaskedSection(HeadSection):
    """What both networks of masked convolutions have: every group of channels has maps of its own."""

    n_filters: EvenSize  # each family has a default of its own

    def check_images(self, name: str, images: Images) -> None:
        """Refuse fewer than two maps for each group of channels."""
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
    """The sizes of learned dequantization noise; other noise has none."""

    n_couplings: Annotated[int, Field(ge=1, le=100)] = 2
    n_filters: Size = 16
    n_blocks: Annotated[int, Field(ge=0, le=100)] = 1

    def least_weights(self, shape: tuple[int, int, int]) -> int:
        """Return the number of weights of all couplings."""
        return self.n_couplings * of_coupling(2 * shape[0], self.n_filters, self.n_blocks, 2 * shape[0])


class DequantizedSection(FamilySection):
    """What every flow has: how its images are dequantized, in training above all."""

    logit_margin: Annotated[float, Field(ge=0, lt=0.5)] | None = 0.0
    dequantization: Literal["none", "uniform_fixed", "uniform", "variational"] = "uniform"
    variational: VariationalSection = VariationalSection()
    train_samples: Annotated[int, Field(ge=1, le=10_000)] = 1

    def check_images(self, name: str, images: Images) -> None:
        """Refuse several samples of no noise."""
        if self.dequantization == "none" and self.train_samples != 1:
            raise InputError(
                f"params.yaml: {name}.train_samples = {self.train_samples} is not allowed with "
                f"{name}.dequantization = 'none'; it must be 1, since there is no noise to sample."
            )

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Refuse to record steps whose noise comes from the CPU."""
        super().check_training(name, settings)
        if settings.capture and self.dequantization == "uniform_fixed":
            raise InputError(
                f"params.yaml: {self.place(name, 'capture')} = true is not allowed with {name}.dequantization = "
                f"'uniform_fixed', whose noise comes from the CPU; it must be false."
            )

    def weights_of_noise(self, shape: tuple[int, int, int]) -> int:
        """Return the number of weights of learned noise."""
        return self.variational.least_weights(shape) if self.dequantization == "variational" else 0
