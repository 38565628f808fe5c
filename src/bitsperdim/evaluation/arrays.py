"""Bits per dimension from log-likelihoods that another framework computed: ``bitsperdim.estimate_of_arrays``.

Invariants (``tests/evaluation/test_arrays.py``): the result is the number that :func:`bitsperdim.evaluate` returns for
the same log-likelihoods or log-weights (``test_arrays_are_the_number_of_the_model``).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from bitsperdim.core.errors import InputError, shown
from bitsperdim.evaluation.estimate import Estimate as Scores
from bitsperdim.evaluation.estimate import rows_of_weights
from bitsperdim.evaluation.evaluate import result_of
from bitsperdim.evaluation.images import array_of, data_of
from bitsperdim.evaluation.result import Estimate
from bitsperdim.evaluation.signature import DIGITS
from bitsperdim.models.base import ImageModel


def estimate_of_arrays(
    log_p: Any = None,  # noqa: ANN401 - an array
    log_w: Any = None,  # noqa: ANN401 - an array
    *,
    images: Any,  # noqa: ANN401 - Data, or an array
    n_levels: int | None = None,
    kind: str = "exact",
    name: str = "arrays",
) -> Estimate:
    """Return bits per dimension from log-likelihoods of any framework; their kind is declared, not verified.

    Args:
        log_p: log-likelihoods of ``images`` in the same order, (N,), in nats.
        log_w: log-weights, (K, N), in nats, whose exponentials have the expectation P(x); instead of ``log_p``.
        images: images, given in the same ways as to :func:`evaluate`.
        n_levels: number of levels L, if ``images`` is an array.
        kind: kind of ``log_p``: ``exact``, or ``lower`` for a lower bound.
        name: name in printed text.

    Raises:
        InputError: an argument does not fit; the message says in one sentence which one and why.
    """
    data = data_of(images, n_levels)
    if (log_p is None) == (log_w is None):
        raise InputError(
            "Give either log_p, one log-likelihood for each image, or log_w, log-weights of shape (K, N), but not both."
        )
    if kind not in ("exact", "lower"):
        raise InputError(f"kind = {shown(kind)} is not allowed; it must be exact or lower.")
    key = "log_p" if log_w is None else "log_w"
    values = _numbers(log_p if log_w is None else log_w, key)
    n_images = len(data.images)
    allowed = (n_images,) if log_w is None else (max(1, len(values)) if values.ndim else 1, n_images)
    if values.shape != allowed:
        shape = f"({n_images},)" if log_w is None else f"(K, {n_images})"
        raise InputError(f"{key} must have the shape {shape} for these images, not {values.shape}.")
    weights = values.reshape(-1, n_images)
    is_sampled = log_w is not None or kind == "lower"
    model = _Stored(data.image_shape, data.n_levels, is_exact=not is_sampled)
    rows = rows_of_weights(torch.from_numpy(weights), is_sampled=is_sampled)
    scores = Scores.of_rows(model, len(weights), rows, None)
    options = {"method": key, "values": hashlib.sha256(values.tobytes()).hexdigest()[:DIGITS]}
    return result_of(scores, model, data, name=name, options=options, verified_by=(), seconds=0.0)


def _numbers(given: Any, key: str) -> np.ndarray:  # noqa: ANN401 - whatever was given
    values = array_of(given, key)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{key} must be floating-point numbers in nats, not {values.dtype}.")
    wrong = np.argwhere(np.isnan(values) | np.isposinf(values))
    if len(wrong):
        value = values[tuple(wrong[0])]
        raise InputError(
            f"{key} of image {wrong[0][-1]} is {value}; the logarithm of a probability is never NaN or +inf."
        )
    return np.ascontiguousarray(values.astype(np.float64))


class _Stored(ImageModel):
    """Placeholder for a model of which only the log-likelihoods are known; it stores their kind and computes none."""

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int, *, is_exact: bool) -> None:
        super().__init__(image_shape, n_levels)
        self.is_exact = is_exact  # type: ignore[misc]  # set for this object, not for the class

    def unchecked_log_weights(self, x: torch.Tensor, n_samples: int = 1, **_: Any) -> torch.Tensor:  # noqa: ANN401
        raise NotImplementedError("only the log-likelihoods of this model are known")

    def unchecked_sample(self, n_images: int, **_: Any) -> torch.Tensor:  # noqa: ANN401
        raise NotImplementedError("only the log-likelihoods of this model are known")
