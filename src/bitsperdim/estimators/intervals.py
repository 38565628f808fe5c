"""Half-widths, in standard errors, of 95 % confidence intervals for one mean over images or for several together.

Invariants (``tests/report/test_ways.py``): intervals contain the truth in 95 % of cases, and several intervals all do
so together in 95 % of cases (``test_intervals_hold_together``).
"""

import math

from scipy.special import stdtrit

LEVEL = 0.05  # probability that an interval misses the truth


def standard_errors(n_distinct: int, n_together: int = 1) -> float:
    """Return the two-sided t quantile with which all intervals together hold in at least 95 % of cases.

    Args:
        n_distinct: number of distinct images in each mean; with fewer than 2 there is no interval, and the result is
            infinity.
        n_together: number of intervals that are considered together (Bonferroni).
    """
    return float(stdtrit(n_distinct - 1, 1 - LEVEL / (2 * n_together))) if n_distinct > 1 else math.inf
