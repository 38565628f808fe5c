r"""Statistics of log-weights, (K, B) in nats, sample axis first.

With :math:`\hat P = \frac1K \sum_k w_k` and CV the coefficient of variation of the weights,
:math:`\log \hat P` has standard deviation CV / sqrt(K) and bias -CV^2 / (2K) to leading order
(Nowozin 2018, "Debiasing Evidence Approximations", propositions 1 and 2).

Both hold while the effective sample size is large. Where a few samples carry all the weight they
saturate, whatever the truth: the first at 1, the second at -1/2. What does not saturate is how much the
bound still rises at its last doubling of K, which to leading order is the bias too; :func:`bias`
takes the larger of the two.

A weight is never exponentiated as it is: everything is relative to the largest. A log-weight of
-inf is a weight of zero; where all are, the estimate is -inf and its errors are 0. NaN and +inf
are not looked for here (:func:`bitsperdim.estimation.estimate` refuses them).

Not here yet: jackknife, extrapolation in 1/K, Pareto k-hat.

Invariants (``tests/estimation/test_log_weights.py``): shifting all log-weights by c shifts the
estimate by c and changes nothing else; the order of the samples does not matter; ESS is K for
equal weights and 1 for a spike; :func:`bound_against_k` is nondecreasing on every path.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    r"""Return :math:`\log \frac1K \sum_k e^{\log w_k}` in nats.

    A stochastic lower bound of log P(x): its expectation is at most log P(x) and rises with K.
    """
    return torch.logsumexp(log_w, dim=dim) - math.log(log_w.shape[dim])


def _relative_weights(log_w: Tensor) -> Tensor:
    """Return w / max(w), (K, B); zeros where every weight is zero."""
    largest = log_w.amax(0)
    return torch.exp(log_w - torch.where(largest.isinf(), 0.0, largest))


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Return :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, (B,), between 1 and K; 0 where every weight is zero."""
    w = _relative_weights(log_w)
    total = w.sum(0)
    return torch.where(total > 0, total.square() / w.square().sum(0).where(total > 0, 1.0), 0.0)


def standard_error(log_w: Tensor) -> Tensor:
    r"""Return the Monte Carlo standard error of the estimate, (B,) in nats: CV / sqrt(K), infinite for K = 1.

    To be believed only where it is well below 1, which is as large as it gets.

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

    The larger in size of the leading bias and of the last rise of :func:`bound_against_k`: with bias
    c / K, halving K doubles it, so the rise from K/2 to K is c / K. Where tails are heavy the bias
    falls more slowly than 1 / K, and the truth is larger still. Minus infinity for K = 1, where
    nothing is known.
    """
    _, bounds = bound_against_k(log_w)
    if len(bounds) == 1:
        return torch.full_like(log_w[0], -torch.inf)
    last_rise = torch.where(bounds[-1] == bounds[-2], 0.0, bounds[-1] - bounds[-2])  # -inf from -inf is no rise
    return torch.minimum(leading_bias(log_w), -last_rise)


def bound_against_k(log_w: Tensor) -> tuple[list[int], Tensor]:
    r"""Return the bound for block sizes 1, 2, 4, ..., K, averaged over disjoint blocks of the same weights.

    .. math:: L_m = \sum_b \frac{|b|}{K} \log \Big( \frac{1}{|b|} \sum_{k \in b} w_k \Big)

    where the blocks b are consecutive, of m samples each (the last may be shorter). Each size merges
    the blocks of the one before, hence by Jensen's inequality L is nondecreasing in m, not on
    average but always. The last size is K itself.

    Args:
        log_w: (K, B) in nats.

    Returns:
        The sizes m, and L (len(sizes), B) in nats.
    """
    n_samples = log_w.shape[0]
    sums, counts = log_w, torch.ones(n_samples, dtype=log_w.dtype, device=log_w.device)
    sizes, bounds = [1], [log_w.mean(0)]
    while len(sums) > 1:
        if len(sums) % 2:  # a lone last block waits for the next round as it is
            tail, tail_count = sums[-1:], counts[-1:]
            sums, counts = sums[:-1], counts[:-1]
        else:
            tail, tail_count = sums[:0], counts[:0]
        sums = torch.cat([torch.logaddexp(sums[0::2], sums[1::2]), tail])
        counts = torch.cat([counts[0::2] + counts[1::2], tail_count])
        sizes.append(min(2 * sizes[-1], n_samples))
        bounds.append(((counts / n_samples)[:, None] * (sums - counts.log()[:, None])).sum(0))
    return sizes, torch.stack(bounds)
