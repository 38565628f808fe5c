r"""The standard normal on an interval: the mass of the interval, and draws from the normal truncated to it.

.. math:: m = \Phi(b) - \Phi(a), \qquad z = \Phi^{-1}\big(\Phi(a) + v \, m\big), \quad v \sim U(0, 1)

All computations are in float64. An interval is mirrored if necessary, so that most of it is below zero, where
:math:`\Phi` keeps its digits. For intervals so far out that probabilities approach the smallest float64 number, the
computation uses logarithms of probabilities. Either edge may be infinite.

Derivatives are not supported.

Invariants (``tests/likelihoods/test_truncated.py``): masses agree with sixty-digit arithmetic, also for narrow and for
far intervals (``test_masses_have_their_digits``); draws are the quantiles everywhere (``test_draws_are_quantiles``),
and never outside their interval (``test_draws_stay_inside``); far intervals give the same results without a check
whether any interval is far (``test_far_intervals_need_no_look``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtri

FAR = -35.0  # below it, probabilities (1e-268) and their fractions approach the smallest float64 number
NEWTON_STEPS = 4  # for far intervals: the error of the first guess is at most 0.15, and each step squares it


def truncated_normal(low: Tensor, high: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return draws from the standard normal truncated to intervals, and the log-masses of the intervals.

    Args:
        low: lower edges, (N,) float64, which may be -inf.
        high: upper edges, (N,) float64, above the lower edges; they may be +inf.
        v: uniform numbers in (0, 1), (N,) float64; a draw increases with its uniform number.

    Returns:
        z (N,) float64 from ``low`` to ``high``, and log(Phi(high) - Phi(low)) (N,) in nats.
    """
    is_mirrored = low + high > 0  # False for the whole line, whose sum is NaN
    low, high = torch.where(is_mirrored, -high, low), torch.where(is_mirrored, -low, high)
    above = torch.where(is_mirrored, v, 1 - v)  # share of the mass of the interval that is above the draw
    p_low, p_high = _cdf(low), _cdf(high)
    mass = p_high - p_low
    z, log_mass = ndtri(p_high - above * mass), torch.log(mass)
    z, log_mass = put_far(z, log_mass, low, high, above, may_look=low.device.type == "cpu")
    z = torch.minimum(torch.maximum(z, low), high)
    return torch.where(is_mirrored, -z, z), log_mass


def put_far(
    z: Tensor, log_mass: Tensor, low: Tensor, high: Tensor, above: Tensor, *, may_look: bool
) -> tuple[Tensor, Tensor]:
    """Return draws and log-masses (N,) in which those of far intervals are replaced by accurate ones.

    Args:
        z: draws, which are accurate if the interval is not far.
        log_mass: log-masses, which are accurate if the interval is not far.
        low: lower edges, mirrored.
        high: upper edges, mirrored.
        above: share of the mass of the interval that is above the draw.
        may_look: whether to check first if any interval is far; on a GPU the host would have to wait for the check.
    """
    is_far = high < FAR
    if not may_look:
        far = _far(low.clamp(max=FAR), high.clamp(max=FAR), above)
        return torch.where(is_far, far[0], z), torch.where(is_far, far[1], log_mass)
    if bool(is_far.any()):
        z[is_far], log_mass[is_far] = _far(low[is_far], high[is_far], above[is_far])
    return z, log_mass


def _cdf(x: Tensor) -> Tensor:
    return torch.erfc(x * -math.sqrt(0.5)) / 2  # many times faster than torch.special.ndtr


def _far(low: Tensor, high: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    log_high = log_ndtr(high)
    share = -torch.expm1(log_ndtr(low) - log_high)  # share of the interval in the mass below `high`
    return log_quantile(log_high + torch.log1p(-above * share)), log_high + torch.log(share)


def log_quantile(log_p: Tensor) -> Tensor:
    r"""Return z with :math:`\log \Phi(z) = \log p`, for finite log p below :math:`\log \Phi` of :data:`FAR`."""
    z = -torch.sqrt(-2 * log_p)
    for _ in range(NEWTON_STEPS):  # log Phi is concave
        log_cdf = log_ndtr(z)
        hazard = torch.exp(-0.5 * (z.square() + math.log(math.tau)) - log_cdf)
        z = z + (log_p - log_cdf) / hazard
    return z
