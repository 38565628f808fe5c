"""The typed parameter section of every model family; the keys are those of :data:`bitsperdim.models.MODELS`.

Kept apart from the models so that ``preflight`` can check the parameters without importing torch.
:meth:`FamilySection.least_weights` knows the sizes of their networks as well, so that some zeros too many are a
sentence at once and not an exhausted memory later (``tests/config/test_families.py::test_weights_are_foreseen``).
A section's own keys are the keyword arguments of the family's class (``tests/models/test_every_model.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from bitsperdim.core.errors import InputError

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Precision = Literal["float32", "bfloat16"]
SMALLEST_DROPOUT = 1 / 256  # as in models/activations.py, which imports torch
MAX_WEIGHTS = 10**10  # with gradients and the two moments of AdamW 160 GB
Schedule = Literal["constant", "cosine"]
LikelihoodName = Literal["bernoulli", "categorical", "logistic", "normal", "coupled_logistic"]  # as in heads.py


def odd(value: int) -> int:
    """Refuse an even number."""
    if value % 2 == 0:
        raise ValueError("odd")
    return value


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
    """A frozen section of ``params.yaml``: no unknown key, no missing key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TrainSection(Section):
    """The trainer (section ``train``); a model's section may override any of these under its own ``train``."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    learning_rate: PositiveFloat
    schedule: Schedule
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    gradient_clip: PositiveFloat | None
    average_decay: Annotated[float, Field(ge=0, lt=1)]
    patience: PositiveInt | None
    validation_samples: Annotated[int, Field(ge=1, le=100_000)]
    precision: Precision
    compile: bool


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
    """What the section of every model has: its family, and its own changes to ``train``."""

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
        """Raise InputError where this model cannot be trained with these settings, which are its own already."""

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


class HistogramSection(FamilySection):
    """Every sub-pixel on its own: counts with a pseudocount."""

    family: Literal["histogram"]
    pseudocount: PositiveFloat

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of its counts."""
        return math.prod(shape) * n_levels


class GaussianSection(FamilySection):
    """A multivariate normal density of dequantized images, in closed form."""

    family: Literal["gaussian"]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of covariances."""
        return math.prod(shape) ** 2


class HeadSection(FamilySection):
    """What every section has whose network may have any likelihood: which one, and of how many components."""

    likelihood: LikelihoodName
    n_mixtures: Annotated[int, Field(ge=1, le=1_000)]

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

    train_samples: Annotated[int, Field(ge=1, le=10_000)]
    doubly_reparameterized: bool
    finetune: FinetuneSection | None

    def n_train_samples_in(self, epoch: int, n_epochs: int) -> int:
        """The K of the training objective in one epoch, from 1 to ``n_epochs``."""
        first = self.first_finetuned_epoch(n_epochs)
        is_late = first is not None and epoch >= first
        return self.finetune.train_samples if self.finetune is not None and is_late else self.train_samples

    def first_finetuned_epoch(self, n_epochs: int) -> int | None:
        """The first epoch of the fine-tuning; None where there is none."""
        return None if self.finetune is None else n_epochs - self.finetune.epochs + 1

    def check_training(self, name: str, settings: TrainSection) -> None:
        """Refuse a fine-tuning that is all of the training, or that it may never come to."""
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
        if settings.patience is not None:
            raise InputError(
                f"params.yaml: {name}.train.patience = {settings.patience} is not allowed with {name}.finetune; it "
                f"must be null, since training might stop before it comes to that."
            )


class StochasticLayer(Section):
    """A further stochastic layer of a VAE, and the hidden layers of its encoder."""

    latent_size: Size
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]


class VAESection(LatentSection):
    """A variational autoencoder of fully connected layers."""

    family: Literal["vae"]
    latent_size: Size
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]
    deeper: Annotated[list[StochasticLayer], Field(max_length=16)]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of all encoders and decoders."""
        n_outputs = shape[1] * shape[2] * self.n_outputs(shape, n_levels)
        first = [*self.hidden_sizes, self.latent_size]
        total, below = dense([math.prod(shape), *first]) + dense([n_outputs, *first]), self.latent_size
        for layer in self.deeper:
            total += 2 * dense([below, *layer.hidden_sizes, layer.latent_size])
            below = layer.latent_size
        return total


