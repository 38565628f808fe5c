"""Noise schedules: the published drift and diffusion, the grid, and what is refused."""

import itertools
import math
from typing import Any

import pytest
import torch

from bitsperdim.core.errors import InputError
from bitsperdim.models.parts.noise_schedules import schedule_of


def test_drift_and_diffusion_are_the_published_ones() -> None:
    """VP: f = -beta/2, g^2 = beta. VE: f = 0, g^2 = d sigma^2 / dt (Song et al. 2021, eq. 9 and 11)."""
    for t in (1e-5, 0.1, 0.5, 1.0):
        f, g2 = schedule_of({"name": "vp", "beta_min": 0.2, "beta_max": 10.0}).drift_and_diffusion(t)
        beta = 0.2 + 9.8 * t
        assert (f, g2) == (pytest.approx(-beta / 2), pytest.approx(beta, rel=1e-6))
        f, g2 = schedule_of("ve").drift_and_diffusion(t)
        sigma = 0.01 * 5000**t
        assert (f, g2) == (0.0, pytest.approx(2 * sigma**2 * math.log(5000)))


def test_straight_paths_have_a_straight_velocity() -> None:
    """For data that are one point, the velocity at every y leads straight to it: (point - y) / (1 - t)."""
    point, y = 0.7, torch.tensor(-1.3, dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        f, g2 = schedule_of("ot").drift_and_diffusion(t)
        score = -(y - t * point) / (1 - t) ** 2
        assert float(f * y - 0.5 * g2 * score) == pytest.approx(float((point - y) / (1 - t)))


def test_variances_stay_what_they_are() -> None:
    schedule = schedule_of("vp")
    for t in (0.0, 1e-5, 0.3, 1.0):
        alpha, sigma = schedule.at(t)
        assert alpha**2 + sigma**2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "start", "end"), [("vp", 1e-5, 1.0), ("vp", 1.0, 1e-3), ("ve", 0.0, 1.0), ("ot", 0.01, 0.99)]
)
def test_the_grid_has_equal_steps(name: str, start: float, end: float) -> None:
    schedule = schedule_of(name)
    grid = schedule.grid(start, end, 16)
    assert (grid[0], grid[-1], len(grid)) == (start, end, 17)
    ratios = [math.log(alpha / sigma) for alpha, sigma in map(schedule.at, grid)]
    steps = [b - a for a, b in itertools.pairwise(ratios)]
    assert steps == pytest.approx([steps[0]] * 16, rel=1e-6)
    coarse = schedule.grid(start, end, 8)
    assert grid[::2] == pytest.approx(coarse, rel=1e-9)


def test_own_functions_are_a_schedule() -> None:
    own = schedule_of((lambda t: torch.cos(1.5 * t), lambda t: torch.sin(1.5 * t)))
    f, g2 = own.drift_and_diffusion(0.4)
    tangent = math.tan(0.6)
    assert (f, g2) == (pytest.approx(-1.5 * tangent), pytest.approx(3 * tangent))  # 2 s s' + 2 s^2 tan = 3 tan
    assert own.words == "own"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cosine", "schedule = 'cosine' is not allowed; it must be vp, ve, ot"),
        (3, "schedule = 3 is not allowed"),
        ({"name": "vp", "beta": 1}, "schedule vp has no parameter 'beta'; it has beta_min, beta_max"),
        ({"name": "ot", "beta": 1}, "it has no parameters"),
        ({"name": "ve", "sigma_max": -1}, "sigma_max = -1 of schedule ve is not allowed"),
        ({"name": "ve", "sigma_max": True}, "sigma_max = True of schedule ve is not allowed"),
        ({"name": "vp", "beta_max": float("nan")}, "must be a number above 0"),
    ],
)
def test_a_wrong_schedule_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        schedule_of(given)
    assert words in str(refused.value)


def test_a_schedule_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InputError, match="sigma = 0 or alpha = 0"):
        schedule_of("vp").grid(0.0, 1.0, 4)
    back_and_forth = schedule_of((lambda t: 1 + torch.sin(9 * t), lambda t: torch.ones_like(t)))
    with pytest.raises(InputError, match="must rise or fall all the way"):
        back_and_forth.grid(0.0, 1.0, 4)
    with pytest.raises(InputError, match="no finite drift at time 0"):
        schedule_of("ot").drift_and_diffusion(0.0)
    with pytest.raises(InputError, match="must be finite and not below 0"):
        schedule_of("ot").at(1.5)
