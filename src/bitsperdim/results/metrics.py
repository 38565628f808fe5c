"""What ``metrics.json`` of the images and of a model holds, as the report reads it.

Invariants (``tests/report/test_report.py``): what is not what a stage writes there is one sentence that names the key
(``test_a_missing_file_is_one_sentence``).
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import Literal

from pydantic import Field

from bitsperdim.core.errors import InputError
from bitsperdim.core.labels import COUNTED, same_in_words
from bitsperdim.results.formatting import plain, two_digits
from bitsperdim.results.reading import Stored

HASH_DIGITS = 12

# name, in words, the key in results/dequantize/metrics.json
YARDSTICKS = (
    ("independent pixels", "entropy of each pixel on its own, fitted to the test set itself", "entropy_bpd"),
    ("WebP", "lossless, all test images on one sheet", "webp_bpd"),
    ("PNG", "all test images on one sheet", "png_bpd"),
    ("uniform", "every level equally likely", "uniform_bpd"),
    ("PNG, single files", "one file per image, headers included", "png_single_bpd"),
)


class SimulatedMetrics(Stored):
    """What annealing in both directions says of images drawn from the model."""

    n_images: int
    gap_nats: float
    gap_nats_standard_error: float


class AnnealedMetrics(Stored):
    """What annealed importance sampling says of some test images."""

    n_images: int = 0
    n_chains: int = 0
    n_steps: int = 0
    log_p_nats: float = math.nan
    log_p_nats_standard_error: float = math.inf
    importance_sampled_nats: float = math.nan
    above_importance_sampled_nats: float = math.nan
    above_importance_sampled_nats_standard_error: float = math.nan
    simulated: SimulatedMetrics | None = None


class OriginMetrics(Stored):
    """Where a model that was made elsewhere comes from, and the method that it is asked by."""

    file: str
    sha256: str
    offers: str
    weights: str | None = None
    weights_sha256: str | None = None

    @property
    def in_words(self) -> str:
        """The files with the first digits of their hashes, and the method."""
        text = f"{self.file} (SHA-256 {self.sha256[:HASH_DIGITS]}), asked by {self.offers}"
        if self.weights is None or self.weights_sha256 is None:
            return text
        return f"{text}, with the weights {self.weights} (SHA-256 {self.weights_sha256[:HASH_DIGITS]})"


class Metrics(Stored):
    """``results/<model>/metrics.json``; :func:`bitsperdim.evaluation.summary.summarise` says what each number is."""

    kind: Literal["exact", "lower", "density"]
    protocol: str
    test_sha256: str
    n_images: int
    n_distinct_images: int
    n_training_images: int
    bpd_without_training_images: float | None = None
    n_seeds: int
    n_samples: int
    n_parameters: int
    bpd: float
    bpd_standard_error: float
    bpd_monte_carlo_error: float
    elbo_nats: float
    nll_nats: float
    nll_nats_standard_error: float
    log_p_bias_nats: float
    bias_exceeds_standard_error: bool
    too_few_samples: bool
    ess_median: float
    ess_smallest: float
    ess_below_10_share: float
    n_impossible_images: int
    bpd_seed_spread: float | None = None
    bpd_by_seed: dict[str, float] = Field(default_factory=dict)
    largest_leaked_gradient: float | None = None
    nll_jackknife_nats: float | None = None
    nll_jackknife_nats_error: float | None = None
    nll_extrapolated_nats: float | None = None
    pareto_k_median: float | None = None
    pareto_k_limit: float | None = None
    pareto_k_high_share: float | None = None
    proposal: Literal["encoder", "prior"] | None = None
    n_units: int | None = None
    n_active_units: int | None = None
    annealed: AnnealedMetrics | None = None
    origin: OriginMetrics | None = None  # of a model that was made elsewhere, as is the next
    verified: bool | None = None


class ImagesMetrics(Stored):
    """``results/dequantize/metrics.json``: the images, and yardsticks in bits per dimension."""

    protocol: str
    test_sha256: str
    n_train: int
    n_validation: int
    n_test: int
    n_test_distinct: int
    n_test_in_train: int
    n_test_in_validation: int
    n_validation_in_train: int
    entropy_bpd: float
    entropy_bias_bpd: float
    png_bpd: float
    png_single_bpd: float
    webp_bpd: float
    uniform_bpd: float

    @property
    def same_in_words(self) -> list[str]:
        """What is the same within the test images and between the splits, a sentence each, without its full stop."""
        counts = {name: getattr(self, f"n_{name}") for name in COUNTED}
        return same_in_words(counts, {split: getattr(self, f"n_{split}") for split in ("validation", "test")})

    @cached_property
    def yardsticks(self) -> list[tuple[str, str, float]]:
        """Name, meaning and bits per dimension of every yardstick, the smallest first."""
        rows = []
        for name, meaning, key in YARDSTICKS:
            if key == "entropy_bpd" and self.n_test < self.n_levels:
                most = plain(math.log2(self.n_test), 2)
                meaning += f"; no yardstick here: {self.n_test} images cannot have more than {most}"
            elif key == "entropy_bpd":
                meaning += f"; too small by about {two_digits(-self.entropy_bias_bpd)}"
            rows.append((name, meaning, float(getattr(self, key))))
        return sorted(rows, key=lambda row: row[2])

    @cached_property
    def drawn_yardsticks(self) -> list[tuple[str, str, float]]:
        """Those that say something of these images."""
        return [row for row in self.yardsticks if row[0] != YARDSTICKS[0][0] or self.n_test >= self.n_levels]

    @property
    def n_dims(self) -> int:
        """D, the number of sub-pixels of an image."""
        return math.prod(self.image_shape)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), from the protocol tag."""
        return self._shape_and_levels[:3]

    @property
    def n_levels(self) -> int:
        """L, from the protocol tag."""
        return self._shape_and_levels[3]

    @property
    def short_hash(self) -> str:
        """The first digits of the SHA-256 of the test images as scored."""
        return self.test_sha256[:HASH_DIGITS]

    @cached_property
    def _shape_and_levels(self) -> tuple[int, int, int, int]:
        match = re.search(r"/(\d+)x(\d+)x(\d+)/L(\d+)/", self.protocol)
        if match is None:
            raise InputError(f"The protocol tag {self.protocol!r} does not name height x width x channels and levels.")
        height, width, channels, levels = (int(part) for part in match.groups())
        return channels, height, width, levels