class ConvVAESection(LatentSection):
    """A variational autoencoder of convolutions."""

    family: Literal["conv_vae"]
    latent_maps: Size
    n_scales: Annotated[int, Field(ge=1, le=16)]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=0, le=1_000)]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of its 3x3 convolutions between hidden maps, and of the last."""
        n_convolutions = 2 * (2 * self.n_scales * self.n_blocks + self.n_scales - 1)
        ends = 3 * self.latent_maps + self.n_outputs(shape, n_levels)
        return 9 * n_convolutions * self.n_filters**2 + ends * self.n_filters


class MaskedSection(HeadSection):
    """What both networks of masked convolutions have: every group of channels has maps of its own."""

    n_filters: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)]

    def check_images(self, name: str, images: Images) -> None:
        """Refuse fewer than two maps for each group of channels."""
        super().check_images(name, images)
        if images.shape is not None and self.n_filters < (least := 2 * self.n_groups(images.shape)):
            raise InputError(
                f"params.yaml: {name}.n_filters = {self.n_filters} is not allowed with likelihood = "
                f"{self.likelihood!r} and images of {images.shape[0]} channels; it must be at least {least}."
            )


class PixelCNNSection(MaskedSection):
    """A PixelCNN of masked convolutions."""

    family: Literal["pixelcnn"]
    n_blocks: Annotated[int, Field(ge=1, le=1_000)]
    kernel_size: Annotated[int, Field(ge=3, le=101), AfterValidator(odd)]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the first convolution, the blocks and the outputs."""
        ends = shape[0] * self.kernel_size * (self.kernel_size // 2 + 1) + self.n_outputs(shape, n_levels)
        return self.n_filters * ends + (5 * self.n_blocks + 2) * self.n_filters**2 // 2


class GatedPixelCNNSection(MaskedSection):
    """A gated PixelCNN of a vertical and a horizontal stack, given the class if ``n_classes`` is a number."""

    family: Literal["gated_pixelcnn"]
    n_layers: Annotated[int, Field(ge=1, le=1_000)]
    kernel_size: Annotated[int, Field(ge=3, le=101), AfterValidator(odd)]
    n_classes: Annotated[int, Field(ge=2, le=65_536)] | None

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the first convolution, the other layers, the classes and the outputs."""
        ends = shape[0] * self.kernel_size * (self.kernel_size - 1) + self.n_outputs(shape, n_levels)
        of_classes = 4 * self.n_layers * (self.n_classes or 0)
        return self.n_filters * (ends + of_classes) + (21 * self.n_layers + 6) * self.n_filters**2

    def check_images(self, name: str, images: Images) -> None:
        """Refuse to be given classes of images that have no labels, or more of them."""
        super().check_images(name, images)
        if self.n_classes is None or images.n_classes is None or 0 < images.n_classes <= self.n_classes:
            return
        there, allowed = (
            (f"whose labels have {images.n_classes} classes", f"at least {images.n_classes}, or null")
            if images.n_classes
            else ("that have no labels", "null")
        )
        raise InputError(
            f"params.yaml: {name}.n_classes = {self.n_classes} is not allowed with images {there}; "
            f"it must be {allowed}."
        )


class PixelCNNppSection(HeadSection):
    """A PixelCNN++ of two shifted streams at several scales."""

    family: Literal["pixelcnn_pp"]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=1, le=1_000)]
    n_scales: Annotated[int, Field(ge=1, le=16)]
    dropout: Annotated[float, Field(ge=0, le=0.99)]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of the blocks of both streams, there and back, and of the outputs."""
        n_blocks = self.n_scales * (2 * self.n_blocks + 1) - 1
        return 60 * n_blocks * self.n_filters**2 + self.n_filters * self.n_outputs(shape, n_levels)

    def check_images(self, name: str, images: Images) -> None:
        """Refuse likelihoods of channels one by one, and dropout that would round to none."""
        super().check_images(name, images)
        if images.shape is not None and self.n_groups(images.shape) != 1:
            raise InputError(
                f"params.yaml: {name}.likelihood = {self.likelihood!r} is not allowed with images of "
                f"{images.shape[0]} channels; it must be 'coupled_logistic'."
            )
        if 0 < self.dropout < SMALLEST_DROPOUT:
            raise InputError(
                f"params.yaml: {name}.dropout = {self.dropout} is not allowed; it must be 0, or at least "
                f"{SMALLEST_DROPOUT}, of which it is rounded to a multiple."
            )


def of_coupling(n_inputs: int, n_filters: int, n_blocks: int, n_outputs: int) -> int:
    """Return the number of weights of the network of one coupling, without biases."""
    return 9 * n_filters * (n_inputs + n_outputs) + 10 * n_blocks * n_filters**2


class VariationalSection(Section):
    """The sizes of learned dequantization noise; other noise has none."""

    n_couplings: Annotated[int, Field(ge=1, le=100)]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=0, le=100)]

    def least_weights(self, shape: tuple[int, int, int]) -> int:
        """Return the number of weights of all couplings."""
        return self.n_couplings * of_coupling(2 * shape[0], self.n_filters, self.n_blocks, 2 * shape[0])


