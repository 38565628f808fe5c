"""Log-masses with 60 digits, from formulas of their own, and the hostile parameters that they are asked for.

The tables: every pair of a location and a log-scale, with 2 to 65,536 levels, at both edges, beside them, in the
middle, and in and beside the cell of the location.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mpmath
import torch
from torch import Tensor

LEVELS = (2, 3, 17, 256, 65_536)
LOCS = (0.0, 0.3, 0.5, -0.5, 1.5, 7.999, 100.25, 127.5, 254.5, 255.0, 65_535.0, -3.7, 32_767.6, -1e6, 1e6, 1e-30)
LOGITS = (0.0, 1e-8, 1.0, -3.0, 5.5, -20.0, 40.0, -800.0, 1e6)
LOG_SCALES = (-20.0, -12.0, -7.0, -3.0, -1.0, 0.0, 0.7, 2.0, 5.0, 10.0, 20.0)


def hostile(n_levels: int) -> list[tuple[int, float, float]]:
    """Return (x, loc, log_scale)."""
    cases = []
    for loc, log_scale in itertools.product(LOCS, LOG_SCALES):
        near = min(n_levels - 1, max(0, round(loc)))
        places = {0, 1, n_levels // 2, n_levels - 2, n_levels - 1, near, near - 1, near + 1}
        cases += [(x, loc, log_scale) for x in sorted(places) if 0 <= x < n_levels]
    return cases


def log_mass(kind: str, x: int, loc: float | mpmath.mpf, log_scale: float, n_levels: int) -> mpmath.mpf:
    """Return the log-mass with 60 digits, from formulas of its own."""
    scale = mpmath.exp(mpmath.mpf(log_scale))
    below, above = ((x + mpmath.mpf(side) / 2 - mpmath.mpf(loc)) / scale for side in (-1, 1))
    if below + above > 0:  # the mirror image, so that the tails stay on the left, where digits are not lost
        below, above, x = -above, -below, n_levels - 1 - x

    def log_left(edge: mpmath.mpf) -> mpmath.mpf:
        if kind == "logistic":
            return -mpmath.log1p(mpmath.exp(-edge)) if edge > -1000 else edge - mpmath.exp(edge)
        if edge > -1e4:
            return mpmath.log(mpmath.erfc(-edge / mpmath.sqrt(2)) / 2)
        terms = 1 - 1 / edge**2 + 3 / edge**4 - 15 / edge**6 + 105 / edge**8
        return -(edge**2) / 2 - mpmath.log(-edge) - mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(terms)

    if x == n_levels - 1:  # all above `below`
        return mpmath.log1p(-mpmath.exp(log_left(below)))
    if x == 0:
        return log_left(above)
    return log_left(above) + mpmath.log1p(-mpmath.exp(log_left(below) - log_left(above)))


def log_sum(terms: Sequence[mpmath.mpf]) -> mpmath.mpf:
    """Return the logarithm of the sum of exponentials."""
    largest = max(terms)
    return largest + mpmath.log(mpmath.fsum(mpmath.exp(term - largest) for term in terms))


def log_softmax(logits: Sequence[float]) -> list[mpmath.mpf]:
    """Return logarithms of shares."""
    exact = [mpmath.mpf(logit) for logit in logits]
    total = log_sum(exact)
    return [logit - total for logit in exact]


def relative_error(found: float, truth: mpmath.mpf) -> float:
    """Return the error of a log-mass relative to max(1, |log p|)."""
    return float(abs(mpmath.mpf(found) - truth) / max(1, abs(truth)))


def draw(values: Sequence[float], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Choose from ``values`` at random, as float32."""
    return torch.tensor(values)[torch.randint(len(values), tuple(shape), generator=generator)]
