"""Noise stays in its cell."""

import pytest
import torch

from bitsperdim.dequantization import UniformDequantizer, dequantize
from bitsperdim.models.gaussian import Gaussian

LARGEST_NOISE = 1 - 2**-24  # the largest float32 below 1


@pytest.mark.parametrize("n_levels", [2, 17, 256, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_top_cell_stays_below_one(n_levels: int, dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 1, 1), n_levels - 1, dtype=torch.int64)
    u = torch.tensor([0.0, 0.5, LARGEST_NOISE]).reshape(3, 1, 1, 1, 1)
    y = dequantize(x, u, n_levels, dtype)
    assert y.dtype == dtype
    assert (y < 1).all()
    assert torch.isfinite(torch.logit(y)).all()


@pytest.mark.parametrize("n_levels", [2, 17, 256])
def test_flooring_inverts(n_levels: int, generator: torch.Generator) -> None:
    """In float64 at the largest noise too; float32 rounds some of the largest noise up to the next cell."""
    x = torch.arange(n_levels, dtype=torch.uint8).reshape(1, 1, 1, -1)
    u = torch.rand(200, *x.shape, generator=generator)
    u[0], u[1] = 0, LARGEST_NOISE
    assert torch.equal((dequantize(x, u, n_levels, torch.float64) * n_levels).floor().long(), x.long().expand(u.shape))


def test_uniform_noise_has_the_moments_and_no_density(generator: torch.Generator) -> None:
    """200,000 draws: mean and variance within 4.9 standard errors."""
    x = torch.zeros(100, 1, 2, 10, dtype=torch.uint8)
    u, log_r = UniformDequantizer()(x, 100, generator=generator, noise=None)
    assert u.shape == (100, *x.shape)
    assert log_r.shape == (100, 100)
    assert not log_r.any()
    assert u.min() >= 0
    assert u.max() < 1
    n = u.numel()
    assert abs(u.double().mean() - 0.5) < 4.9 * (1 / 12 / n) ** 0.5
    assert abs(u.double().var() - 1 / 12) < 4.9 * (1 / 180 / n) ** 0.5


def test_too_many_levels_for_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4096 levels, not 4097"):
        Gaussian((1, 1, 1), 4097)
