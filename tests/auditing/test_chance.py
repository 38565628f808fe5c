"""The statistical tests of the audit hold their level, and detect the errors that they claim to detect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitsperdim.auditing import annealing, drawing
from bitsperdim.auditing.chance import HALF, excess_evidence, n_in_time, smallest_excess


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_evidence_holds_its_level_however_heavy_the_tail(spread: float) -> None:
    """At most one in a hundred correct models has evidence of a hundred to one against it."""
    generator = torch.Generator().manual_seed(0)
    noise = spread * torch.randn(2000, 64, dtype=torch.float64, generator=generator) - spread**2 / 2  # E exp = 1
    found = [excess_evidence(row) >= math.log(100) for row in noise]
    assert sum(found) <= 33  # 1 % of 2000 is 20 +- 4.5


def test_the_smallest_excess_is_where_evidence_begins() -> None:
    values = 0.2 * torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.02
    least = smallest_excess(values)
    assert excess_evidence(values + least + 1e-6) >= HALF > excess_evidence(values + least - 1e-6)
    assert smallest_excess(torch.full((3,), -torch.inf, dtype=torch.float64)) == math.inf


def test_counts_in_time_are_powers_of_two() -> None:
    assert n_in_time(10.0, 1.0, 1000) == 8
    assert n_in_time(10.0, 100.0, 1000) == 1
    assert n_in_time(10.0, 1e-6, 1000) == 1000


def test_g_is_exact_and_sees_another_distribution() -> None:
    generator = np.random.default_rng(0)
    masses = generator.dirichlet(np.full(500, 0.2))
    for seed in range(5):
        assert not drawing.g_test(masses, generator.multinomial(3000, masses), seed).is_refuted
    other = masses**0.8 / (masses**0.8).sum()
    assert drawing.g_test(masses, generator.multinomial(3000, other), 0).is_refuted


def test_independent_sub_pixels_are_those_of_the_images() -> None:
    images = torch.randint(3, 9, (500, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    start = annealing.fitted(images, 40)
    assert torch.allclose(start.masses.sum(1), torch.ones(4, dtype=torch.float64))
    assert bool((start.masses[:, 4:8].sum(1) > 0.5).all())
    drawn = start.draw(20_000, torch.Generator().manual_seed(1))
    shares = torch.nn.functional.one_hot(drawn, 40).double().mean(0)
    assert torch.allclose(shares, start.masses, atol=0.02)
    assert float(start.log_p(drawn[:1])) == pytest.approx(
        sum(math.log(float(start.masses[place, level])) for place, level in enumerate(drawn[0]))
    )


def test_a_copy_is_a_copy() -> None:
    start = annealing.fitted(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), 4)
    near = start.near(torch.tensor([3, 2, 1, 0]), 0.01)
    drawn = near.draw(1000, torch.Generator().manual_seed(0))
    assert float((drawn == torch.tensor([3, 2, 1, 0])).double().mean()) > 0.97
