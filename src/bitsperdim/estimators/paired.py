r"""Two models on the same images, image by image.

Test images differ far more from each other than two models do on one of them. The standard error of a difference is
therefore that of the differences, not of two separate means: with d_n = log p_a(x_n) - log p_b(x_n),

.. math:: \bar d = \frac1N \sum_n d_n, \qquad \mathrm{se}^2 = \frac{1}{N (N-1)} \sum_n (d_n - \bar d)^2

Images that are in the set several times are no new evidence. With u_c the sum of d_n - mean over the n_c copies of the
c-th of C distinct images it is the jackknife's that leaves out one distinct image at a time,
se^2 = (C - 1) / C sum_c (u_c / (N - n_c))^2, which is the above where all are distinct.

It contains the Monte Carlo noise of both models, but not the spread over training seeds; where both numbers are bounds,
it is the difference of bounds.

Across commits, experiments and recipes: :mod:`bitsperdim.comparing`.

Arrays that are not log-likelihoods of the same images, each of them a finite number, are refused.

Invariants (``tests/estimators/test_compare.py``): against the textbook formula and the spread of many drawn test sets
(``test_the_error_covers``); swapping the models changes the sign alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

INTERVAL = 1.96  # standard errors to each side: 95 % of a normal distribution


@dataclass(frozen=True)
class PairedDifference:
    """The mean over images of a difference of log-likelihoods, nats per image; positive: the first model is better.

    Attributes:
        nats: the mean.
        standard_error: of the mean; infinite for one image.
        n_distinct: how many distinct images there are.
        skewness: of the differences of distinct images, 0 where all are equal.
    """

    nats: float
    standard_error: float
    n_distinct: int
    skewness: float


def paired_difference(log_p: np.ndarray, reference: np.ndarray, same_as: np.ndarray | None = None) -> PairedDifference:
    """Compare two models on the same images.

    Args:
        log_p: (N,) float64 or float32, nats, N at least 1.
        reference: (N,) likewise, of the same images in the same order.
        same_as: (N,) for each image the number of an equal one; None: all are distinct.

    Raises:
        ValueError: the arrays are not log-likelihoods of as many images, or one of them is not finite; it says which.
    """
    for name, values in (("log_p", log_p), ("reference", reference)):
        _check(name, values)
    if log_p.shape != reference.shape:
        raise ValueError(f"log-likelihoods of shapes {log_p.shape} and {reference.shape} cannot be paired")
    difference = log_p.astype(np.float64) - reference.astype(np.float64)
    parts = influences(difference, same_as)
    largest = max(float(np.abs(values).max()) for values in (log_p, reference))
    if np.ptp(difference) <= 8 * np.finfo(np.float64).eps * largest:  # all equal, but for the rounding of both
        parts[:] = 0
    spread = float(np.square(parts).mean())
    skewness = float((parts**3).mean()) / spread**1.5 if spread > 0 else 0.0
    return PairedDifference(float(difference.mean()), standard_error(parts), len(parts), skewness)


def influences(values: np.ndarray, same_as: np.ndarray | None = None) -> np.ndarray:
    """Return what each distinct image adds to the mean over all images, less its share, (C,).

    As the jackknife has it, so that one with many copies counts as what it is: u_c (C - 1) / (C (N - n_c)).

    Args:
        values: (N,) of the images.
        same_as: (N,) for each image the number of an equal one; None: all are distinct.
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
    """Return the standard error of a mean by the :func:`influences` of the images, (C,); infinite for one."""
    n = len(parts)
    return math.sqrt(n / (n - 1) * float(np.square(parts).sum())) if n > 1 else math.inf


def _check(name: str, values: np.ndarray) -> None:
    """Refuse what is not one finite log-likelihood for each image."""
    if not isinstance(values, np.ndarray) or isinstance(values, np.ma.MaskedArray):  # that hides what is not finite
        raise ValueError(f"{name} must be a plain NumPy array, not {type(values).__name__}")
    if values.dtype not in (np.float64, np.float32):
        raise ValueError(f"{name} must be of type float64 or float32, not {values.dtype}")
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} must have shape (N,), N at least 1, not {values.shape}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong) and np.isneginf(values[wrong]).all():
        raise ValueError(
            f"{name} is -inf for image {wrong[0]}: an image that a model holds impossible has no difference to another"
        )
    if len(wrong):
        raise ValueError(f"{name} must be finite, but is {values[wrong[0]]} for image {wrong[0]}")
