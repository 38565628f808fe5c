"""One model's result: the numbers of ``metrics.json``, log P(x) of every test image, the parameters that made them.

Invariants (``tests/comparing/test_source.py``): log-likelihoods that do not fit the number are refused
(``test_log_likelihoods_that_do_not_fit_are_refused``); a damaged file is one sentence.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from bitsperdim.comparing.origin import Origin
from bitsperdim.config.defaults import completed
from bitsperdim.core.errors import InputError
from bitsperdim.core.labels import is_of_seen_images, is_out_of_range, marks, range_reason, seen_in_words
from bitsperdim.recipes.recipe import merged
from bitsperdim.results.reading import Stored

SHARED = ("dataset", "dequantize", "evaluate", "seeds")  # sections that matter to every model, as `train` does


class Numbers(Stored):
    """What is needed of ``results/<model>/metrics.json``."""

    kind: Literal["exact", "lower", "density"]
    protocol: str
    test_sha256: str
    n_images: int
    n_distinct_images: int | None = None  # the first commits did not look
    n_training_images: int | None = None  # of the test images, how many are training images too
    n_seeds: int
    n_samples: int
    bpd: float
    bpd_standard_error: float
    bpd_monte_carlo_error: float | None = None
    bpd_without_training_images: float | None = None  # where some test images are, and some are not
    bpd_by_seed: dict[str, float] | None = None  # of several seeds
    nll_nats: float
    bias_exceeds_standard_error: bool = False
    too_few_samples: bool | None = None  # the first commits have the flag above alone
    n_impossible_images: int = 0
    verified: bool | None = None  # of a model that was made elsewhere

    @property
    def is_flagged(self) -> bool:
        """Whether there were too few samples to believe the number."""
        return self.bias_exceeds_standard_error if self.too_few_samples is None else self.too_few_samples

    @property
    def is_out_of_range(self) -> bool:
        """Whether the number is worse than uniform coding, or below 0."""
        return is_out_of_range(self.kind, self.bpd, self.protocol)

    @property
    def range_reason(self) -> str | None:
        """How it is out of range, in words; None where it is not."""
        return range_reason(self.kind, self.bpd, self.protocol, self.bpd_monte_carlo_error)

    @property
    def marks(self) -> str:
        """What stands behind the number where it is not to be believed."""
        return marks({**self.model_dump(), "too_few_samples": self.is_flagged})

    @property
    def is_of_seen_images(self) -> bool:
        """Whether test images that are training images too matter to the number."""
        return is_of_seen_images(self.model_dump())

    @property
    def seen_in_words(self) -> str | None:
        """How many test images are training images too, in words; None where none is known to be."""
        return seen_in_words(self.model_dump())

    @property
    def as_text(self) -> str:
        """Equal for equal results, also where one was written before a key was added of which nothing is shown."""
        return repr(self.model_copy(update={"too_few_samples": self.is_flagged, "bias_exceeds_standard_error": False}))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the protocol tag has it.

        Raises:
            InputError: it has none.
        """
        sizes = [part.split("x") for part in self.protocol.split("/")[2:3]]
        if not sizes or len(sizes[0]) != 3 or not all(size.isdecimal() for size in sizes[0]):
            raise InputError(f"The protocol {self.protocol!r} names no shape of images (data/binarization/HxWxC/...).")
        height, width, channels = (int(size) for size in sizes[0])
        return channels, height, width


@dataclass(frozen=True)
class Images:
    """What is known of each test image.

    Attributes:
        log_p: log P(x), (seeds, N) nats, float64.
        same_as: (N,) the number of the first image that is equal; None: nobody has looked, and all count as distinct.
    """

    log_p: np.ndarray
    same_as: np.ndarray | None = None

    @property
    def n_distinct(self) -> int:
        """How many distinct images there are."""
        return self.log_p.shape[1] if self.same_as is None else len(np.unique(self.same_as))


class NoImagesError(InputError):
    """The log-likelihoods of single images are nowhere; those that are damaged are an :class:`InputError` alone."""


@dataclass(frozen=True)
class Scored:
    """One model's result.

    Attributes:
        model: its name.
        numbers: of its metrics.
        params: those that matter to it, flat: ``vae.latent_size`` -> 16.
        images: returns what is known of every test image; raises NoImagesError where it is nowhere, and InputError
            where it is damaged.
        notes: sentences on what does not fit.
        origin: what it was made from and with, as far as it is recorded.
    """

    model: str
    numbers: Numbers
    params: Mapping[str, Any]
    images: Callable[[], Images]
    notes: list[str] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)


def read_numbers(content: bytes, place: str) -> Numbers:
    """Read a ``metrics.json``.

    Raises:
        InputError: it is damaged.
    """
    try:
        numbers = Numbers.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{place}: {key} is not what a stage writes there ({first['msg']}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is damaged: it is not JSON.") from error
    if any(math.isnan(value) for value in (numbers.bpd, numbers.nll_nats, numbers.bpd_standard_error)):
        raise InputError(f"{place} is damaged: a number is NaN.")
    return numbers


def read_images(content: bytes, numbers: Numbers, place: str) -> Images:
    """Read what a ``per_image.csv`` says of every test image.

    Raises:
        InputError: it is damaged, or not that of the metrics.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
        names = ["seed", "image", "log_p", *(["same_as"] if rows and "same_as" in rows[0] else [])]
        table = np.array([[float(row[name]) for name in names] for row in rows]).reshape(-1, len(names))
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{place} is damaged: it is no table with the columns seed, image and log_p.") from error
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    images = np.tile(np.arange(numbers.n_images), numbers.n_seeds)
    if len(table) != len(images) or not np.array_equal(table[:, 1], images):
        raise InputError(f"{place} does not hold the {numbers.n_images} test images once for each seed.")
    same_as = table[: numbers.n_images, 3] if len(names) > 3 else None
    return fitting(table[:, 2].reshape(numbers.n_seeds, numbers.n_images), same_as, numbers, place)


def fitting(log_p: np.ndarray, same_as: np.ndarray | None, numbers: Numbers, place: str) -> Images:
    """Return what is known of every test image, in double precision, if the mean of log P(x) is what the metrics say.

    Raises:
        InputError: it is not.
    """
    if log_p.shape != (numbers.n_seeds, numbers.n_images) or np.isnan(log_p).any() or np.isposinf(log_p).any():
        raise InputError(f"{place} is damaged: it does not hold a log-likelihood of each test image.")
    log_p = log_p.astype(np.float64)
    if not np.isclose(-log_p.mean(), numbers.nll_nats, rtol=1e-6):
        raise InputError(
            f"{place} does not fit its metrics (another mean): restore it (`dvc checkout`), or evaluate again."
        )
    if same_as is not None:
        order = np.arange(numbers.n_images)
        first = same_as.astype(np.int64)
        if same_as.shape != order.shape or not (first == same_as).all() or not ((first >= 0) & (first <= order)).all():
            raise InputError(f"{place} is damaged: same_as is not the number of an image at or before each image.")
        same_as = first
    return Images(log_p, same_as)


def relevant(params: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the parameters that matter to a model, flat, left out or not; its changes of ``train`` are part of it."""
    params = completed(params, model)
    own = params.get(model)
    own = dict(own) if isinstance(own, Mapping) else {}
    train, changes = params.get("train"), own.pop("train", None)
    used = {name: params[name] for name in SHARED if name in params}
    used["train"] = merged(train if isinstance(train, Mapping) else {}, changes if isinstance(changes, Mapping) else {})
    return flat({**used, model: own})


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters with keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
