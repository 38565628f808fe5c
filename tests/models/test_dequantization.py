"""Noise stays in its cell, has the stated density, and is fixed if it should be."""

import math

import numpy as np
import pytest
import torch

from bitsperdim.models.gaussian import Gaussian
from bitsperdim.models.parts.dequantization import (
    DEQUANTIZATIONS,
    NoDequantizer,
    UniformDequantizer,
    VariationalDequantizer,
    dequantize,
    dequantizer,
    logistic_log_density,
    uniform,
)
from support import laws

pytestmark = pytest.mark.processor

LARGEST_NOISE = 1 - 2**-24  # the largest float32 below 1
SIZES = {"n_couplings": 3, "n_filters": 6, "n_blocks": 1}


def learned(image_shape: tuple[int, int, int], n_levels: int, n_couplings: int = 3) -> VariationalDequantizer:
    """Return learned noise in float64 with changed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noise = VariationalDequantizer(image_shape, n_levels, **{**SIZES, "n_couplings": n_couplings}).double()
        for parameter in noise.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    return noise


@pytest.mark.parametrize("n_levels", [2, 17, 256, 4096])
def test_the_top_cell_stays_below_one(n_levels: int) -> None:
    for level in (0, n_levels - 1):
        x = torch.full((1, 1, 1, 1), level, dtype=torch.int64)
        given = torch.tensor([0.0, 0.5, LARGEST_NOISE]).reshape(3, 1, 1, 1, 1)
        u = uniform(x, 3, None, given)
        assert torch.logit(dequantize(x, u, n_levels)).abs().max() < 30  # no draw of float32 is an outlier
        extreme = torch.tensor([0.0, 1.0, 1e-300], dtype=torch.float64).reshape(3, 1, 1, 1, 1)  # a learned u, rounded
        for noise in (u, extreme):
            y = dequantize(x, noise, n_levels)
            assert y.dtype == torch.float64
            assert (y > 0).all()
            assert (y < 1).all()
            assert torch.isfinite(torch.logit(y)).all()


@pytest.mark.parametrize("n_levels", [2, 17, 256, 4096])
def test_flooring_inverts(n_levels: int, generator: torch.Generator) -> None:
    x = torch.arange(n_levels).reshape(1, 1, 1, -1)
    given = torch.tensor([0.0, LARGEST_NOISE]).reshape(2, 1, 1, 1, 1).expand(2, *x.shape)
    u = uniform(x, 50, generator, given)
    assert u.shape == (50, *x.shape)
    assert torch.equal((dequantize(x, u, n_levels) * n_levels).floor().long(), x.expand(u.shape))


def test_uniform_noise_has_the_moments_and_no_density(generator: torch.Generator) -> None:
    """200,000 draws: mean and variance are within 4.9 standard errors."""
    x = torch.zeros(100, 1, 2, 10, dtype=torch.uint8)
    u, log_r = UniformDequantizer()(x, 100, generator=generator, noise=None)
    assert u.shape == (100, *x.shape)
    assert log_r.shape == (100, 100)
    assert not log_r.any()
    assert u.min() > 0
    assert u.max() < 1
    n = u.numel()
    assert abs(u.double().mean() - 0.5) < 4.9 * (1 / 12 / n) ** 0.5
    assert abs(u.double().var() - 1 / 12) < 4.9 * (1 / 180 / n) ** 0.5


def test_given_noise_comes_first_and_the_rest_is_drawn(generator: torch.Generator) -> None:
    x = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    given = torch.rand(2, *x.shape, generator=generator)
    for noise in (given[0], given):
        n_given = noise.numel() // x.numel()
        u, _ = UniformDequantizer()(x, 3, generator=torch.Generator().manual_seed(1), noise=noise)
        torch.testing.assert_close(u[:n_given], given[:n_given].double(), rtol=0, atol=1e-7)
        drawn, _ = UniformDequantizer()(x, 3 - n_given, generator=torch.Generator().manual_seed(1), noise=None)
        assert torch.equal(u[n_given:], drawn)
    one, _ = UniformDequantizer()(x, 1, generator=None, noise=given)
    assert torch.equal(one, u[:1])
    with pytest.raises(ValueError, match=r"images of shape \(4, 1, 2, 2\) cannot have the shape \(2, 2, 1, 2, 2\)"):
        UniformDequantizer()(x, 3, generator=None, noise=given[:, :2])


def test_learned_noise_moves_every_place_given_another() -> None:
    """Two-sided: with two couplings each u depends on its own v and on the v of some other sub-pixel."""
    noise = learned((1, 2, 3), 4, n_couplings=2)
    x = torch.tensor([[[[0, 3, 1], [2, 2, 0]]]], dtype=torch.uint8)
    v = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)

    def moved(flat: torch.Tensor) -> torch.Tensor:
        return noise.transformed(x, flat.reshape(1, 1, 1, 2, 3))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(moved, v)
    assert ((jacobian != 0).sum(1) > 1).all()
    assert not torch.isclose(moved(v), v, rtol=0, atol=1e-3).any()


def test_variational_noise_starts_uniform(generator: torch.Generator) -> None:
    x = torch.randint(5, (6, 3, 2, 4), generator=generator).to(torch.uint8)
    noise = VariationalDequantizer((3, 2, 4), 5, **SIZES)
    given = torch.rand(2, *x.shape, generator=generator)
    u, log_r = noise(x, 2, generator=None, noise=given)
    torch.testing.assert_close(u, given.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(log_r, torch.zeros(2, 6, dtype=torch.float64), rtol=0, atol=1e-5)


def test_variational_noise_has_its_density(generator: torch.Generator) -> None:
    """Log r is minus the logarithm of the Jacobian determinant of u(v), by autograd, for every image and draw."""
    noise = learned((1, 2, 3), 4)
    x = torch.randint(4, (3, 1, 2, 3), generator=generator).to(torch.uint8)
    v = 0.02 + 0.96 * torch.rand(2, *x.shape, generator=generator, dtype=torch.float64)
    u, log_r = noise.transformed(x, v)
    assert log_r.abs().min() > 0.01
    for draw in range(2):
        for image in range(3):

            def moved(flat: torch.Tensor, image: int = image) -> torch.Tensor:
                return noise.transformed(x[image : image + 1], flat.reshape(1, 1, 1, 2, 3))[0].flatten()

            jacobian = torch.autograd.functional.jacobian(moved, v[draw, image].flatten())
            expected = -torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_r[draw, image], expected, rtol=1e-9, atol=1e-9)
    assert (u > 0).all()
    assert (u < 1).all()


def test_variational_noise_depends_on_the_image_and_integrates_to_one() -> None:
    """The mean of 1 / r over draws is the volume of the cube, 1: 40,000 draws, within 4.9 standard errors."""
    noise = learned((1, 1, 2), 4)
    x = torch.tensor([[[[0, 3]]], [[[2, 1]]]], dtype=torch.uint8)
    u, log_r = noise(x, 40_000, generator=torch.Generator().manual_seed(0), noise=None)
    inverse = torch.exp(-log_r)
    z = (inverse.mean(0) - 1) / (inverse.std(0) / 40_000**0.5)
    assert z.abs().max() < laws.FAR
    assert (u[:, 0].mean(0) - u[:, 1].mean(0)).abs().max() > 0.01


def test_noise_is_refused_nowhere_and_none_is_the_middle_of_the_cell() -> None:
    x = torch.tensor([[[[0, 3]]]], dtype=torch.uint8)
    u, log_r = NoDequantizer()(x, 2, generator=None, noise=None)
    assert torch.equal(dequantize(x, u, 4), torch.tensor([1 / 8, 7 / 8]).double().expand(2, 1, 1, 1, 2))
    assert not log_r.any()
    built = {name: dequantizer(name, (1, 1, 2), 4, SIZES) for name in DEQUANTIZATIONS}
    assert {name: (item.is_noise, item.is_fixed) for name, item in built.items()} == {
        "none": (False, False),
        "uniform_fixed": (True, True),
        "uniform": (True, False),
        "variational": (True, False),
    }
    with pytest.raises(ValueError, match="dequantization must be one of none, uniform_fixed, uniform"):
        dequantizer("gauss", (1, 1, 2), 4, SIZES)


def test_the_logistic_density_is_the_derivative_of_the_logistic_function() -> None:
    h = torch.linspace(-12, 12, 61, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(torch.sigmoid(h).sum(), h)
    torch.testing.assert_close(logistic_log_density(h).detach(), derivative.log(), rtol=1e-9, atol=1e-9)
    assert logistic_log_density(torch.tensor(800.0)).item() == pytest.approx(-800)
    nodes = np.linspace(-40, 40, 4001)
    total = float(logistic_log_density(torch.from_numpy(nodes)).exp().sum()) * (nodes[1] - nodes[0])
    assert math.isclose(total, 1, abs_tol=1e-12)


def test_too_many_levels_for_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4096 levels, not 4097"):
        Gaussian((1, 1, 1), 4097)
