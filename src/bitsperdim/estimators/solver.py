r"""The error that a grid of finite steps leaves in a mean over images, from the same values with longer steps.

A method of order p has an error that falls by a factor of 2^p if the steps are halved, once they are short enough
(Richardson 1911). Let d_1 be the difference between the full grid and half of the steps, and d_2 the difference between
half and a quarter of them. Then r = |d_2| / |d_1| is the observed factor, and the error of the full grid is about
d_1 / (r - 1). The observed factor is used instead of 2^p, because the steps may be too long for the theory.

Invariants (``tests/estimators/test_solver.py``): for errors that fall as a power, the result is the error
(``test_a_known_error_is_found``); it is not too small when the steps are too long
(``test_steps_that_are_too_long_do_not_hide_the_error``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

SMALLEST_FACTOR = 2.0  # an observed factor below it shows that the error does not fall


@dataclass(frozen=True)
class SolverError:
    """The error of the grid.

    Attributes:
        nats: standard error of the mean over images, in nats per image, not negative.
        observed_order: log2 of the observed factor; NaN if the full grid and half of the steps agree exactly.
    """

    nats: float
    observed_order: float


def solver_error(differences: Tensor, order: int) -> SolverError:
    """Return the error of a mean over images.

    The differences are known for one sample of each image. The error of the mean over other samples is uncertain by the
    spread of the differences, which is added.

    Args:
        differences: for each image, the value of the full grid minus that of half of the steps, and the latter minus
            that of a quarter of the steps, (N, 2) float64, in nats.
        order: order p of the method.
    """
    n_images = len(differences)
    of_half, of_quarter = differences.T
    finest, coarsest = (float(each.square().mean().sqrt()) for each in (of_half, of_quarter))
    if finest == 0:
        return SolverError(0.0, math.nan)
    observed = coarsest / finest
    factor = min(max(observed, SMALLEST_FACTOR), 2.0**order)
    variance = float(of_half.var()) / n_images if n_images > 1 else 0.0
    size = math.sqrt(float(of_half.mean()) ** 2 + variance)
    return SolverError(size / (factor - 1), math.log2(observed) if observed > 0 else -math.inf)
