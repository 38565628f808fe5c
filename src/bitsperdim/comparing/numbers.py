"""One model's result: its ``metrics.json``, log P(x) of every test image, and the parameters that made them.

Invariants (``tests/comparing/test_source.py``): log-likelihoods that do not agree with the number are refused
(``test_log_likelihoods_that_do_not_fit_are_refused``); a damaged file gives one sentence.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitsperdim.comparing.origin import Origin
from bitsperdim.config.defaults import completed
from bitsperdim.core.errors import InputError
from bitsperdim.core.metrics import AnyMetrics
from bitsperdim.recipes.recipe import merged

SHARED = ("dataset", "dequantize", "evaluate", "seeds")  # sections that matter to every model, as `train` does


@dataclass(frozen=True)
class Images:
    """Log-likelihoods of the test images, and which images are equal.

    Attributes:
        log_p: log P(x), (seeds, N) nats, float64.
        same_as: (N,) the index of the first image that is equal; None: not known, and all images count as distinct.
    """

    log_p: np.ndarray
    same_as: np.ndarray | None = None

    @property
    def n_distinct(self) -> int:
        """Number of distinct images."""
        return self.log_p.shape[1] if self.same_as is None else len(np.unique(self.same_as))


class NoImagesError(InputError):
    """Raised if the log-likelihoods of single images are missing; damaged ones raise a plain :class:`InputError`."""


@dataclass(frozen=True)
class Scored:
    """One model's result.

    Attributes:
        model: name of the model.
        numbers: its metrics.
        params: parameters that matter to the model, flat: ``vae.latent_size`` -> 16.
        images: function that returns the log-likelihoods of the test images; raises NoImagesError if they are missing,
            and InputError if they are damaged.
        notes: sentences about things that do not agree.
        origin: the recorded origin of the number: code, images, versions and machine.
    """

    model: str
    numbers: AnyMetrics
    params: Mapping[str, Any]
    images: Callable[[], Images]
    notes: list[str] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)


def read_images(content: bytes, numbers: AnyMetrics, place: str) -> Images:
    """Read the log-likelihoods of the test images from the content of a ``per_image.csv``.

    Raises:
        InputError: the file is damaged, or does not belong to the metrics.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
        names = ["seed", "image", "log_p", *(["same_as"] if rows and "same_as" in rows[0] else [])]
        table = np.array([[float(row[name]) for name in names] for row in rows]).reshape(-1, len(names))
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{place} is damaged: it is not a table with the columns seed, image and log_p.") from error
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    images = np.tile(np.arange(numbers.n_images), numbers.n_seeds)
    if len(table) != len(images) or not np.array_equal(table[:, 1], images):
        raise InputError(f"{place} does not have each of the {numbers.n_images} test images once for each seed.")
    same_as = table[: numbers.n_images, 3] if len(names) > 3 else None
    return fitting(table[:, 2].reshape(numbers.n_seeds, numbers.n_images), same_as, numbers, place)


def fitting(log_p: np.ndarray, same_as: np.ndarray | None, numbers: AnyMetrics, place: str) -> Images:
    """Return the log-likelihoods of the test images in double precision, after a check against the metrics.

    Raises:
        InputError: the arrays are damaged, or the mean of log P(x) differs from the metrics.
    """
    if log_p.shape != (numbers.n_seeds, numbers.n_images) or np.isnan(log_p).any() or np.isposinf(log_p).any():
        raise InputError(f"{place} is damaged: it does not have one log-likelihood for each test image.")
    log_p = log_p.astype(np.float64)
    if not np.isclose(-log_p.mean(), numbers.nll_nats, rtol=1e-6):
        raise InputError(
            f"{place} does not agree with its metrics.json: the mean differs. Restore the file with `dvc checkout`, or "
            f"evaluate again."
        )
    if same_as is not None:
        order = np.arange(numbers.n_images)
        first = same_as.astype(np.int64)
        if same_as.shape != order.shape or not (first == same_as).all() or not ((first >= 0) & (first <= order)).all():
            raise InputError(f"{place} is damaged: same_as must be the number of this image or of an earlier one.")
        same_as = first
    return Images(log_p, same_as)


def relevant(params: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the parameters that matter to a model, flat and with defaults; its changes of ``train`` are applied."""
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
