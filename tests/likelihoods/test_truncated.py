"""Masses of intervals under the normal and draws inside them, compared with sixty-digit arithmetic."""

import itertools
import math

import mpmath
import pytest
import torch

from bitsperdim.likelihoods.truncated import FAR, put_far, truncated_normal

pytestmark = pytest.mark.processor
EPS = 2.0**-52
PLACES = (0.0, 0.3, 1.0, 5.0, 12.0, 30.0, 34.999, 35.001, 38.0, 60.0, 1e3, 1e6)
WIDTHS = (1e-9, 1e-4, 0.1, 1.0, 8.0, math.inf)
SHARES = (2.0**-25, 0.01, 0.5, 0.9, 1 - 2.0**-25)


def intervals() -> torch.Tensor:
    """Return (low, high, v) for intervals on either side of zero, around zero, and for the whole line."""
    found = []
    for place, width, v in itertools.product(PLACES, WIDTHS, SHARES):
        found += [(place, place + width, v), (-place - width, -place, v), (-place, 0.7 * width, v)]
    found = [(low, high, v) for low, high, v in found if low < high]
    return torch.tensor([*found, *((-math.inf, math.inf, v) for v in SHARES)], dtype=torch.float64)


def log_left(edge: mpmath.mpf) -> mpmath.mpf:
    if edge == mpmath.mpf("-inf"):
        return edge
    if edge > -1e4:
        return mpmath.log(mpmath.erfc(-edge / mpmath.sqrt(2)) / 2)
    terms = 1 - 1 / edge**2 + 3 / edge**4 - 15 / edge**6 + 105 / edge**8
    return -(edge**2) / 2 - mpmath.log(-edge) - mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(terms)


def exact(low: float, high: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf, bool]:
    """Return the log-mass, its share of the mass below the upper edge, log Phi there, and whether it is mirrored."""
    is_mirrored = low + high > 0
    a, b = (-high, -low) if is_mirrored else (low, high)
    log_low, log_high = log_left(mpmath.mpf(a)), log_left(mpmath.mpf(b))
    share = -mpmath.expm1(log_low - log_high)
    return log_high + mpmath.log(share), share, log_high, is_mirrored


def room(low: float, high: float, share: mpmath.mpf) -> float:
    """Return the allowed relative error of a mass that is a difference of two probabilities.

    Each probability has the error of its argument, which is rounded twice: z^2 units in the last place, and equally
    many for the logarithm of a far one. To these it adds four units.
    """
    near = 0.0 if low < 0 < high else min(abs(low), abs(high))
    return EPS * (4 + 2 * near**2) * (1 + float(1 / share))


def test_masses_have_their_digits() -> None:
    cases = intervals()
    with mpmath.workdps(60):
        _, log_mass = truncated_normal(*cases.T)
        for (low, high, _), found in zip(cases.tolist(), log_mass.tolist(), strict=True):
            wanted, share, *_ = exact(low, high)
            allowed = room(low, high, share)
            if allowed < 0.1:  # an interval of width 1e-9 at 1e6 consists of two neighbouring float64 numbers
                assert abs(float(found - wanted)) <= allowed + EPS * abs(float(wanted)), (low, high)


def test_draws_are_quantiles() -> None:
    """The mass below a draw is the share v of the whole, up to the rounding of the draw and of the masses."""
    cases = intervals()
    z, _ = truncated_normal(*cases.T)
    n_far = 0
    with mpmath.workdps(60):
        for (low, high, v), found in zip(cases.tolist(), z.tolist(), strict=True):
            _, share, log_high, is_mirrored = exact(low, high)
            x = -found if is_mirrored else found
            above = v if is_mirrored else 1 - v
            left = mpmath.exp(log_left(mpmath.mpf(x)) - log_high)
            wanted = 1 - above * share
            allowed = 8 * room(low, high, share) * share + 8 * EPS * (1 + x * x)
            if allowed < 0.1:
                assert abs(left - wanted) <= allowed, (low, high, v)
                n_far += x < -35
    assert n_far > 100


def test_draws_stay_inside() -> None:
    low, high, v = intervals().T
    z, log_mass = truncated_normal(low, high, v)
    assert ((low <= z) & (z <= high)).all()
    assert z.isfinite().all()
    assert log_mass.isfinite().all()
    assert (log_mass <= 0).all()


def test_a_draw_rises_with_its_number() -> None:
    edges = torch.tensor([[-1.0, 2.0], [3.0, 4.0], [-40.0, -39.0], [-math.inf, 0.3]], dtype=torch.float64)
    for low, high in edges:
        v = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
        z, _ = truncated_normal(low.expand(99), high.expand(99), v)
        assert (z.diff() > 0).all()


def test_far_intervals_need_no_look() -> None:
    """The computation for GPUs gives the same results, with infinite edges and with far and near intervals mixed."""
    generator = torch.Generator().manual_seed(0)
    low = 40 * torch.randn(4000, generator=generator, dtype=torch.float64)
    high = low + 3 * torch.rand(4000, generator=generator, dtype=torch.float64)
    low[::97] = -torch.inf
    above = torch.rand(4000, generator=generator, dtype=torch.float64)
    nothing = torch.full_like(low, 7.0)
    found, without = (
        put_far(nothing.clone(), nothing.clone(), low, high, above, may_look=may_look) for may_look in (True, False)
    )
    assert 500 < int((high < FAR).sum()) < 1500
    for ours, theirs in zip(found, without, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
        assert bool((theirs[high >= FAR] == 7).all())
        assert bool(theirs[high < FAR].isfinite().all())
