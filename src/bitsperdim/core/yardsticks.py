"""``metrics.json`` of the images: every key with its meaning, and the names of the yardsticks in it.

A yardstick is a number of bits per dimension to compare models with, such as the size of PNG files. The stage
``dequantize`` writes the file; the report, the README and the recipes read it. The definition has a separate module, so
that a change of it reruns no training and no evaluation. :mod:`bitsperdim.data.yardsticks` measures the yardsticks.

Invariants (``tests/core/test_metrics.py``): the same as for :mod:`bitsperdim.core.metrics`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitsperdim.core import labels
from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import OfImages


@dataclass(frozen=True)
class Yardstick:
    """A number to compare the bits per dimension of models with.

    Attributes:
        key: its key in :class:`ImagesMetrics`.
        name: its name in tables.
        meaning: its explanation in tables.
    """

    key: str
    name: str
    meaning: str

    @property
    def in_markdown(self) -> str:
        """Its name and meaning for the table of models in Markdown."""
        return f"*{self.name}: {self.meaning}*"


YARDSTICKS = (
    Yardstick("truth_bpd", "the truth", "the distribution that the images are drawn from; no correct model is better"),
    Yardstick("entropy_bpd", "independent sub-pixels", "the entropy of each, fitted to the test set itself"),
    Yardstick("webp_bpd", "lossless WebP", "all test images on one sheet"),
    Yardstick("png_bpd", "PNG", "all test images on one sheet"),
    Yardstick("uniform_bpd", "uniform", "every level equally likely"),
    Yardstick("png_single_bpd", "PNG, single files", "one file per image, headers included"),
)
TABULATED = YARDSTICKS[:4]  # shown among the models in the tables of Markdown; the others are much larger


class ImagesMetrics(OfImages):
    """``results/dequantize/metrics.json``: how many images there are, and yardsticks in bits per sub-pixel."""

    n_train: int  # number of training images
    n_validation: int  # number of validation images
    n_test: int  # number of test images
    n_test_distinct: int  # number of distinct test images
    n_test_in_train: int  # test images that are also training images
    n_test_near_train: int | None = None  # other test images that are nearly training images; None: not counted
    n_test_in_validation: int  # test images that are also validation images
    n_validation_in_train: int  # validation images that are also training images
    entropy_bpd: float  # YARDSTICKS explains this and the other yardsticks
    entropy_bias_bpd: float  # approximate bias of the entropy, which is too small; never positive
    png_bpd: float
    png_single_bpd: float
    webp_bpd: float
    uniform_bpd: float

    # only for images that were drawn from a known distribution
    truth_bpd: float | None = None
    truth_bpd_standard_error: float | None = None  # standard error over test images

    @property
    def same_in_words(self) -> list[str]:
        """A sentence, without full stop, for each kind of equal images within the test set and between the splits."""
        counts = {name: getattr(self, f"n_{name}") for name in labels.COUNTED}
        counts["test_near_train"] = self.n_test_near_train or 0
        return labels.same_in_words(counts, {"validation": self.n_validation, "test": self.n_test})

    @property
    def n_dims(self) -> int:
        """D, the number of sub-pixels of an image."""
        return math.prod(self.image_shape)

    @property
    def n_levels(self) -> int:
        """The number of levels L, read from the protocol tag.

        Raises:
            InputError: the tag has no L.
        """
        levels = labels.n_levels(self.protocol)
        if levels is None:
            raise InputError(f"The protocol {self.protocol!r} has no number of levels (.../L<levels>/...).")
        return levels
