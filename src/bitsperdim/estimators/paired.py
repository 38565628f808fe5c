r"""Comparison of two models on the same images, image by image.

The values of log P(x) vary much more between test images than between two models on one image. The standard error of a
difference is therefore computed from the differences, not from two separate means: with
d_n = log p_a(x_n) - log p_b(x_n),

.. math:: \bar d = \frac1N \sum_n d_n, \qquad \mathrm{se}^2 = \frac{1}{N (N-1)} \sum_n (d_n - \bar d)^2

Copies of an image in the test set are not new evidence. With u_c the sum of d_n - mean over the n_c copies of the
c-th of C distinct images, the error is the jackknife error that leaves out one distinct image at a time,
se^2 = (C - 1) / C sum_c (u_c / (N - n_c))^2. It equals the formula above if all images are distinct.

The error contains the Monte Carlo noise of both models, but not the spread over training seeds. If both numbers are
bounds, the difference is a difference of bounds.

:mod:`bitsperdim.comparing` compares across commits, experiments and recipes.

The arrays must hold finite log-likelihoods of the same images; other arrays raise an error.

Invariants (``tests/estimators/test_compare.py``): the error agrees with the textbook formula and with the spread over
many drawn test sets (``test_the_error_covers``); swapping the models changes only the sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

INTERVAL = 1.96  # standard errors to each side: 95 % of a normal distribution


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of log-likelihoods in nats per image; it is positive if the first model is better.

    Attributes:
        nats: mean difference over images.
        standard_error: standard error of the mean; infinite for one distinct image.
        n_distinct: number of distinct images.
        skewness: skewness of the differences of distinct images; 0 if all differences are equal.
    """

    nats: float
    standard_error: float
    n_distinct: int
    skewness: float


def paired_difference(log_p: np.ndarray, reference: np.ndarray, same_as: np.ndarray | None = None) -> PairedDifference:
    """Compare two models on the same images.

    Args:
        log_p: log-likelihoods of the first model, (N,), float64 or float32, nats, N at least 1.
        reference: log-likelihoods of the second model, (N,), float64 or float32, nats, for the same images in the same
            order.
        same_as: for each image, the index of an equal one, (N,); None: all are distinct.

    Raises:
        ValueError: the arrays are not log-likelihoods of the same number of images, or a value is not finite; the
            message names the image.
    """
    for name, values in (("log_p", log_p), ("reference", reference)):
        _check(name, values)
    if log_p.shape != reference.shape:
        raise ValueError(f"log-likelihoods of shapes {log_p.shape} and {reference.shape} cannot be paired")
    difference = log_p.astype(np.float64) - reference.astype(np.float64)
    parts = influences(difference, same_as)
    largest = max(float(np.abs(values).max()) for values in (log_p, reference))
    if np.ptp(difference) <= 8 * np.finfo(np.float64).eps * largest:  # all equal, up to rounding
        parts[:] = 0
    spread = float(np.square(parts).mean())
    skewness = float((parts**3).mean()) / spread**1.5 if spread > 0 else 0.0
    return PairedDifference(float(difference.mean()), standard_error(parts), len(parts), skewness)


def influences(values: np.ndarray, same_as: np.ndarray | None = None) -> np.ndarray:
    """Return the influence of each distinct image on the mean over all images, (C,).

    It is the jackknife influence u_c (C - 1) / (C (N - n_c)), where u_c is the sum over the n_c copies of an image of
    the differences from the mean.

    Args:
        values: one value for each image, (N,).
        same_as: for each image, the index of an equal one, (N,); None: all are distinct.
    """
    parts = (values - values.mean()) / len(values)
    if same_as is None:
        return parts
    _, group, sizes = np.unique(same_as, return_inverse=True, return_counts=True)
    n, n_distinct = len(values), len(sizes)
    if n_distinct == 1:
        return np.zeros(1)
    return np.bincount(group, weights=parts) * (n * (n_distinct - 1) / (n_distinct * (n - sizes)))


def standard_error(parts: np.ndarray) -> float:
    """Return the standard error of a mean from the :func:`influences` of C distinct images; infinite for C = 1."""
    n = len(parts)
    return math.sqrt(n / (n - 1) * float(np.square(parts).sum())) if n > 1 else math.inf


def _check(name: str, values: np.ndarray) -> None:
    """Raise ValueError unless there is one finite log-likelihood for each image."""
    if not isinstance(values, np.ndarray) or isinstance(values, np.ma.MaskedArray):  # a mask may hide infinite values
        raise ValueError(f"{name} must be a plain NumPy array, not {type(values).__name__}")
    if values.dtype not in (np.float64, np.float32):
        raise ValueError(f"{name} must be of type float64 or float32, not {values.dtype}")
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} must have shape (N,), N at least 1, not {values.shape}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong) and np.isneginf(values[wrong]).all():
        raise ValueError(
            f"{name} is -inf for image {wrong[0]}: the difference is undefined for an image with probability 0"
        )
    if len(wrong):
        raise ValueError(f"{name} must be finite, but is {values[wrong[0]]} for image {wrong[0]}")
