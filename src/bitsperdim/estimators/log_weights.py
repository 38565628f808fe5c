r"""Statistics of log-weights, (K, B) in nats, with the sample axis first.

With :math:`\hat P = \frac1K \sum_k w_k` and CV the coefficient of variation of the weights,
:math:`\log \hat P` has standard deviation CV / sqrt(K) and bias -CV^2 / (2K) to leading order
(Nowozin 2018, "Debiasing Evidence Approximations", propositions 1 and 2).

Both hold while the effective sample size is large. If a few samples carry all the weight, the estimates of both
saturate, whatever the true values are: the first at 1, the second at -1/2. The rise of the bound at its last doubling
of K does not saturate, and to leading order it equals the bias too; :func:`bias` takes the larger of the two.
:func:`jackknife_error` does not saturate either. Use it as the error if there are few samples, as in annealing.

Weights are only exponentiated relative to the largest one. A log-weight of -inf is a weight of zero. If all weights are
zero, the estimate is -inf and its errors are 0. This module does not check for NaN and +inf
(:func:`bitsperdim.evaluation.estimate.estimate` refuses them).

:func:`jackknife` and :func:`extrapolation` remove the leading bias of the estimate. Their results are not bounds, not
even in expectation: they may be above log P(x). Neither helps if the tail of the weights is so heavy that the bias
falls more slowly than 1 / K; :mod:`bitsperdim.estimators.pareto` detects such tails.

Invariants (``tests/estimators/test_log_weights.py``, and ``test_jackknife.py`` from the fifth on):

1. Shifting all log-weights by c shifts the estimates by c and changes nothing else
   (``test_a_shift_moves_the_estimate_alone``).
2. The order of the samples does not matter, except for the bound against K and everything that is computed from it
   (``test_the_order_of_the_samples_does_not_matter``).
3. ESS is K for equal weights and 1 for a spike (``test_equal_weights_and_a_spike``).
4. :func:`bound_against_k` is always nondecreasing, not only on average (``test_the_bound_never_falls``).
5. The jackknife equals its formula with every leave-one-out bound written out (``test_jackknife_is_its_formula``).
6. The jackknife error is close to the spread of reruns (``test_the_jackknife_error_is_the_spread_of_reruns``).
7. For exponential weights, whose expectations are all known, the biases agree with theory: 1 / K for the estimate, and
   1 / K^2 for the jackknife and the extrapolation (``test_biases_of_exponential_weights``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FITTED_SIZES = 4  # number of largest block sizes to which the extrapolation fits its line


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    r"""Return :math:`\log \frac1K \sum_k e^{\log w_k}` in nats.

    It is a stochastic lower bound on log P(x): its expectation is at most log P(x) and rises with K.
    """
    return torch.logsumexp(log_w, dim=dim) - math.log(log_w.shape[dim])


def _relative_weights(log_w: Tensor) -> Tensor:
    """Return w / max(w), (K, B); zeros for an image whose weights are all zero."""
    largest = log_w.amax(0)
    return torch.exp(log_w - torch.where(largest.isinf(), 0.0, largest))


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Return :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, (B,), between 1 and K; 0 if every weight is zero."""
    w = _relative_weights(log_w)
    total = w.sum(0)
    return torch.where(total > 0, total.square() / w.square().sum(0).where(total > 0, 1.0), 0.0)


def standard_error(log_w: Tensor) -> Tensor:
    r"""Return the Monte Carlo standard error of the estimate, (B,) in nats: CV / sqrt(K), infinite for K = 1.

    It can be trusted only if it is well below 1, its largest possible value.

    .. math:: \frac{\mathrm{CV}}{\sqrt K}, \qquad
              \mathrm{CV}^2 = \frac{\frac{1}{K-1} \sum_k (w_k - \bar w)^2}{\bar w^2}
    """
    n_samples = log_w.shape[0]
    if n_samples == 1:
        return torch.full_like(log_w[0], torch.inf)
    w = _relative_weights(log_w)
    mean = w.mean(0)
    variance = w.var(0)  # divides by K - 1
    return torch.where(mean > 0, (variance / n_samples).sqrt() / mean.where(mean > 0, 1.0), 0.0)


def leading_bias(log_w: Tensor) -> Tensor:
    r"""Return the leading bias of the estimate, (B,) in nats: :math:`-\mathrm{CV}^2 / (2K)`, in [-1/2, 0]."""
    return -0.5 * standard_error(log_w).square()


