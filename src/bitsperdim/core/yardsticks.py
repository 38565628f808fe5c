"""``metrics.json`` of the images, and the yardsticks in it: every key with its meaning, and their names in words.

The stage ``dequantize`` writes it, and the report, the README and the recipes read it. It is a module of its own, so
that nothing but ``dequantize`` runs again where it changes. How yardsticks are measured:
:mod:`bitsperdim.data.yardsticks`.

Invariants (``tests/core/test_metrics.py``): as of :mod:`bitsperdim.core.metrics`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitsperdim.core import labels
from bitsperdim.core.errors import InputError
from bitsperdim.core.stored import OfImages


@dataclass(frozen=True)
class Yardstick:
    """What a number of bits per dimension is compared with: its key in ImagesMetrics, its name, what it is."""

    key: str
    name: str
    meaning: str

    @property
    def in_markdown(self) -> str:
        """How it stands among models in a table of Markdown."""
        return f"*{self.name}: {self.meaning}*"


YARDSTICKS = (
    Yardstick("truth_bpd", "the truth", "of the distribution that the images are drawn from; no right model beats it"),
    Yardstick("entropy_bpd", "independent sub-pixels", "the entropy of each, fitted to the test set itself"),
    Yardstick("webp_bpd", "lossless WebP", "all test images on one sheet"),
    Yardstick("png_bpd", "PNG", "all test images on one sheet"),
    Yardstick("uniform_bpd", "uniform", "every level equally likely"),
    Yardstick("png_single_bpd", "PNG, single files", "one file per image, headers included"),
)
TABULATED = YARDSTICKS[:4]  # among the models in the tables of Markdown; the others are far off


class ImagesMetrics(OfImages):
    """``results/dequantize/metrics.json``: how many images there are, and yardsticks in bits per sub-pixel."""

    n_train: int  # images of the split, and so are the next two
    n_validation: int
    n_test: int
    n_test_distinct: int  # test images that differ from each other
    n_test_in_train: int  # test images that are training images too
    n_test_near_train: int | None = None  # others that are nearly training images; None: nobody looked
    n_test_in_validation: int  # test images that are validation images too
    n_validation_in_train: int  # validation images that are training images too
    entropy_bpd: float  # what this and the other yardsticks are: YARDSTICKS
    entropy_bias_bpd: float  # by which the entropy is too small, about; never positive
    png_bpd: float
    png_single_bpd: float
    webp_bpd: float
    uniform_bpd: float

    # of images that were drawn from a known distribution
    truth_bpd: float | None = None
    truth_bpd_standard_error: float | None = None  # over test images

    @property
    def same_in_words(self) -> list[str]:
        """What is the same within the test images and between the splits, a sentence each, without its full stop."""
        counts = {name: getattr(self, f"n_{name}") for name in labels.COUNTED}
        counts["test_near_train"] = self.n_test_near_train or 0
        return labels.same_in_words(counts, {"validation": self.n_validation, "test": self.n_test})

    @property
    def n_dims(self) -> int:
        """D, the number of sub-pixels of an image."""
        return math.prod(self.image_shape)

    @property
    def n_levels(self) -> int:
        """L, as the protocol tag has it.

        Raises:
            InputError: it has none.
        """
        levels = labels.n_levels(self.protocol)
        if levels is None:
            raise InputError(f"The protocol {self.protocol!r} names no number of levels (.../L<levels>/...).")
        return levels
