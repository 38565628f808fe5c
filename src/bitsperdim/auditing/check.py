"""Input and result of an audit check: the classes :class:`Case` and :class:`Check`.

A check has one of four results: passed, with the smallest error that it would have caught; failed, with a sentence and
the size of the error; not applicable, with the reason; or a warning about something that is not an error of the number
itself, but is often caused by one. No check knows which mistake to look for.

A check that uses random numbers has a level: how often it fails, at most, for a model without a mistake.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitsperdim.core.randomness import stream
from bitsperdim.core.units import nats_to_bits_per_dim
from bitsperdim.evaluation.estimate import Estimate as Scores
from bitsperdim.evaluation.estimate import estimated_rows
from bitsperdim.evaluation.evaluate import Asked
from bitsperdim.evaluation.images import Data
from bitsperdim.evaluation.result import Estimate
from bitsperdim.models.base import ImageModel

Status = Literal["passed", "failed", "warning", "not applicable"]
LEVEL = 1e-4  # upper limit of the level of each check that uses random numbers
N_LOOKED_AT = 16  # number of images that a check scores again, at most
K_LOOKED_AT = 64
AT_ONCE = 128  # images in a batch


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: name of the check, a few words.
        status: ``passed``, ``failed``, ``warning`` or ``not applicable``.
        words: sentence that says what was found, or why the check does not apply.
        size_bpd: size of the error that was found, bits/dim; None: the error has no size, or no error was found.
        catches_bpd: smallest error that the check would have caught, bits/dim; None: not passed, or not known.
        catches: the kind of error that ``catches_bpd`` is about.
        level: how often the check fails, at most, if nothing is wrong; 0: never.
    """

    name: str
    status: Status
    words: str
    size_bpd: float | None = None
    catches_bpd: float | None = None
    catches: str = ""
    level: float = 0.0

    @property
    def is_failed(self) -> bool:
        """Whether the check found an error."""
        return self.status == "failed"


def passed(name: str, words: str, catches: str, catches_bpd: float | None = None, level: float = 0.0) -> Check:
    """Return a check that passed; ``catches`` says which errors it would have caught."""
    return Check(name, "passed", words, catches_bpd=catches_bpd, catches=catches, level=level)


def failed(name: str, words: str, size_bpd: float | None = None, level: float = 0.0) -> Check:
    """Return a check that found an error."""
    return Check(name, "failed", words, size_bpd=size_bpd, level=level)


def warning(name: str, words: str, size_bpd: float | None = None) -> Check:
    """Return a check that found something suspicious, which is not an error by itself."""
    return Check(name, "warning", words, size_bpd=size_bpd)


def not_applicable(name: str, why: str) -> Check:
    """Return a check that does not apply."""
    return Check(name, "not applicable", why)


class Clock:
    """The clock of the machine."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    def count(self, n_sub_pixels: int) -> None:
        """Do nothing; :class:`CountingClock` counts the sub-pixels that a model scores."""


class CountingClock(Clock):
    """A clock that counts sub-pixels scored by the model instead of time, so that audits agree on all machines.

    Args:
        rate: number of sub-pixels that count as one second.
    """

    def __init__(self, rate: float) -> None:
        """Start at zero."""
        self.rate = rate
        self.n_sub_pixels = 0

    def now(self) -> float:
        """Return the number of counted sub-pixels in seconds."""
        return self.n_sub_pixels / self.rate

    def count(self, n_sub_pixels: int) -> None:
        """Add sub-pixels that a model scores."""
        self.n_sub_pixels += n_sub_pixels


@dataclass(frozen=True)
class Case:
    """Everything that a check is given: the model, the images and the number.

    Attributes:
        asked: the model and how it is called; None: only numbers were given.
        data: the images.
        result: the number that is audited.
        seed: seed of all random numbers.
        log_p_true: true log-probability of each image, (N,) nats; None: not known.
        build: function that makes the model for other images, ``build(image_shape=(C, H, W), n_levels=L)``; None: the
            model cannot be built for other images.
        seconds: approximate time limit of each check.
        clock: clock that measures how long something takes.
    """

    asked: Asked | None
    data: Data
    result: Estimate
    seed: int = 0
    log_p_true: np.ndarray | None = None
    build: Callable[..., object] | None = None
    seconds: float = 20.0
    clock: Clock = field(default_factory=Clock)

    @property
    def model(self) -> ImageModel:
        """The model as a probability mass function with this package's interface.

        Raises:
            ValueError: only numbers were given.
        """
        if self.asked is None:
            raise ValueError("only numbers were given, so that no model can be asked")
        return self.asked.model

    @property
    def method(self) -> str:
        """Method by which the model is scored; ``arrays`` for numbers only, ``own`` for a model of this package."""
        if self.asked is None:
            return "arrays"
        return "own" if self.asked.offer is None else self.asked.offer.method

    @property
    def is_sampled(self) -> bool:
        """Whether the number is a bound computed from samples."""
        return self.result.metrics.is_sampled

    def rows(self, n_images: int = N_LOOKED_AT) -> np.ndarray:
        """Return the indices of some evenly spaced images, which a check looks at."""
        n_all = len(self.data.images)
        return np.arange(min(n_images, n_all)) * n_all // min(n_images, n_all)

    def images(self, rows: np.ndarray) -> Tensor:
        """Return the images with these indices, (B, C, H, W), on the device of the model."""
        return torch.from_numpy(self.data.images[rows]).to(self.model.device)

    def labels(self, rows: np.ndarray) -> Tensor | None:
        """Return the labels of the images with these indices, (B,); None if there are no labels."""
        labels = self.data.labels
        return None if labels is None else torch.from_numpy(labels[rows]).to(self.model.device)

    @torch.no_grad()
    def scores(
        self,
        images: Tensor,
        *,
        labels: Tensor | None = None,
        seed: int = 0,
        n_samples: int = K_LOOKED_AT,
        model: ImageModel | None = None,
    ) -> Scores:
        """Score a few images again, without a test of whether the model looks ahead.

        Args:
            images: (B, C, H, W) integers, on the device of the model.
            labels: (B,) int64.
            seed: seed of the samples, in addition to the seed of the audit.
            n_samples: K.
            model: a model to score instead of the audited one.
        """
        scored = self.model if model is None else model
        generator = stream("evaluation", self.seed, seed, device=scored.device)
        parts = [
            estimated_rows(
                scored,
                images[start : start + AT_ONCE],
                n_samples,
                chunk_size=16,
                generator=generator,
                labels=None if labels is None else labels[start : start + AT_ONCE],
                first_image=start,
            )
            for start in range(0, len(images), AT_ONCE)
        ]
        return Scores.of_rows(scored, n_samples, torch.cat(parts), math.nan)

    def in_bits_per_dim(self, nats: float) -> float:
        """Convert nats per image to bits/dim."""
        return nats_to_bits_per_dim(nats, self.data.image_shape)
