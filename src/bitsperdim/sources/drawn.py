"""Images that are drawn from a known distribution (:mod:`.known`): a data set whose log P(x) is known exactly.

Nothing is downloaded: the images are drawn when they are read, from the seed of the data set. The three splits are
independent of each other, and so are the images within each, so that equal ones are no copies.

Invariants (``tests/sources/test_drawn.py``): one seed gives one set of images, another seed others, and the splits are
independent; the truth that is kept is that of the images that are kept
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
STREAM = 100  # of the random numbers of ``dataset.seed``: those of preparation have smaller numbers
NOTE = "Nothing is downloaded: the stage dequantize draws these images from a known distribution.\n"


class Drawing(Protocol):
    """What is drawn: the section ``dataset.drawn``."""

    @property
    def height(self) -> int:
        """H."""

    @property
    def width(self) -> int:
        """W."""

    @property
    def n_channels(self) -> int:
        """C."""

    @property
    def n_train(self) -> int:
        """The number of images of the split, and so are the next two."""

    @property
    def n_validation(self) -> int: ...  # noqa: D102

    @property
    def n_test(self) -> int: ...  # noqa: D102

    @property
    def strength(self) -> float | None:
        """Of the dependence between sub-pixels; None: the default of the distribution."""

    @property
    def n_components(self) -> int | None:
        """Of what is hidden; None: the default of the distribution."""


class Drawn(Source):
    """A data set that is drawn from one kind of distribution."""

    fixed_levels = False
    n_classes = 0

    def __init__(self, kind: type[KnownDistribution]) -> None:
        """Remember what is drawn from."""
        self.kind = kind
        self.n_levels = kind.default_levels

    def distribution(self, drawing: Drawing, n_levels: int | None) -> KnownDistribution:
        """Return what the images are drawn from.

        Raises:
            InputError: it cannot be had of this size; one sentence with key, value and what is allowed.
        """
        shape = (drawing.n_channels, drawing.height, drawing.width)
        return self.kind(shape, n_levels or self.n_levels, drawing.strength, drawing.n_components)

    def download(self, folder: Path, path: str) -> None:
        """Write a note that there is nothing to download."""
        write_text(folder / "drawn.txt", NOTE)

    def read(self, folder: Path) -> RawImages:
        """Refuse: what is to be drawn is not in the folder; :meth:`draw` draws it."""
        raise TypeError("these images are drawn, not read")

    def draw(self, drawing: Drawing, n_levels: int | None, seed: int) -> RawImages:
        """Draw the images of each split, and take down the log-probability of each test image.

        Args:
            drawing: what is drawn.
            n_levels: L; None: the default of the distribution.
            seed: of all draws.
        """
        distribution = self.distribution(drawing, n_levels)
        images = {
            split: distribution.draw(getattr(drawing, f"n_{split}"), np.random.default_rng([seed, STREAM, index]))
            for index, split in enumerate(SPLITS)
        }
        log_p = {"test": distribution.log_p(images["test"])}
        return RawImages(images=images, labels={}, log_p=log_p, tag=distribution.tag)
