r"""Comparison of a model with the distribution from which the test images were drawn, if that is known.

*No model beats the truth.* For independent draws x_n from P_true and any model P that did not see them,

.. math:: \mathbb E \prod_n \frac{P(x_n)}{P_{true}(x_n)} = \prod_n \sum_{x: P_{true}(x) > 0} P(x) \le 1

The *evidence* is the sum of :math:`\log P(x_n) - \log P_{true}(x_n)`. By Markov's inequality it reaches
:math:`\log (1 / \alpha)` with a probability of at most alpha, for any number of images and any model.
Weights whose mean is P(x) may replace P(x), since they are drawn independently of the truth. Draws of a bound B have
a mean of at most log P(x), from which nothing follows for their exponentials. For them the Monte Carlo error is taken
into account with Student's t quantile, and each of the two possible errors gets half of alpha.

*Distance to the truth.* The excess, the mean of :math:`\log P_{true}(x_n) - \log P(x_n)`, estimates the divergence
KL(P_true || P), which is never negative. Its standard error comes from the differences, image by image. It does not
contain the spread of the true log P(x) over images, which is the larger part of the error of either number.

Draws that are equal by chance are still independent draws, so copies are counted here.

Invariants (``tests/estimators/test_truth.py``): the truth, or a model that is as good, is refuted no more often than
alpha allows, with weights and with bounds too; a model whose masses are too large is refuted; the excess equals the
divergence, and its interval covers it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from bitsperdim.estimators.paired import paired_difference

LEVEL = 1e-4  # alpha: the largest probability with which a correct model is refuted


@dataclass(frozen=True)
class AgainstTruth:
    """Comparison of a model with the truth on the same images; all values in nats.

    Attributes:
        n_images: number of images N.
        excess: mean over images of log P_true - log P, which is positive if the model is worse; infinite if an image
            has probability 0 under the model.
        standard_error: standard error of ``excess`` over test images, which contains the Monte Carlo noise of the
            model.
        evidence: sum over images of log P - log P_true; minus infinity if an image has probability 0 under the model.
        critical: smallest evidence that refutes the model; infinite for single draws of bounds, whose error is unknown.
        level: largest probability with which the evidence of a correct model reaches ``critical``.
    """

    n_images: int
    excess: float
    standard_error: float
    evidence: float
    critical: float
    level: float

    @property
    def is_refuted(self) -> bool:
        """Whether the model seems better than the truth by more than chance allows, so that its number is wrong."""
        return self.evidence >= self.critical


def against_truth(
    log_p: np.ndarray,
    log_p_true: np.ndarray,
    *,
    bound_errors: np.ndarray | None = None,
    n_draws: int = 1,
    solver_error: float = 0.0,
    level: float = LEVEL,
) -> AgainstTruth:
    """Compare a model with the true distribution on images that were drawn from it and that the model did not see.

    Args:
        log_p: log P(x) under the model, (N,), float64 or float32, nats; exact, or the logarithm of the mean of weights
            whose expectation is P(x).
        log_p_true: true log P(x) of the same images, (N,), float64 or float32, nats, all finite.
        bound_errors: standard errors, (N,), nats, if ``log_p`` holds means of draws of a bound; None: it does not.
        n_draws: number of draws of each bound.
        solver_error: standard error of the mean of ``log_p`` from the steps of an equation, nats per image; twice this
            error is allowed for each image.
        level: level alpha.

    Raises:
        ValueError: the arrays do not fit each other; a value is NaN or +inf; or an image has probability 0 under the
            true distribution, so that it cannot be drawn from it.
    """
    for name, values in (("log_p", log_p), ("log_p_true", log_p_true)):
        if values.ndim != 1 or len(values) == 0 or values.shape != log_p.shape:
            raise ValueError(f"{name} must have shape (N,), N at least 1 and the same for both, not {values.shape}")
        if np.isnan(values).any() or np.isposinf(values).any():
            raise ValueError(f"{name} has a log-likelihood that is NaN or +inf")
    if np.isneginf(log_p_true).any():
        image = int(np.isneginf(log_p_true).argmax())
        raise ValueError(f"log_p_true is -inf for image {image}: an image of true probability 0 cannot be drawn")
    n_images, critical = len(log_p), -math.log(level)
    if bound_errors is not None:
        noise = math.sqrt(float(np.square(bound_errors).sum()))
        off = float(stdtrit(n_draws - 1, 1 - level / 2)) * noise if n_draws > 1 else math.inf
        critical = math.log(2 / level) + off
    critical += 2 * solver_error * n_images
    if np.isneginf(log_p).any():
        return AgainstTruth(n_images, math.inf, math.inf, -math.inf, critical, level)
    pair = paired_difference(log_p_true, log_p)
    return AgainstTruth(n_images, pair.nats, pair.standard_error, -pair.nats * n_images, critical, level)
