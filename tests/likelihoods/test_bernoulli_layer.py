"""The fused Bernoulli of a linear layer is the Bernoulli, to rounding, and is not differentiable."""

import pytest
import torch

import laws
from bitsperdim.likelihoods import Bernoulli, bernoulli_log_prob_of_layer, tanh_

pytestmark = pytest.mark.processor


def layer(
    n_dims: int, scale: float, dtype: torch.dtype, n_samples: int = 7, n_images: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, hidden values, weights and biases."""
    generator = torch.Generator().manual_seed(n_dims)
    x = torch.randint(2, (n_images, 1, 1, n_dims), generator=generator).to(torch.uint8)
    hidden = torch.randn(n_samples, n_images, 9, generator=generator, dtype=dtype)
    weight = scale * torch.randn(n_dims, 9, generator=generator, dtype=dtype)
    bias = scale * torch.randn(n_dims, generator=generator, dtype=dtype)
    return x, hidden, weight, bias


# one factor, odd and even numbers of them, a power of two above the largest product, those of MNIST and of CIFAR-10
@pytest.mark.parametrize("n_dims", [1, 2, 15, 64, 512, 784, 3072])
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_it_is_the_bernoulli(n_dims: int, scale: float) -> None:
    """To 1e-12 in float64, 1e-6 in float32, of the larger of 1 and |log p|; and to the rounding of the logits.

    A log-mass moves by at most as much as its logit. How much float32 rounds a logit, a sum of ten terms, is held
    against float64. Logits of 300 have masses whose product is far below the smallest float.
    """
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        x, *layer_of = layer(n_dims, scale, dtype)
        found = bernoulli_log_prob_of_layer(x, *layer_of)
        logits = torch.nn.functional.linear(*(each.double() for each in layer_of))
        room = n_dims * laws.room_for(torch.nn.functional.linear(*layer_of), logits)
        expected = Bernoulli(logits.unflatten(-1, (1, 1, n_dims))).log_prob_of_images(x)
        assert found.dtype == dtype
        assert ((found - expected).abs() <= tolerance * expected.abs().clamp(min=1) + room).all()
        assert not found.requires_grad


@pytest.mark.parametrize("t", [0.0, 4.0, 8.0, 12.0, 16.0, 30.0, 90.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_error_of_images_that_are_almost_certain(t: float, sign: int) -> None:
    """All logits alike and all right, or all wrong: at most 6e-8 nats for each sub-pixel, and 1e-6 of what is lost."""
    x = torch.ones(1, 1, 28, 28, dtype=torch.uint8)
    bias = torch.full((784,), sign * t)
    found = bernoulli_log_prob_of_layer(x, torch.zeros(1, 1, 3), torch.zeros(784, 3), bias).double().item()
    expected = Bernoulli(bias.double().reshape(1, 28, 28)).log_prob_of_images(x).item()
    assert abs(found - expected) <= 784 * 6e-8 + 1e-6 * abs(expected)


def test_a_workspace_serves_calls_of_any_smaller_size() -> None:
    """What an earlier, larger call left there does not matter."""
    workspace = torch.full((2, 30, 64), torch.nan, dtype=torch.float64)
    for n_samples in (10, 4, 7):
        given = layer(64, 1.0, torch.float64, n_samples)
        assert torch.equal(bernoulli_log_prob_of_layer(*given, workspace), bernoulli_log_prob_of_layer(*given))


def test_the_hyperbolic_tangent() -> None:
    """Within 1.5 roundings of one, that is 2e-7 in float32, and in place; far out it is 1, as in torch."""
    for dtype in (torch.float32, torch.float64):
        values = torch.cat([torch.linspace(-30, 30, 10_001), torch.tensor([0.0, 1e-8, -1e30, 1e30])]).to(dtype)
        expected = torch.tanh(values.double())
        found = tanh_(values)
        assert found is values
        assert (found.double() - expected).abs().max() <= 1.5 * torch.finfo(dtype).eps