def bias(log_w: Tensor) -> Tensor:
    r"""Return an estimate of the bias of log-mean-exp, (B,) in nats, never positive.

    It is the leading bias or the negative last rise of :func:`bound_against_k`, whichever is larger in size. If the
    bias is c / K, halving K doubles it, so the rise from K/2 to K is c / K. If tails are heavy, the bias falls more
    slowly than 1 / K, and the true bias is larger still. The result is minus infinity for K = 1, where the bias cannot
    be estimated.
    """
    _, bounds = bound_against_k(log_w)
    if len(bounds) == 1:
        return torch.full_like(log_w[0], -torch.inf)
    last_rise = torch.where(bounds[-1] == bounds[-2], 0.0, bounds[-1] - bounds[-2])  # -inf from -inf is no rise
    return torch.minimum(leading_bias(log_w), -last_rise)


def bound_against_k(log_w: Tensor) -> tuple[list[int], Tensor]:
    r"""Return the bound for block sizes 1, 2, 4, ..., K, averaged over disjoint blocks of the same weights.

    .. math:: L_m = \sum_b \frac{|b|}{K} \log \Big( \frac{1}{|b|} \sum_{k \in b} w_k \Big)

    where the blocks b are consecutive and have m samples each (the last may be shorter). Each size merges the blocks of
    the size before. By Jensen's inequality L is therefore always nondecreasing in m, not only on average. The last size
    is K itself.

    Args:
        log_w: log-weights, (K, B), in nats.

    Returns:
        The sizes m, and L (len(sizes), B) in nats.
    """
    n_samples = log_w.shape[0]
    sums, counts = log_w, torch.ones(n_samples, dtype=log_w.dtype, device=log_w.device)
    bounds = [log_w.mean(0)]
    while len(sums) > 1:
        if len(sums) % 2:  # a last block without a partner is passed on unchanged to the next round
            tail, tail_count = sums[-1:], counts[-1:]
            sums, counts = sums[:-1], counts[:-1]
        else:
            tail, tail_count = sums[:0], counts[:0]
        sums = torch.cat([torch.logaddexp(sums[0::2], sums[1::2]), tail])
        counts = torch.cat([counts[0::2] + counts[1::2], tail_count])
        bounds.append(((counts / n_samples)[:, None] * (sums - counts.log()[:, None])).sum(0))
    return bound_sizes(n_samples), torch.stack(bounds)


def bound_sizes(n_samples: int) -> list[int]:
    """Return the block sizes 1, 2, 4, ..., K of :func:`bound_against_k`."""
    return [min(2**power, n_samples) for power in range((n_samples - 1).bit_length() + 1)]


def jackknife(log_w: Tensor) -> Tensor:
    r"""Return the jackknife estimate of log P(x), (B,) in nats, which is not a bound.

    .. math:: J = K L_K - (K - 1) \, \frac1K \sum_{k} L_{K-1}^{(-k)}

    where :math:`L_{K-1}^{(-k)}` is log-mean-exp without the k-th weight. If :math:`L_K` has bias
    :math:`-a_1/K - a_2/K^2 - \dots`, then J has bias :math:`a_2 / (K (K-1))` to leading order, which may have either
    sign.

    The computation takes O(K) steps: with shares :math:`s_k = w_k / \sum_j w_j`, :math:`L_{K-1}^{(-k)} - L_K =
    \log(1 - s_k) - \log(1 - 1/K)`. Only the largest share can exceed one half, and the sum without the largest weight
    is computed separately. No digits are lost, even if one weight carries everything.

    Args:
        log_w: log-weights, (K, B), in nats, K at least 2.

    Returns:
        Estimate, (B,), in nats; minus infinity if every weight is zero, and plus infinity if exactly one is not zero,
        because the sum without that weight is zero.

    Raises:
        ValueError: K is 1, so that no sample can be left out.

    Reference: Nowozin 2018, "Debiasing Evidence Approximations" (the jackknife of order 1 there); Quenouille 1956.
    """
    n_samples = _at_least_two(log_w, "a jackknife")
    estimate = log_mean_exp(log_w)
    rise = _left_out(log_w).sum(0)
    return torch.where(estimate > -torch.inf, estimate - (n_samples - 1) / n_samples * rise, -torch.inf)


def _left_out(log_w: Tensor) -> Tensor:
    """Return the rise of log-mean-exp without each weight, (K, B) nats; it is undefined if all weights are zero."""
    largest, first = log_w.max(0, keepdim=True)
    total = torch.logsumexp(log_w, 0, keepdim=True)
    finite_total = total.where(largest > -torch.inf, 0.0)
    rest = torch.logsumexp(log_w.scatter(0, first, -torch.inf), 0, keepdim=True)  # the sum without the largest
    rises = torch.log1p(-torch.exp(log_w - finite_total).scatter(0, first, 0.0))
    return rises.scatter(0, first, rest - finite_total) - math.log1p(-1 / len(log_w))


