"""Masses of single sub-pixels sum to one and agree with 60-digit arithmetic, and samples follow them."""

import itertools
import math

import mpmath
import pytest
import torch

from bitsperdim.likelihoods import Bernoulli, Categorical, DiagonalNormal
from support import exact

pytestmark = pytest.mark.processor

HOSTILE = [0.0, 1e-8, 1.0, -3.0, 21.0, -21.0, 40.0, -40.0, 800.0, -800.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masses_sum_to_one(dtype: torch.dtype) -> None:
    """The sum is within four units in the last place, also for logits for which e^a overflows."""
    logits = torch.tensor(HOSTILE, dtype=dtype)
    tolerance = 4 * torch.finfo(dtype).eps
    bernoulli = Bernoulli(logits)
    total = sum(bernoulli.log_prob(torch.full_like(logits, level)).exp() for level in (0, 1))
    torch.testing.assert_close(total, torch.ones_like(logits), rtol=0, atol=tolerance)
    categorical = Categorical(torch.cartesian_prod(logits, logits, logits))
    levels = torch.arange(3)[:, None].expand(3, len(HOSTILE) ** 3)
    totals = torch.stack([categorical.log_prob(level) for level in levels]).exp().sum(0)
    torch.testing.assert_close(totals, torch.ones_like(totals), rtol=0, atol=tolerance)


def test_a_float32_mass_is_exact_to_rounding() -> None:
    """It is compared with 60 digits, also for logits for which e^a overflows, and for up to 65,536 levels.

    The largest errors found, relative to max(1, |log p|), are 7.3e-8 (Bernoulli) and 1.0e-7 (categorical).
    """
    logits = torch.cat(
        [torch.tensor(HOSTILE), torch.tensor([1e-30, 1e6, -1e6, 88.0, 104.0]), torch.linspace(-60, 60, 501)]
    )
    with mpmath.workdps(60):
        for level in (0, 1):
            for logit, found in zip(logits, Bernoulli(logits).log_prob(torch.tensor(level)), strict=True):
                truth = -mpmath.log1p(mpmath.exp((1 - 2 * level) * mpmath.mpf(float(logit))))
                assert exact.relative_error(float(found), truth) < 2e-7
        generator = torch.Generator().manual_seed(0)
        few = itertools.product((2, 256, 257), (0.0, 0.01, 1.0, 30.0, 1e6), (0.1, 1e6))
        for n_levels, spread, shift in [*few, (65_536, 0.01, 0.1), (65_536, 30.0, 0.1)]:
            categorical = Categorical(spread * torch.randn(n_levels, generator=generator) + shift)
            x = torch.tensor([0, 1, n_levels - 1, int(categorical.logits.argmax()), int(categorical.logits.argmin())])
            truths = exact.log_softmax(categorical.logits.tolist())
            for level, found in zip(x.tolist(), categorical.log_prob(x), strict=True):
                assert exact.relative_error(float(found), truths[level]) < 2e-7


def test_two_categories_are_a_bernoulli() -> None:
    logits = torch.tensor(HOSTILE, dtype=torch.float64)
    categorical = Categorical(torch.stack([torch.zeros_like(logits), logits], dim=-1))
    for level in (0, 1):
        x = torch.full(logits.shape, level)
        torch.testing.assert_close(categorical.log_prob(x), Bernoulli(logits).log_prob(x), rtol=1e-15, atol=2e-15)
    torch.testing.assert_close(categorical.mean, Bernoulli(logits).mean)


def test_gradients_are_finite_at_the_extremes() -> None:
    for level in (0, 1):
        logits = torch.tensor(HOSTILE, requires_grad=True)
        Bernoulli(logits).log_prob(torch.full(logits.shape, level)).sum().backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, level - torch.sigmoid(logits.detach()))


def test_samples_have_the_mean(generator: torch.Generator) -> None:
    """Seven means of 100,000 draws are within 4.9 standard errors; a false alarm in one of 140,000 seeds."""
    n = 100_000
    masses = torch.tensor([[0.5, 0.3, 0.2], [0.01, 0.01, 0.98], [1 / 3] * 3])
    categorical = Categorical(masses.log().expand(n, 3, 3))
    spread = (masses @ torch.tensor([0.0, 1.0, 4.0]) - categorical.mean[0].square()).sqrt()
    z = (categorical.sample(generator=generator).double().mean(0) - categorical.mean[0]) / (spread / n**0.5)
    assert z.abs().max() < 4.9
    logits = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    bernoulli = Bernoulli(logits.expand(n, 4))
    p = torch.sigmoid(logits)
    z = (bernoulli.sample(generator=generator).double().mean(0) - p) / (p * (1 - p) / n).sqrt()
    assert z.abs().max() < 4.9


def test_half_precision_logits_are_scored_in_float32() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert Bernoulli(torch.zeros(2, dtype=dtype)).log_prob(torch.zeros(2)).dtype == torch.float32
        assert Categorical(torch.zeros(2, 3, dtype=dtype)).log_prob(torch.zeros(2)).dtype == torch.float32


def test_the_normal_agrees_with_torch_and_samples_have_its_moments(generator: torch.Generator) -> None:
    mean = torch.tensor([0.0, 3.0, -1e3], dtype=torch.float64)
    log_scale = torch.tensor([0.0, -4.0, 2.0], dtype=torch.float64)
    normal = DiagonalNormal(mean, log_scale)
    z = normal.rsample(50_000, generator=generator)
    expected = torch.distributions.Normal(mean, log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(normal.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    standardised = (z - mean) / log_scale.exp()
    assert (standardised.mean(0).abs() < 4.9 / 50_000**0.5).all()
    assert ((standardised.var(0) - 1).abs() < 4.9 * math.sqrt(2 / 50_000)).all()
