"""The images on which mistakes are made, cut to a size that takes only seconds, and small models trained on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitsperdim.core.files import StoredArray, reading, sha256
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import SPLITS, load_prepared
from bitsperdim.evaluation.arrays import estimate_of_arrays
from bitsperdim.evaluation.images import Data, data_of
from bitsperdim.studies.known.mistakes.models import VAE, Cells, Gauss, Mixture, Raster, frequencies, trained

if TYPE_CHECKING:
    from pathlib import Path

    from bitsperdim.config.known import MistakesSection
    from bitsperdim.evaluation.result import Estimate

BATCH = 50  # maximum number of images in a training step
OUTPUTS = 2**14  # maximum of sub-pixels times levels of an image; images are never cut below 2 x 2 pixels
WORK = 2**20  # maximum number of outputs in a training step
PSEUDO = 0.1  # pseudo-count of each level, so that levels that never occur get some mass
STREAM = "study_mistakes"


@dataclass(frozen=True)
class Images:
    """Some images of each split, (N, C, H, W) int64.

    Attributes:
        splits: images of each split, by the name of the split.
        labels: class labels of each split, (N,) int64, by the name of the split; empty if there are no labels.
        n_levels: L.
        name: beginning of the protocol tag: the name of the data set and its binarization.
        is_cut: whether the images are the central part of larger images.
    """

    splits: dict[str, Tensor]
    labels: dict[str, np.ndarray]
    n_levels: int
    name: str
    is_cut: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        n_channels, height, width = self.splits["test"].shape[1:]
        return n_channels, height, width


def some_images(folder: Path, section: MistakesSection, seed: int) -> Images:
    """Read some images of each split, evenly spread over the split, and cut out their central part.

    Args:
        folder: folder written by ``dequantize``.
        section: number and size of the images; images with many levels and channels are cut to a smaller size.
        seed: seed of the binarization of training images that are stored in grey.

    Raises:
        InputError: the images are missing or damaged.
    """
    described = load_prepared(folder, ()).description
    side = min(section.size, max(2, math.isqrt(OUTPUTS // (described.image_shape[0] * described.n_levels))))
    limits = {"train": section.n_train, "validation": section.n_images, "test": section.n_images}
    splits, labels = {}, {}
    for split in SPLITS:
        path = folder / split / "images.npy"
        with reading(path, "dequantize"):
            array = StoredArray(path)
            n_taken = min(len(array), limits[split])
            rows = np.arange(n_taken) * len(array) // n_taken
            top, left = (max(0, (whole - side) // 2) for whole in array.shape[2:])
            middle = array[rows][:, :, top : top + side, left : left + side]
            splits[split] = torch.from_numpy(middle.astype(np.int64))
            if (folder / split / "labels.npy").exists():
                labels[split] = StoredArray(folder / split / "labels.npy")[rows].astype(np.int64)
    if described.train_levels != described.n_levels:  # dynamic binarization: training images are stored in grey
        grey = splits["train"] / (described.train_levels - 1)
        splits["train"] = torch.bernoulli(grey, generator=stream(STREAM, seed, 0)).long()
    is_cut = splits["test"].shape[2:] != described.image_shape[1:]
    name = "/".join(described.protocol.split("/")[:2])
    return Images(splits, labels, described.n_levels, name, is_cut)


class Bench:
    """The material for the mistakes: images, and models that are trained on them once, when they are first needed.

    Args:
        images: images of all splits.
        section: settings, such as the number of training steps.
        seed: seed of all randomness.
    """

    def __init__(self, images: Images, section: MistakesSection, seed: int) -> None:
        """Store the images and the settings."""
        self.images = images
        self.section = section
        self.seed = seed
        self.shape = images.shape
        self.n_levels = images.n_levels
        self.n_dims = math.prod(self.shape)
        self.train, self.validation, self.test = (images.splits[split] for split in SPLITS)

    def generator(self, purpose: int) -> torch.Generator:
        """Return a generator whose random numbers are separate for each purpose."""
        return stream(STREAM, self.seed, purpose)

    @cached_property
    def masses(self) -> Tensor:
        """Smoothed relative frequency of each level at each sub-pixel, (C, H, W, L)."""
        return frequencies(self.train, self.n_levels, PSEUDO)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each sub-pixel, (C, H, W), in levels; the latter is at least half a level."""
        x = self.train.double()
        return x.mean(0), x.std(0).clamp(min=0.5)

    @cached_property
    def cells(self) -> Cells:
        """A density that is constant in each cell."""
        return Cells(self.masses)

    def mixture(self, scale: float) -> Mixture:
        """Return a smooth density whose components have this scale."""
        return Mixture(self.masses, scale)

    @cached_property
    def gauss(self) -> Gauss:
        """A normal for each sub-pixel; its mean is shifted by half a level, to the middle of the cells."""
        mean, scale = self.moments
        return Gauss(mean + 0.5, scale)

    @cached_property
    def raster(self) -> Raster:
        """Trained masked convolutions."""
        return self.trained_raster()

    @cached_property
    def flipped_raster(self) -> Raster:
        """Masked convolutions trained on images rotated by 180 degrees: another order of the sub-pixels."""
        return self.trained_raster(is_flipped=True)

    def trained_raster(self, *, is_flipped: bool = False, **options: Any) -> Raster:  # noqa: ANN401 - options of Raster
        """Return trained masked convolutions with the given options."""
        model = self.untrained(Raster, **options)
        x = self.train.flip(2, 3) if is_flipped else self.train

        def loss(batch: Tensor) -> Tensor:
            logits = model.logits(batch / (self.n_levels - 1))
            return functional.cross_entropy(logits.flatten(0, -2), batch.flatten())

        trained(model, loss, x, n_steps=self.section.n_steps, batch_size=self.batch_size(self.n_levels), seed=self.seed)
        return model

    @cached_property
    def vae(self) -> VAE:
        """A trained variational autoencoder."""
        model = self.untrained(VAE)

        def loss(batch: Tensor) -> Tensor:
            negative: Tensor = -model.weights(batch, 1).mean()
            return negative

        n_steps = 2 * self.section.n_steps
        trained(model, loss, self.train, n_steps=n_steps, batch_size=self.batch_size(2), seed=self.seed)
        return model

    def untrained(self, kind: type[Any], **options: Any) -> Any:  # noqa: ANN401 - the model
        """Return an untrained model, with initial weights from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return kind(self.shape, self.n_levels, **options).eval()

    def like(self, kind: type[Any], model: torch.nn.Module, **options: Any) -> Any:  # noqa: ANN401 - the model
        """Return a model with the given switches and the weights of another model."""
        other = self.untrained(kind, **options)
        other.load_state_dict(model.state_dict())
        return other

    def batch_size(self, n_outputs: int) -> int:
        """Return the number of images in a training step, if each sub-pixel has ``n_outputs`` outputs."""
        return max(1, min(BATCH, len(self.train), WORK // (self.n_dims * n_outputs)))

    @cached_property
    def log_weights(self) -> Tensor:
        """Log-weights of the test images under the variational autoencoder, (K, N) float64 nats."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.vae.weights(self.test, self.section.n_samples).double()

    @cached_property
    def log_p(self) -> Tensor:
        """Log P of the test images under the masked convolutions, (N,) float64 nats."""
        with torch.no_grad():
            return self.raster.log_p(self.test).double()

    @cached_property
    def data(self) -> Data:
        """The test images as data with the name of the data set."""
        return self.named(self.test)

    def named(self, x: Tensor, *, n_levels: int | None = None, labels: np.ndarray | None = None) -> Data:
        """Return images as data with the name of the data set; the rest of the protocol tag describes the images."""
        n_levels = n_levels or self.n_levels
        data = data_of(x.numpy(), n_levels, labels=labels)
        described = data.prepared.description
        rest = described.protocol.split("/", 2)[2]
        described = replace(
            described,
            protocol=f"{self.images.name}/{rest}",
            binarization=self.images.name.partition("/")[2],
            test_sha256=sha256(data.images),
        )
        return Data(replace(data.prepared, description=described))

    def under(self, data: Data, binarization: str) -> Data:
        """Return data whose protocol tag names another binarization."""
        described = data.prepared.description
        name, _, rest = described.protocol.split("/", 2)
        described = replace(described, protocol=f"{name}/{binarization}/{rest}", binarization=binarization)
        return Data(replace(data.prepared, description=described))

    def estimate(self, log_p: Tensor, data: Data, name: str) -> Estimate:
        """Return the estimate that belongs to given log-likelihoods."""
        return estimate_of_arrays(log_p.double().numpy(), images=data, name=name)
