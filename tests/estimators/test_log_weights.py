"""Statistics of log-weights: invariances, extreme cases, formulas, and the monotonicity of the bound against K."""

import math

import pytest
import torch

from bitsperdim.estimators.log_weights import (
    bias,
    bound_against_k,
    effective_sample_size,
    leading_bias,
    log_mean_exp,
    standard_error,
)

pytestmark = pytest.mark.processor

SHIFT = 5_000.0  # e^5000 overflows every float


def log_weights(n_samples: int = 37, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_samples)
    return spread * torch.randn(n_samples, 6, generator=generator, dtype=torch.float64) - 90


def test_against_plain_arithmetic() -> None:
    log_w = log_weights() + 90
    w = log_w.exp()
    torch.testing.assert_close(log_mean_exp(log_w), w.mean(0).log())
    torch.testing.assert_close(effective_sample_size(log_w), w.sum(0) ** 2 / (w**2).sum(0))
    error = w.std(0) / w.mean(0) / math.sqrt(37)
    torch.testing.assert_close(standard_error(log_w), error)
    torch.testing.assert_close(leading_bias(log_w), -(w.var(0) / w.mean(0) ** 2) / (2 * 37))


@pytest.mark.parametrize("shift", [SHIFT, -SHIFT])
def test_a_shift_moves_the_estimate_alone(shift: float) -> None:
    log_w = log_weights()
    torch.testing.assert_close(log_mean_exp(log_w + shift), log_mean_exp(log_w) + shift)
    for statistic in (effective_sample_size, standard_error, leading_bias):
        torch.testing.assert_close(statistic(log_w + shift), statistic(log_w), rtol=1e-9, atol=0)


def test_the_order_of_the_samples_does_not_matter() -> None:
    log_w = log_weights()
    shuffled = log_w[torch.randperm(37, generator=torch.Generator().manual_seed(0))]
    for statistic in (log_mean_exp, effective_sample_size, standard_error, leading_bias):
        torch.testing.assert_close(statistic(shuffled), statistic(log_w))


def test_equal_weights_and_a_spike() -> None:
    equal = torch.full((50, 2), -123.0, dtype=torch.float64)
    assert effective_sample_size(equal).tolist() == pytest.approx([50, 50])
    assert standard_error(equal).tolist() == [0, 0]
    spike = torch.full((50, 1), -torch.inf, dtype=torch.float64)
    spike[7] = 3.0
    assert effective_sample_size(spike).item() == 1
    assert log_mean_exp(spike).item() == pytest.approx(3 - math.log(50))
    assert standard_error(spike).item() == pytest.approx(1)


def test_an_impossible_image_is_minus_infinity_without_nan() -> None:
    log_w = torch.full((8, 2), -torch.inf, dtype=torch.float64)
    log_w[:, 1] = -4
    assert log_mean_exp(log_w).tolist() == [-torch.inf, pytest.approx(-4)]
    assert effective_sample_size(log_w).tolist() == [0, 8]
    assert standard_error(log_w).tolist() == [0, 0]
    _, bounds = bound_against_k(log_w)
    assert (bounds[:, 0] == -torch.inf).all()


def test_one_sample_says_nothing_of_its_error() -> None:
    log_w = log_weights(1)
    assert torch.isinf(standard_error(log_w)).all()
    assert torch.equal(log_mean_exp(log_w), log_w[0])


@pytest.mark.parametrize("n_samples", [1, 2, 3, 5, 8, 37, 64, 100, 1000])
@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0, 50.0])
def test_the_bound_never_falls(n_samples: int, spread: float) -> None:
    """It is nondecreasing always, not only on average; the first bound is the ELBO and the last one the estimate."""
    log_w = log_weights(n_samples, spread)
    sizes, bounds = bound_against_k(log_w)
    assert sizes == [min(2**i, n_samples) for i in range(len(sizes))]
    assert sizes[-1] == n_samples
    torch.testing.assert_close(bounds[0], log_w.mean(0))
    torch.testing.assert_close(bounds[-1], log_mean_exp(log_w))
    assert (bounds.diff(dim=0) >= -1e-12).all()


def test_blocks_are_consecutive_and_weighted_by_their_size() -> None:
    """With K = 5 the blocks of two are (0, 1), (2, 3), (4)."""
    log_w = log_weights(5)
    sizes, bounds = bound_against_k(log_w)
    assert sizes == [1, 2, 4, 5]
    expected = (2 * log_mean_exp(log_w[:2]) + 2 * log_mean_exp(log_w[2:4]) + log_w[4]) / 5
    torch.testing.assert_close(bounds[1], expected)
    torch.testing.assert_close(bounds[2], (4 * log_mean_exp(log_w[:4]) + log_w[4]) / 5)


def test_error_and_bias_match_repetition() -> None:
    """Error and bias agree with 200,000 repetitions of log-normal weights of spread 1/2 with K = 5.

    The mean of the estimates has an error of 0.0005, compared with a bias of -0.026; next-order terms are about a tenth
    of either.
    """
    spread, n_samples, n_repetitions = 0.5, 5, 200_000
    generator = torch.Generator().manual_seed(11)
    log_w = spread * torch.randn(n_samples, n_repetitions, generator=generator, dtype=torch.float64)
    exact = spread**2 / 2
    estimates = log_mean_exp(log_w)
    assert standard_error(log_w).square().mean().sqrt().item() == pytest.approx(estimates.std().item(), rel=0.15)
    measured = estimates.mean().item() - exact
    assert -0.03 < measured < -0.02
    assert leading_bias(log_w).mean().item() == pytest.approx(measured, rel=0.2)


def test_the_bias_does_not_saturate_where_its_leading_order_does() -> None:
    """For log-normal weights of spread 10, K = 1,024, the true bias is -24 nats, and the leading order shows -1/2."""
    log_w = 10 * torch.randn(1024, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = log_mean_exp(log_w).mean().item() - 50
    assert truth < -20
    assert leading_bias(log_w).min() >= -0.5
    assert truth < bias(log_w).mean().item() < -1
    assert (effective_sample_size(log_w) < 10).double().mean() > 0.9


def test_the_bias_is_the_larger_of_the_two_and_its_limits() -> None:
    log_w = log_weights(64)
    _, bounds = bound_against_k(log_w)
    torch.testing.assert_close(bias(log_w), torch.minimum(leading_bias(log_w), bounds[-2] - bounds[-1]))
    assert (bias(log_weights(1)) == -torch.inf).all()
    assert (bias(torch.full((8, 1), -torch.inf)) == 0).all()
    assert (bias(torch.full((8, 1), -3.0)) == 0).all()