class DequantizedSection(FamilySection):
    """What every flow has: how its images are dequantized, in training above all."""

    logit_margin: Annotated[float, Field(ge=0, lt=0.5)] | None
    dequantization: Literal["none", "uniform_fixed", "uniform", "variational"]
    variational: VariationalSection
    train_samples: Annotated[int, Field(ge=1, le=10_000)]

    def check_images(self, name: str, images: Images) -> None:
        """Refuse several samples of no noise."""
        if self.dequantization == "none" and self.train_samples != 1:
            raise InputError(
                f"params.yaml: {name}.train_samples = {self.train_samples} is not allowed with "
                f"{name}.dequantization = 'none'; it must be 1, since there is no noise to sample."
            )

    def weights_of_noise(self, shape: tuple[int, int, int]) -> int:
        """Return the number of weights of learned noise."""
        return self.variational.least_weights(shape) if self.dequantization == "variational" else 0


class FlowSection(DequantizedSection):
    """An autoregressive flow of dequantized images: affine (maf) or monotonic splines (nsf)."""

    family: Literal["flow"]
    transform: Literal["maf", "nsf"]
    n_transforms: Annotated[int, Field(ge=1, le=1_000)]
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]
    n_bins: Annotated[int, Field(ge=2, le=1_000)]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights, masked ones too, and those of learned noise."""
        n_dims = math.prod(shape)
        n_outputs = n_dims * (2 if self.transform == "maf" else 3 * self.n_bins - 1)
        return self.n_transforms * dense([n_dims, *self.hidden_sizes, n_outputs]) + self.weights_of_noise(shape)


class RealNVPSection(DequantizedSection):
    """A multi-scale flow of affine couplings of convolutions, on dequantized images."""

    family: Literal["realnvp"]
    n_scales: Annotated[int, Field(ge=1, le=16)]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=0, le=1_000)]

    def least_weights(self, shape: tuple[int, int, int], n_levels: int) -> int:
        """Return the number of weights of all couplings: six at each scale but the last, four there, and of noise."""
        total, channels = self.weights_of_noise(shape), shape[0]
        for _ in range(self.n_scales - 1):
            for n_channels in (channels, 4 * channels):
                total += 3 * of_coupling(n_channels, self.n_filters, self.n_blocks, 2 * n_channels)
            channels *= 2
        return total + 4 * of_coupling(channels, self.n_filters, self.n_blocks, 2 * channels)

    def check_images(self, name: str, images: Images) -> None:
        """Refuse more scales than the images can be halved to, with two pixels left."""
        super().check_images(name, images)
        if images.shape is None:
            return
        _, height, width = images.shape
        possible = [
            n_scales
            for n_scales in range(1, 17)
            if not height % (unit := 2 ** (n_scales - 1)) and not width % unit and height * width > unit * unit
        ]
        if self.n_scales not in possible:
            allowed = f"at most {possible[-1]}" if possible else "left out of models"
            raise InputError(
                f"params.yaml: {name}.n_scales = {self.n_scales} is not allowed with images of {height}x{width} "
                f"pixels, which are halved at each scale but the last and must keep two pixels there; "
                f"it must be {allowed}."
            )


FAMILIES: dict[str, type[FamilySection]] = {
    "histogram": HistogramSection,
    "gaussian": GaussianSection,
    "vae": VAESection,
    "conv_vae": ConvVAESection,
    "pixelcnn": PixelCNNSection,
    "gated_pixelcnn": GatedPixelCNNSection,
    "pixelcnn_pp": PixelCNNppSection,
    "flow": FlowSection,
    "realnvp": RealNVPSection,
}
