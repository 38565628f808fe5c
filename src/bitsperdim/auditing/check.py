"""What a check of the audit finds, and what it is given.

A check is passed, failed with a sentence and the size of the error, or not applicable with the reason. One that is
passed says the smallest error that it would have caught. It is not told what the mistake is. A warning is about what is
no error of the number, but often comes from one.

A check that rests on chance has a level: how often it fails for a model in which nothing is wrong.
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
LEVEL = 1e-4  # of each check that rests on chance, at most
N_LOOKED_AT = 16  # images that are scored anew by a check, at most
K_LOOKED_AT = 64
AT_ONCE = 128  # images


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: of the check, one or two words.
        status: ``passed``, ``failed``, ``warning`` or ``not applicable``.
        words: a sentence: what was found, or why it does not apply.
        size_bpd: of the error that was found, bits/dim; None: it has no size, or none was found.
        catches_bpd: the smallest error that it would have caught, bits/dim; None: not passed, or not known.
        catches: what kind of error that is.
        level: how often it fails where nothing is wrong, at most; 0: never.
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
        """Whether something is wrong."""
        return self.status == "failed"


def passed(name: str, words: str, catches: str, catches_bpd: float | None = None, level: float = 0.0) -> Check:
    """Return a check that was passed; ``catches`` says what it would have caught."""
    return Check(name, "passed", words, catches_bpd=catches_bpd, catches=catches, level=level)


def failed(name: str, words: str, size_bpd: float | None = None, level: float = 0.0) -> Check:
    """Return a check that found an error."""
    return Check(name, "failed", words, size_bpd=size_bpd, level=level)


def warning(name: str, words: str, size_bpd: float | None = None) -> Check:
    """Return a check that found something suspicious, which is not an error by itself."""
    return Check(name, "warning", words, size_bpd=size_bpd)


def not_applicable(name: str, why: str) -> Check:
    """Return a check that cannot be made."""
    return Check(name, "not applicable", why)


class Clock:
    """The time of the machine."""

    def now(self) -> float:
        """Return seconds."""
        return time.perf_counter()

    def count(self, n_sub_pixels: int) -> None:
        """Hear of how many sub-pixels a model is asked."""


class CountingClock(Clock):
    """A clock that goes on with what a model is asked for, so that an audit is the same on every machine.

    Args:
        rate: sub-pixels of a second.
    """

    def __init__(self, rate: float) -> None:
        """Begin at zero."""
        self.rate, self.n_sub_pixels = rate, 0

    def now(self) -> float:
        """Return how long the machine would have taken."""
        return self.n_sub_pixels / self.rate

    def count(self, n_sub_pixels: int) -> None:
        """Go on."""
        self.n_sub_pixels += n_sub_pixels


@dataclass(frozen=True)
class Case:
    """What is audited.

    Attributes:
        asked: the model and how it is asked; None: there are numbers only.
        data: the images.
        result: the number that is audited.
        seed: of all randomness.
        log_p_true: (N,) nats, the true log-probability of each image, where it is known.
        build: makes the model for other images: ``build(image_shape=(C, H, W), n_levels=L)``; None: it cannot be built.
        seconds: that a check may take, about.
        clock: that says how long something took.
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
        """As a mass function of ours.

        Raises:
            ValueError: there are numbers only.
        """
        if self.asked is None:
            raise ValueError("only numbers were given, so that no model can be asked")
        return self.asked.model

    @property
    def method(self) -> str:
        """By which the model is asked; ``arrays`` where there are numbers only, ``own`` of a model of this package."""
        if self.asked is None:
            return "arrays"
        return "own" if self.asked.offer is None else self.asked.offer.method

    @property
    def is_sampled(self) -> bool:
        """Whether the number rests on samples."""
        return self.result.kind == "lower"

    def rows(self, n_images: int = N_LOOKED_AT) -> np.ndarray:
        """Return which images a check looks at: some, evenly spaced."""
        n_all = len(self.data.images)
        return np.arange(min(n_images, n_all)) * n_all // min(n_images, n_all)

    def images(self, rows: np.ndarray) -> Tensor:
        """Return images by their numbers, (B, C, H, W), on the device of the model."""
        return torch.from_numpy(self.data.images[rows]).to(self.model.device)

    def labels(self, rows: np.ndarray) -> Tensor | None:
        """Return their labels; None where there are none."""
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
        """Score a few images anew; whether the model looks ahead is asked elsewhere.

        Args:
            images: (B, C, H, W) integers, on the device of the model.
            labels: (B,) int64.
            seed: of the samples, besides that of the audit.
            n_samples: K.
            model: another one than that which is audited.
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
        """Return nats per image in bits/dim."""
        return nats_to_bits_per_dim(nats, self.data.image_shape)
