"""The typed parameter section of every model family; the keys are those of :data:`bitsperdim.models.MODELS`.

Kept apart from the models so that ``preflight`` can check the parameters without importing torch.
A section's own keys are the keyword arguments of the family's class (``tests/models/test_every_model.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from bitsperdim.errors import InputError

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "cosine"]
LikelihoodName = Literal["bernoulli", "categorical", "logistic", "normal", "coupled_logistic"]  # as in heads.py


def odd(value: int) -> int:
    """Refuse an even number."""
    if value % 2 == 0:
        raise ValueError("odd")
    return value


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
        return self.model_dump(exclude={"family", "train", "train_samples"})

    @property
    def n_train_samples(self) -> int:
        """The K of the training objective: 1 is the ELBO (or, for exact models, the likelihood)."""
        return int(getattr(self, "train_samples", 1))

    def check_levels(self, name: str, n_levels: int) -> None:
        """Raise InputError where this model cannot give mass to images of ``n_levels`` levels."""

    def settings(self, train: TrainSection) -> TrainSection:
        """Return ``train`` with this model's own overrides."""
        return train.model_copy(update=self.train.model_dump(exclude_unset=True))


class HistogramSection(FamilySection):
    """Every sub-pixel on its own: counts with a pseudocount."""

    family: Literal["histogram"]
    pseudocount: PositiveFloat


class GaussianSection(FamilySection):
    """A multivariate normal density of dequantized images, in closed form."""

    family: Literal["gaussian"]


class HeadSection(FamilySection):
    """What every section has whose network may have any likelihood: which one, and of how many components."""

    likelihood: LikelihoodName
    n_mixtures: Annotated[int, Field(ge=1, le=1_000)]

    def check_levels(self, name: str, n_levels: int) -> None:
        """Refuse a Bernoulli likelihood for images of more than two levels, and mixtures that add nothing."""
        if self.likelihood == "bernoulli" and n_levels != 2:
            raise InputError(
                f"params.yaml: {name}.likelihood = 'bernoulli' needs images of 2 levels, but these have {n_levels}; "
                f"choose 'categorical', or set dequantize.binarization to 'threshold' or 'dynamic'."
            )
        if self.likelihood in ("bernoulli", "categorical") and self.n_mixtures != 1:
            raise InputError(
                f"params.yaml: {name}.n_mixtures = {self.n_mixtures} is not allowed with likelihood = "
                f"{self.likelihood!r}, of which a mixture is no more than one; write 1."
            )


class VAESection(HeadSection):
    """A variational autoencoder of fully connected layers; ``train_samples`` above 1 makes it an IWAE."""

    family: Literal["vae"]
    latent_size: Size
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]
    train_samples: Annotated[int, Field(ge=1, le=10_000)]


class PixelCNNSection(HeadSection):
    """A PixelCNN of masked convolutions."""

    family: Literal["pixelcnn"]
    n_filters: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)]
    n_blocks: Annotated[int, Field(ge=1, le=1_000)]
    kernel_size: Annotated[int, Field(ge=3, le=101), AfterValidator(odd)]


class GatedPixelCNNSection(HeadSection):
    """A gated PixelCNN of a vertical and a horizontal stack, given the class if ``n_classes`` is a number."""

    family: Literal["gated_pixelcnn"]
    n_filters: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)]
    n_layers: Annotated[int, Field(ge=1, le=1_000)]
    kernel_size: Annotated[int, Field(ge=3, le=101), AfterValidator(odd)]
    n_classes: Annotated[int, Field(ge=2, le=65_536)] | None


class PixelCNNppSection(HeadSection):
    """A PixelCNN++ of two shifted streams at several scales."""

    family: Literal["pixelcnn_pp"]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=1, le=1_000)]
    n_scales: Annotated[int, Field(ge=1, le=16)]
    dropout: Annotated[float, Field(ge=0, le=0.99)]


class VariationalSection(Section):
    """The sizes of learned dequantization noise; other noise has none."""

    n_couplings: Annotated[int, Field(ge=1, le=100)]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=0, le=100)]


class DequantizedSection(FamilySection):
    """What every flow has: how its images are dequantized, in training above all."""

    logit_margin: Annotated[float, Field(ge=0, lt=0.5)] | None
    dequantization: Literal["none", "uniform_fixed", "uniform", "variational"]
    variational: VariationalSection
    train_samples: Annotated[int, Field(ge=1, le=10_000)]

    def check_levels(self, name: str, n_levels: int) -> None:
        """Refuse several samples of no noise."""
        if self.dequantization == "none" and self.train_samples != 1:
            raise InputError(
                f"params.yaml: {name}.train_samples = {self.train_samples} is not allowed with "
                f"{name}.dequantization = 'none'; it must be 1, since there is no noise to sample."
            )


class FlowSection(DequantizedSection):
    """An autoregressive flow of dequantized images: affine (maf) or monotonic splines (nsf)."""

    family: Literal["flow"]
    transform: Literal["maf", "nsf"]
    n_transforms: Annotated[int, Field(ge=1, le=1_000)]
    hidden_sizes: Annotated[list[Size], Field(min_length=1, max_length=16)]
    n_bins: Annotated[int, Field(ge=2, le=1_000)]


class RealNVPSection(DequantizedSection):
    """A multi-scale flow of affine couplings of convolutions, on dequantized images."""

    family: Literal["realnvp"]
    n_scales: Annotated[int, Field(ge=1, le=16)]
    n_filters: Size
    n_blocks: Annotated[int, Field(ge=0, le=1_000)]


FAMILIES: dict[str, type[FamilySection]] = {
    "histogram": HistogramSection,
    "gaussian": GaussianSection,
    "vae": VAESection,
    "pixelcnn": PixelCNNSection,
    "gated_pixelcnn": GatedPixelCNNSection,
    "pixelcnn_pp": PixelCNNppSection,
    "flow": FlowSection,
    "realnvp": RealNVPSection,
}
