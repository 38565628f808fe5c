"""The convolutional VAE, compared with quadrature, for even and odd sizes."""

import pytest
import torch

from bitsperdim.models.conv_vae import ConvVAE
from support import laws
from support.cases import CONV_VAE, small_model


@pytest.mark.parametrize("name", ["conv-vae-grey", "conv-vae-three-levels", "conv-vae-coupled-rgb"])
@torch.no_grad()
def test_weights_average_to_the_mass(name: str, generator: torch.Generator) -> None:
    model = small_model(name)
    assert isinstance(model, ConvVAE)
    # a proposal wider than the prior bounds the weights, so that their spread is a valid error estimate
    last = model.encoder[-1]
    assert isinstance(last, torch.nn.Conv2d)
    last.weight.mul_(0.3)
    assert last.bias is not None
    last.bias[2:] = 0.4
    images = laws.all_images(model.image_shape, model.n_levels)
    masses = laws.masses_by_quadrature(model, images)
    assert abs(masses.sum().item() - 1) < 1e-10
    laws.weights_average_to(model, images, masses, generator)


@pytest.mark.parametrize(
    ("shape", "n_scales", "latent_shape"),
    [((1, 28, 28), 3, (2, 7, 7)), ((3, 5, 9), 3, (2, 2, 3)), ((1, 7, 4), 1, (2, 7, 4)), ((1, 2, 3), 5, (2, 1, 1))],
)
def test_every_place_sees_the_code_and_every_code_the_image(
    shape: tuple[int, int, int], n_scales: int, latent_shape: tuple[int, int, int], generator: torch.Generator
) -> None:
    model = ConvVAE(shape, 4, **{**CONV_VAE, "n_scales": n_scales, "n_blocks": 2, "likelihood": "normal"}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    assert model.latent_shape == latent_shape
    z = torch.randn(3, 2, model.prior().mean.numel(), generator=generator, dtype=torch.float64, requires_grad=True)
    mean = model.decode(z).mean
    assert mean.shape == (3, 2, *shape)
    (gradient,) = torch.autograd.grad(mean[1, 0].sum(), z)
    assert (gradient[1, 0] != 0).all()  # every unit of the code is used somewhere
    assert not gradient[0].any()
    assert not gradient[:, 1].any()
    x = torch.rand(2, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.encode(x).mean[0].sum(), x)
    assert (gradient[0] != 0).all()
    assert not gradient[1].any()


def test_the_start_is_the_marginal_of_each_channel(generator: torch.Generator) -> None:
    """With the output weights at zero, each pixel has the shares of the levels in its channel."""
    model = ConvVAE((2, 3, 3), 3, **CONV_VAE).double()
    images = torch.randint(3, (30, 2, 3, 3), generator=generator).to(torch.uint8)
    images[:, 1] = 2 * (images[:, 1] // 2)
    model.initialise(images)
    with torch.no_grad():
        model.to_outputs.weight.zero_()
        decoded = model.decode(torch.zeros(1, 1, model.prior().mean.numel(), dtype=torch.float64))
        for level in range(3):
            masses = decoded.log_prob(torch.full((1, 1, 2, 3, 3), level)).exp()[0, 0]
            expected = ((images == level).sum((0, 2, 3)).double() + 1) / (30 * 9 + 3)
            torch.testing.assert_close(masses, expected[:, None, None].expand(2, 3, 3), rtol=0, atol=1e-12)
