"""Normal noise around the middle of a cell: its density, and the mass of an image as the mean of the weights.

Draws are taken at the midpoints of equal shares of their distribution, which is quadrature: no test has a false-alarm
rate.
"""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from bitsperdim.models.parts.dequantization import Dequantizer, UniformDequantizer
from bitsperdim.models.parts.kernel_noise import GaussianDequantizer, TruncatedNormalDequantizer

N_LEVELS = 5


def at_shares(noise: Dequantizer, level: int, n: int = 20_000) -> tuple[Tensor, Tensor]:
    """Return u and log r, (n,), at the midpoints of n equal shares, for an image of one sub-pixel."""
    x = torch.full((1, 1, 1, 1), level, dtype=torch.uint8)
    v = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).reshape(n, 1, 1, 1, 1)
    u, log_r = noise(x, n, generator=None, noise=v)
    return u.flatten(), log_r.flatten()


@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0, 40.0])
def test_truncated_noise_has_its_density(scale: float) -> None:
    u, log_r = at_shares(TruncatedNormalDequantizer(scale), 3, 400)
    normal = stats.truncnorm(-0.5 / scale, 0.5 / scale, 0.5, scale)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    torch.testing.assert_close(log_r, torch.from_numpy(normal.logpdf(u.numpy())), rtol=1e-6, atol=1e-6)
    shares = (torch.arange(400) + 0.5) / 400
    torch.testing.assert_close(torch.from_numpy(normal.cdf(u.numpy())), shares.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.7, 30.0])
@pytest.mark.parametrize("level", [0, 2, N_LEVELS - 1])
def test_the_weights_of_gaussian_noise_are_those_of_all_levels(scale: float, level: int) -> None:
    u, log_r = at_shares(GaussianDequantizer(scale, N_LEVELS), level, 400)
    middles = torch.arange(N_LEVELS).double() + 0.5
    log_n = torch.distributions.Normal(middles, torch.tensor(scale).double()).log_prob((level + u)[:, None])
    log_p_x_given_y = log_n.log_softmax(1)[:, level]
    torch.testing.assert_close(log_r, log_n[:, level] - log_p_x_given_y, rtol=1e-6, atol=1e-6)


def log_density(y: Tensor) -> Tensor:
    """A mixture of normals, of values that are levels plus noise."""
    parts = [(0.3, 1.0, 0.3), (0.5, 2.8, 0.4), (0.2, 4.2, 0.3)]
    return torch.stack([math.log(w) + torch.distributions.Normal(m, s).log_prob(y) for w, m, s in parts]).logsumexp(0)


@pytest.mark.parametrize("scale", [0.35, 0.5, 1.2])
def test_the_mean_weight_is_the_mass(scale: float) -> None:
    y = torch.linspace(-20, 25, 900_001, dtype=torch.float64)
    density = log_density(y).exp()
    middles = torch.arange(N_LEVELS).double() + 0.5
    given_y = torch.softmax(-((y[:, None] - middles) / scale).square() / 2, 1)
    total = 0.0
    for level in range(N_LEVELS):
        is_inside = (y >= level) & (y < level + 1)
        inside = float(density[is_inside].sum()) * 5e-5
        smoothed = float((density * given_y[:, level]).sum()) * 5e-5
        total += smoothed
        noises: list[tuple[Dequantizer, float]] = [
            (UniformDequantizer(), inside),
            (TruncatedNormalDequantizer(scale), inside),
            (GaussianDequantizer(scale, N_LEVELS), smoothed),
        ]
        for noise, mass in noises:
            u, log_r = at_shares(noise, level)
            found = float((log_density(level + u) - log_r).exp().mean())
            assert found == pytest.approx(mass, rel=2e-3), (noise, level)
    assert total == pytest.approx(1, abs=1e-6)
