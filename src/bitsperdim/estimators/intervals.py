"""How many standard errors to each side make an interval of 95 %, of one mean over images or of several together.

Invariants (``tests/report/test_ways.py``): intervals hold in 95 % of cases, all together too
(``test_intervals_hold_together``).
"""

import math

from scipy.special import stdtrit

LEVEL = 0.05  # how often an interval misses


def standard_errors(n_distinct: int, n_together: int = 1) -> float:
    """Return the two-sided quantile of t: of that many means together all intervals hold in at least 95 % of cases.

    Args:
        n_distinct: distinct images that each mean is over; fewer than 2 have no interval, and give infinity.
        n_together: how many intervals are looked at (Bonferroni).
    """
    return float(stdtrit(n_distinct - 1, 1 - LEVEL / (2 * n_together))) if n_distinct > 1 else math.inf
