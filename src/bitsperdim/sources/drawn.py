"""Images drawn from a known distribution (:mod:`.known`): a data set whose log P(x) is known exactly.

Nothing is downloaded: the images are drawn when they are read, from the seed of the data set. The three splits are
independent of each other, and so are the images within each split. Equal images are therefore not copies.

Invariants (``tests/sources/test_drawn.py``): the same seed gives the same images, another seed gives other images, and
the splits are independent; each stored log-probability belongs to the stored image
(``test_the_truth_of_each_image_is_kept``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from bitsperdim.core.files import write_text
from bitsperdim.sources.base import RawImages, Source
from bitsperdim.sources.known import KnownDistribution

SPLITS = ("train", "validation", "test")
STREAM = 100  # number of the random stream of ``dataset.seed``; the streams of preparation have smaller numbers
NOTE = "Nothing is downloaded: the stage dequantize draws these images from a known distribution.\n"


class Drawing(Protocol):
    """The section ``dataset.drawn``, which describes the images to draw."""

    @property
    def height(self) -> int:
        """Height H of the images."""

    @property
    def width(self) -> int:
        """Width W of the images."""

    @property
    def n_channels(self) -> int:
        """Number of channels C."""

    @property
    def n_train(self) -> int:
        """Number of training images; the next two are the numbers of validation and test images."""

    @property
    def n_validation(self) -> int: ...  # noqa: D102

    @property
    def n_test(self) -> int: ...  # noqa: D102

    @property
    def strength(self) -> float | None:
        """Strength of the dependence between sub-pixels; None: the default of the distribution."""

    @property
    def n_components(self) -> int | None:
        """Number of hidden components; None: the default of the distribution."""


class Drawn(Source):
    """A data set that is drawn from one kind of distribution."""

    fixed_levels = False
    n_classes = 0

    def __init__(self, kind: type[KnownDistribution]) -> None:
        """Store the kind of distribution."""
        self.kind = kind
        self.n_levels = kind.default_levels

    def distribution(self, drawing: Drawing, n_levels: int | None) -> KnownDistribution:
        """Return the distribution that the images are drawn from.

        Raises:
            InputError: a parameter is not allowed; the message names the key, the value and the allowed values.
        """
        shape = (drawing.n_channels, drawing.height, drawing.width)
        return self.kind(shape, n_levels or self.n_levels, drawing.strength, drawing.n_components)

    def download(self, folder: Path, path: str) -> None:
        """Write a note which says that nothing is downloaded."""
        write_text(folder / "drawn.txt", NOTE)

    def read(self, folder: Path) -> RawImages:
        """Raise TypeError: the folder holds no images; :meth:`draw` draws them."""
        raise TypeError("these images are drawn, not read")

    def draw(self, drawing: Drawing, n_levels: int | None, seed: int) -> RawImages:
        """Draw the images of each split, and compute the log-probability of each test image.

        Args:
            drawing: size, number and parameters of the images.
            n_levels: number of levels L; None: the default of the distribution.
            seed: seed for all draws.
        """
        distribution = self.distribution(drawing, n_levels)
        images = {
            split: distribution.draw(getattr(drawing, f"n_{split}"), np.random.default_rng([seed, STREAM, index]))
            for index, split in enumerate(SPLITS)
        }
        log_p = {"test": distribution.log_p(images["test"])}
        return RawImages(images=images, labels={}, log_p=log_p, tag=distribution.tag)
