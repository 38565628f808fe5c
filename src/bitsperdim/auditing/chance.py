r"""Statistical tests of total mass that hold their level for any model, and the log-weights that they need.

*Markov.* If numbers W are not negative and have a mean of at most 1, then :math:`P(W \ge 1/\alpha) \le \alpha` for any
distribution of W. So an unbiased estimate of a total mass above :math:`1/\alpha` refutes a mass of at most 1 at the
level alpha.

*Ville.* If such numbers are independent, their products :math:`\prod_r (1 + \lambda (W_r - 1))`, lambda from 0 to 1,
have the same two properties, and so has the mean of the products over several lambda. The test needs no variance, and
finds an excess that is small compared with 1 (Ville 1939, "Étude critique de la notion de collectif"; Waudby-Smith and
Ramdas 2024, "Estimating means of bounded random variables by betting").
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bitsperdim.auditing.check import LEVEL, Case
from bitsperdim.estimators.solver import solver_error
from bitsperdim.models.base import ImageModel

STAKES = (0.01, 0.03, 0.1, 0.3, 1.0)  # values of lambda
NUMBERS_AT_ONCE = 2**24  # largest size of a batch: images times sub-pixels times levels, or as many activations
MOST_AT_ONCE = 4096  # largest number of images in a batch
EVIDENCE = -math.log(LEVEL)  # evidence in nats that refutes
HALF = EVIDENCE - math.log(0.5)  # the same at half of the level, for checks that can fail in two ways


@torch.no_grad()
def log_weights(case: Case, images: Tensor, generator: torch.Generator, *, model: ImageModel | None = None) -> Tensor:
    """Draw one log-weight for each image; for an exact model it is log P(x).

    A conditional model is given the same label for all images.

    Args:
        case: the audited case.
        images: (B, C, H, W) integers.
        generator: source of the model's random numbers, on the model's device.
        model: a model to ask instead of the audited one.

    Returns:
        (B,) float64 nats, on the CPU.

    Raises:
        FloatingPointError: a log-weight is NaN or +inf.
    """
    asked = case.model if model is None else model
    case.clock.count(len(images) * asked.n_dims)
    n_levels = max(asked.n_levels, 256)
    at_once = min(max(NUMBERS_AT_ONCE // (asked.n_dims * n_levels), 1), MOST_AT_ONCE)
    parts = []
    for part in images.split(at_once):
        given = part.to(asked.device)
        found = asked.unchecked_log_weights(given, 1, labels=label(case, len(part), asked), generator=generator)
        parts.append(found[0].double().cpu())
    log_w = torch.cat(parts)
    if bool((log_w.isnan() | log_w.isposinf()).any()):
        raise FloatingPointError("NaN or +inf as log P of an image")
    return log_w


@torch.no_grad()
def solver_allowance(case: Case, images: Tensor, model: ImageModel) -> float:
    """Return how much the log of the total mass of images may be too large by the steps of an equation, in nats.

    It is twice the solver error of the total, from the same samples with half and with a quarter of the steps
    (:mod:`bitsperdim.estimators.solver`); 0 for a model that solves no equation.

    Args:
        case: the audited case.
        images: (B, C, H, W) integers.
        model: the model.
    """
    if model.solver_order is None:
        return 0.0
    given, labels = images.to(model.device), label(case, len(images), model)
    totals = []
    for coarser in (1, 2, 4):
        generator = torch.Generator(model.device).manual_seed(case.seed)
        options: dict[str, Any] = {"labels": labels, "generator": generator, "coarser": coarser}
        totals.append(model.unchecked_log_weights(given, 1, **options)[0].double().logsumexp(0).cpu())
    differences = torch.stack([totals[0] - totals[1], totals[1] - totals[2]])[None]
    return 2 * solver_error(differences, model.solver_order).nats


def label(case: Case, n_images: int, model: ImageModel) -> Tensor | None:
    """Return the label of the first image n times, (B,); None if the model is given no labels."""
    labels = case.data.labels
    if model.n_classes is None or labels is None:
        return None
    return torch.full((n_images,), int(labels[0]), dtype=torch.int64, device=model.device)


def n_in_time(seconds: float, seconds_of_one: float, most: int) -> int:
    """Return how many repetitions fit into a time, rounded down to a power of two.

    Rounding makes a repeated audit mostly the same, although times vary.

    Args:
        seconds: the time.
        seconds_of_one: time of one repetition.
        most: upper limit of the result.
    """
    fitting = max(1.0, seconds / max(seconds_of_one, 1e-9))
    return min(most, 2 ** int(math.log2(fitting)))


def excess_evidence(log_values: Tensor) -> float:
    r"""Return the evidence in nats against a mean of at most 1 of independent numbers; :data:`HALF` refutes it.

    .. math:: \log \frac1{|\Lambda|} \sum_{\lambda \in \Lambda} \prod_{r=1}^{R} \big(1 + \lambda (W_r - 1)\big)

    Args:
        log_values: (R,) log W, float64.
    """
    stakes = torch.tensor(STAKES, dtype=torch.float64)[:, None]
    grown = torch.logaddexp(torch.log1p(-stakes), stakes.log() + log_values).sum(1)  # log1p(-1) is minus infinity
    return float(torch.logsumexp(grown, 0)) - math.log(len(STAKES))


def smallest_excess(log_values: Tensor) -> float:
    """Return the smallest log c at which c times the numbers have evidence :data:`HALF`; infinity if there is none."""
    low, high = 0.0, 1.0
    while excess_evidence(log_values + high) < HALF:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if excess_evidence(log_values + middle) < HALF else (low, middle)
    return high
