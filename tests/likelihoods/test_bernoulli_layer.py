"""The fused log-mass of a linear layer and its derivatives equal those of the Bernoulli, up to rounding."""

import pytest
import torch

from bitsperdim.likelihoods import (
    Bernoulli,
    bernoulli_log_prob_of_layer,
    learned_bernoulli_log_prob_of_layer,
    tanh_,
)
from bitsperdim.likelihoods.bernoulli_layer import ROWS_AT_ONCE
from support import laws

pytestmark = pytest.mark.processor


def layer(
    n_dims: int, scale: float, dtype: torch.dtype, n_samples: int = 7, n_images: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, hidden values, weights and biases."""
    generator = torch.Generator().manual_seed(n_dims)
    x = torch.randint(2, (n_images, 1, 1, n_dims), generator=generator).to(torch.uint8)
    hidden = torch.randn(n_samples, n_images, 9, generator=generator, dtype=dtype)
    weight = scale * torch.randn(n_dims, 9, generator=generator, dtype=dtype)
    bias = scale * torch.randn(n_dims, generator=generator, dtype=dtype)
    return x, hidden, weight, bias


# one factor, odd and even numbers of factors, a power of two above the largest product, sizes of MNIST and CIFAR-10
@pytest.mark.parametrize("n_dims", [1, 2, 15, 64, 512, 784, 3072])
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_it_is_the_bernoulli(n_dims: int, scale: float) -> None:
    """The error relative to max(1, |log p|) is 1e-12 in float64 and 1e-6 in float32, plus the rounding of the logits.

    A log-mass changes by at most as much as its logit. The float32 rounding of a logit, a sum of ten terms, is measured
    with float64. Logits of 300 have masses whose product is far below the smallest float.
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
    """With equal logits, all right or all wrong, the error is at most 6e-8 nats per sub-pixel, plus 1e-6 of |log p|."""
    x = torch.ones(1, 1, 28, 28, dtype=torch.uint8)
    bias = torch.full((784,), sign * t)
    found = bernoulli_log_prob_of_layer(x, torch.zeros(1, 1, 3), torch.zeros(784, 3), bias).double().item()
    expected = Bernoulli(bias.double().reshape(1, 28, 28)).log_prob_of_images(x).item()
    assert abs(found - expected) <= 784 * 6e-8 + 1e-6 * abs(expected)


@pytest.mark.parametrize("n_dims", [1, 15, 784])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_derivatives_are_those_of_the_bernoulli(n_dims: int, scale: float) -> None:
    """Derivatives in hidden values, weights and biases, with a factor for each row: float64, to 1e-12 of the largest.

    There are more samples than are computed at once, so that the last part is smaller.
    """
    n_images = ROWS_AT_ONCE // 3
    x, *values = layer(n_dims, scale, torch.float64, n_samples=7, n_images=n_images)
    factors = torch.randn(7, n_images, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = [], []
    for results, log_prob in (
        (found, learned_bernoulli_log_prob_of_layer),
        (expected, lambda x, *of: Bernoulli(torch.nn.functional.linear(*of)).log_prob(x.flatten(1)).sum(-1)),
    ):
        learned = [value.clone().requires_grad_() for value in values]
        result = log_prob(x, *learned)
        results += [result.detach(), *torch.autograd.grad((result * factors).sum(), learned)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * float(other.abs().max().clamp(min=1)))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_the_derivatives_that_are_wanted_are_computed(wanted: int) -> None:
    """A decoder with frozen weights, as in the refinement of proposals, has a derivative in its input only."""
    x, *values = layer(15, 1.0, torch.float64)
    values[wanted].requires_grad_()
    result = learned_bernoulli_log_prob_of_layer(x, *values)
    result.sum().backward()
    assert [value.grad is not None for value in values] == [place == wanted for place in range(3)]
    assert not learned_bernoulli_log_prob_of_layer(x, *(value.detach() for value in values)).requires_grad


def test_a_workspace_serves_calls_of_any_smaller_size() -> None:
    """Values from an earlier, larger call in the workspace have no effect."""
    workspace = torch.full((2, 30, 64), torch.nan, dtype=torch.float64)
    for n_samples in (10, 4, 7):
        given = layer(64, 1.0, torch.float64, n_samples)
        assert torch.equal(bernoulli_log_prob_of_layer(*given, workspace), bernoulli_log_prob_of_layer(*given))


def test_the_hyperbolic_tangent() -> None:
    """In place, with an error of at most 1.5 roundings of one (2e-7 in float32); 1 for large inputs, as in torch."""
    for dtype in (torch.float32, torch.float64):
        values = torch.cat([torch.linspace(-30, 30, 10_001), torch.tensor([0.0, 1e-8, -1e30, 1e30])]).to(dtype)
        expected = torch.tanh(values.double())
        found = tanh_(values)
        assert found is values
        assert (found.double() - expected).abs().max() <= 1.5 * torch.finfo(dtype).eps
