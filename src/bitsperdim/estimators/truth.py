r"""A model against the distribution that the test images were drawn from, where that is known.

*Nobody beats the truth.* For independent draws x_n from P_true and any model P that did not see them,

.. math:: \mathbb E \prod_n \frac{P(x_n)}{P_{true}(x_n)} = \prod_n \sum_{x: P_{true}(x) > 0} P(x) \le 1

so that by Markov's inequality the *evidence*, the sum of :math:`\log P(x_n) - \log P_{true}(x_n)`, reaches
:math:`\log (1 / \alpha)` with a probability of at most alpha, however many images there are and whatever the model is.
Weights whose mean is P(x) may stand for P(x), since they are drawn independently of the truth. Draws of a bound B have
a mean of at most log P(x), which says nothing of their exponentials: their Monte Carlo error is taken off by Student's
t, and both ways to err have half of alpha.

*What a model lacks.* The excess, the mean of :math:`\log P_{true}(x_n) - \log P(x_n)`, estimates the divergence
KL(P_true || P), which is never negative. Its error is that of the differences, image by image: the spread of
the truth over images, the larger part of the error of either number, is not in it.

Draws that are equal by chance are as many draws as any, so that copies count here.

Invariants (``tests/estimators/test_truth.py``): the truth is refuted no more often than alpha allows, nor is a model
that is as good, by weights and by bounds too; a model whose masses are too large is refuted; the excess is the
divergence, and its interval covers it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from bitsperdim.estimators.paired import paired_difference

LEVEL = 1e-4  # alpha: how often a right model is refuted, at most


@dataclass(frozen=True)
class AgainstTruth:
    """A model and the truth on the same images; all in nats.

    Attributes:
        n_images: N.
        excess: the mean over images of log P_true - log P, which is positive where the model is worse; infinite where
            an image is impossible to the model.
        standard_error: of ``excess``, over test images, with the Monte Carlo noise of the model in it.
        evidence: the sum over images of log P - log P_true; minus infinity where an image is impossible to the model.
        critical: the evidence that refutes; infinite for single draws of bounds, of which no error is known.
        level: how often a right model has as much, at most.
    """

    n_images: int
    excess: float
    standard_error: float
    evidence: float
    critical: float
    level: float

    @property
    def is_refuted(self) -> bool:
        """Whether the model is better than the truth by more than chance allows, so that its number is wrong."""
        return self.evidence >= self.critical


def against_truth(
    log_p: np.ndarray,
    log_p_true: np.ndarray,
    *,
    bound_errors: np.ndarray | None = None,
    n_draws: int = 1,
    level: float = LEVEL,
) -> AgainstTruth:
    """Hold a model against the truth of images that were drawn from it, and that the model did not see.

    Args:
        log_p: (N,) float64 or float32, nats: exact, or the logarithm of the mean of weights whose expectation is P(x).
        log_p_true: (N,) likewise, of the same images; each of them is finite.
        bound_errors: (N,) nats, where ``log_p`` is the mean of draws of a bound: the standard error of each mean.
        n_draws: of each bound.
        level: alpha.

    Raises:
        ValueError: the arrays do not fit each other; a number is NaN or +inf; or an image is impossible to the truth,
            and is then not drawn from it.
    """
    for name, values in (("log_p", log_p), ("log_p_true", log_p_true)):
        if values.ndim != 1 or len(values) == 0 or values.shape != log_p.shape:
            raise ValueError(f"{name} must have shape (N,), N at least 1 and the same for both, not {values.shape}")
        if np.isnan(values).any() or np.isposinf(values).any():
            raise ValueError(f"{name} has a log-likelihood that is NaN or +inf")
    if np.isneginf(log_p_true).any():
        image = int(np.isneginf(log_p_true).argmax())
        raise ValueError(f"log_p_true is -inf for image {image}: what the truth holds impossible was not drawn from it")
    n_images, critical = len(log_p), -math.log(level)
    if bound_errors is not None:
        noise = math.sqrt(float(np.square(bound_errors).sum()))
        off = float(stdtrit(n_draws - 1, 1 - level / 2)) * noise if n_draws > 1 else math.inf
        critical = math.log(2 / level) + off
    if np.isneginf(log_p).any():
        return AgainstTruth(n_images, math.inf, math.inf, -math.inf, critical, level)
    pair = paired_difference(log_p_true, log_p)
    return AgainstTruth(n_images, pair.nats, pair.standard_error, -pair.nats * n_images, critical, level)