def jackknife_error(log_w: Tensor) -> Tensor:
    r"""Return a Monte Carlo standard error of log-mean-exp that does not saturate, (B,) in nats; infinite for K = 1.

    .. math:: \mathrm{se}^2 = \frac{K - 1}{K} \sum_k \Big( L_{K-1}^{(-k)} - \frac1K \sum_j L_{K-1}^{(-j)} \Big)^2

    This is the usual jackknife (Efron and Stein 1981, "The Jackknife Estimate of Variance": in expectation K / (K - 1)
    times its square is at least the variance with K - 1 weights, whatever their distribution). :func:`standard_error`
    is at most 1 nat, however far the weights are apart. The jackknife error is right within 15 % for log-normal weights
    with log-spreads from 0.3 to 5 nats. It is up to a third too large for log-weights with a tail to the left, such as
    those of annealing.

    Args:
        log_w: log-weights, (K, B), in nats.

    Returns:
        Standard error, (B,), in nats; 0 if every weight is zero, infinite if exactly one is not zero.
    """
    if len(log_w) == 1:
        return torch.full_like(log_w[0], torch.inf)
    rises = _left_out(log_w)
    error = (rises - rises.mean(0)).square().sum(0).mul(1 - 1 / len(log_w)).sqrt()
    error = torch.where(error.isnan(), torch.inf, error)  # -inf minus -inf: the sum without the only weight is zero
    return torch.where(log_w.amax(0) > -torch.inf, error, 0.0)


def extrapolation(log_w: Tensor) -> Tensor:
    r"""Return the bound extrapolated to infinitely many samples, (B,) in nats; it is an estimate, not a bound.

    If each block b has bias :math:`-a_1 / |b|`, the bound of :func:`bound_against_k` for n blocks of any sizes is

    .. math:: \mathbb E[L] = \log P(x) - a_1 \sum_b \frac{|b|}{K} \frac{1}{|b|} = \log P(x) - a_1 \frac nK

    to leading order. The estimate is the intercept of a least-squares line, with equal weights for all points, through
    the bounds of the four largest block sizes (n = 1, 2, 4, 8; all sizes if there are fewer) against n / K. Its bias
    falls as 1 / K^2, with a larger constant than the bias of :func:`jackknife`, and it depends on the order of the
    samples. Its purpose is the comparison with the jackknife, which does not use the bound against K.

    Args:
        log_w: log-weights, (K, B), in nats, K at least 2.

    Returns:
        Estimate, (B,), in nats; minus infinity if every weight is zero, and plus infinity if all weights of some fitted
        block are zero and others are not.

    Raises:
        ValueError: K is 1, so that there is only one point and no line.
    """
    n_samples = _at_least_two(log_w, "an extrapolation")
    sizes, bounds = bound_against_k(log_w)
    fitted = bounds[-FITTED_SIZES:]
    x = torch.tensor([-(-n_samples // size) / n_samples for size in sizes[-FITTED_SIZES:]], dtype=torch.float64).to(
        log_w
    )
    centred = x - x.mean()
    coefficients = 1 / len(x) - x.mean() * centred / centred.square().sum()  # of the intercept; their sum is 1
    rises = fitted - fitted[-1].where(fitted[-1] > -torch.inf, 0.0)  # small numbers, which lose few digits in a sum
    intercept = fitted[-1] + (coefficients[:, None] * rises).sum(0)
    finite = torch.where(fitted[0] > -torch.inf, intercept, torch.inf)
    return torch.where(fitted[-1] > -torch.inf, finite, -torch.inf)


def _at_least_two(log_w: Tensor, what: str) -> int:
    n_samples = log_w.shape[0]
    if n_samples < 2:
        raise ValueError(f"{what} needs at least 2 samples, not {n_samples}")
    return n_samples


def mean_error(values: Tensor, same_as: Tensor | None = None) -> float:
    r"""Return the standard error of the mean of values (N,).

    It is infinite for a single value or a single distinct image, and if one of the values is not finite. Copies of an
    image count as one observation. With :math:`u_c` the sum of :math:`v_n - \bar v` over the :math:`n_c` copies of the
    c-th of C distinct images, it is the jackknife error that leaves out one distinct image at a time,

    .. math:: \mathrm{se}^2 = \frac{C - 1}{C} \sum_c \Big( \frac{u_c}{N - n_c} \Big)^2

    which is the usual standard error if C = N.

    Args:
        values: one value for each image, (N,).
        same_as: for each image, the index of an equal one, (N,); None: all are distinct.
    """
    if not bool(values.isfinite().all()):
        return math.inf
    if same_as is None:
        return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    _, group, sizes = same_as.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return math.inf
    sums = values.new_zeros(len(sizes)).index_add_(0, group, values - values.mean())
    return math.sqrt((1 - 1 / len(sizes)) * float((sums / (len(values) - sizes)).square().sum()))
