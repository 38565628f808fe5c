"""The Gaussian, compared with quadrature over each cell, and its closed-form fit."""

import numpy as np
import pytest
import torch

from bitsperdim.models.gaussian import Gaussian
from support import laws
from support.cases import small_model

pytestmark = pytest.mark.processor


@pytest.mark.parametrize("name", ["gaussian-grey", "gaussian-rgb"])
def test_weights_average_to_the_mass_of_the_cell(name: str, generator: torch.Generator) -> None:
    model = small_model(name)
    assert isinstance(model, Gaussian)
    masses = laws.masses_of_cells(model)
    assert 0.5 < masses.sum() < 1
    images = laws.all_images(model.image_shape, model.n_levels)
    laws.weights_average_to(model, images, masses, generator)


def test_the_density_integrates_to_one() -> None:
    model = small_model("gaussian-grey")
    assert isinstance(model, Gaussian)
    nodes = torch.linspace(-4, 5, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(nodes, nodes).reshape(-1, 1, 1, 2)
    total = model.log_density(grid).exp().sum() * (nodes[1] - nodes[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_the_fit_is_the_maximum_likelihood_with_the_noise_integrated_out(generator: torch.Generator) -> None:
    """Within 5 standard errors of the covariance of images dequantized 4,000 times; one seed in 10^5 fails."""
    images = torch.randint(5, (40, 1, 1, 3), generator=generator).to(torch.uint8)
    model = Gaussian((1, 1, 3), 5).double()
    model.initialise(images)
    u = torch.rand(4_000, 40, 3, generator=generator, dtype=torch.float64)
    y = ((images.reshape(1, 40, 3) + u) / 5).reshape(-1, 3)
    factor = torch.linalg.inv(model.whitening)
    covariance = torch.cov(y.T, correction=0)
    torch.testing.assert_close(model.mean, y.mean(0), rtol=0, atol=5 * float((1 / 12) ** 0.5 / 5 / 160_000**0.5))
    # only the noise varies: with d = x - mean, an entry has the variance of d u' + d' u + u u' (a diagonal one
    # of 2 d u + u^2), at most 4 d^2 / 12 + 1 / 144 for the largest mean square d, over 25^2 for the scale
    mean_square = float(images.double().flatten(1).var(0, correction=0).max())
    spread = (4 * mean_square / 12 + 1 / 144) ** 0.5
    torch.testing.assert_close(factor @ factor.T, covariance, rtol=0, atol=5 * spread / 25 / 160_000**0.5)


def test_it_is_float32_under_autocast(generator: torch.Generator) -> None:
    model = small_model("gaussian-rgb").float()
    images = laws.all_images(model.image_shape, model.n_levels)[:5]
    noise = torch.rand(images.shape, generator=generator)
    exact = model.log_weights(images, noise=noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.log_weights(images, noise=noise), exact)


def test_constant_pixels_do_not_make_it_singular(generator: torch.Generator) -> None:
    images = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    model = Gaussian((1, 2, 2), 17)
    model.initialise(images)
    assert torch.isfinite(model.log_weights(images, 2, generator=generator)).all()


def test_the_given_noise_is_the_first_draw(generator: torch.Generator) -> None:
    model = small_model("gaussian-grey")
    images = laws.all_images(model.image_shape, model.n_levels)
    noise = torch.rand(images.shape, generator=generator)
    log_w = model.log_weights(images, 3, noise=noise, generator=generator)
    y = (images.double() + noise.double() + 2**-25) / 3  # the middle of the step of the noise
    expected = model.log_density(y) - 2 * np.log(3)
    torch.testing.assert_close(log_w[0], expected, rtol=0, atol=laws.ROUNDING)
    assert not torch.equal(log_w[1], log_w[0])


def test_samples_have_the_moments(generator: torch.Generator) -> None:
    """20,000 samples of a normal well inside the cube: mean and spread are within 5 standard errors."""
    model = Gaussian((1, 1, 2), 200).double().eval()
    model.mean.fill_(0.5)
    model.whitening.copy_(torch.linalg.inv(torch.tensor([[0.05, 0.0], [0.03, 0.04]], dtype=torch.float64)))
    samples = (model.sample(20_000, generator=generator).double().flatten(1) + 0.5) / 200
    assert (samples.mean(0) - 0.5).abs().max() < 5 * 0.05 / 20_000**0.5
    expected = torch.tensor([[0.0025, 0.0015], [0.0015, 0.0025]], dtype=torch.float64)
    torch.testing.assert_close(torch.cov(samples.T), expected, rtol=0, atol=5 * 0.0025 * (2 / 20_000) ** 0.5 + 1e-5)
