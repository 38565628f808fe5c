r"""Statistics of log-weights, (K, B) in nats, sample axis first.

With :math:`\hat P = \frac1K \sum_k w_k` and CV the coefficient of variation of the weights,
:math:`\log \hat P` has standard deviation CV / sqrt(K) and bias -CV^2 / (2K) to leading order
(Nowozin 2018, "Debiasing Evidence Approximations", propositions 1 and 2).

Both hold while the effective sample size is large. Where a few samples carry all the weight they
saturate, whatever the truth: the first at 1, the second at -1/2. What does not saturate is how much the
bound still rises at its last doubling of K, which to leading order is the bias too; :func:`bias`
takes the larger of the two. :func:`jackknife_error` does not saturate either: with few samples, as of annealing, it is
the error to take.

A weight is never exponentiated as it is: everything is relative to the largest. A log-weight of
-inf is a weight of zero; where all are, the estimate is -inf and its errors are 0. NaN and +inf
are not looked for here (:func:`bitsperdim.evaluation.estimate.estimate` refuses them).

:func:`jackknife` and :func:`extrapolation` take the leading bias out of the estimate. What they return is no bound,
in expectation either: it may lie above log P(x). Neither helps where the tail of the weights is so heavy that the
bias falls more slowly than 1 / K; :mod:`bitsperdim.estimators.pareto` looks for that.

Invariants (``tests/estimators/test_log_weights.py``, and ``test_jackknife.py`` from the fifth on):

1. Shifting all log-weights by c shifts the estimates by c and changes nothing else
   (``test_a_shift_moves_the_estimate_alone``).
2. The order of the samples does not matter, but for the bound against K and what comes from it
   (``test_the_order_of_the_samples_does_not_matter``).
3. ESS is K for equal weights and 1 for a spike (``test_equal_weights_and_a_spike``).
4. :func:`bound_against_k` is nondecreasing on every path (``test_the_bound_never_falls``).
5. The jackknife is its formula with every leave-one-out bound written out (``test_jackknife_is_its_formula``).
6. The jackknife's error is about the spread of reruns (``test_the_jackknife_error_is_the_spread_of_reruns``).
7. For exponential weights, of which all expectations are known, estimate, jackknife and extrapolation have the
   biases that the theory says: 1 / K, and 1 / K^2 of the two others (``test_biases_of_exponential_weights``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FITTED_SIZES = 4  # block sizes, the largest ones, through which the extrapolation goes


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
    bounds = [log_w.mean(0)]
    while len(sums) > 1:
        if len(sums) % 2:  # a lone last block waits for the next round as it is
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
    r"""Return the jackknifed estimate of log P(x), (B,) in nats: an estimate, and no bound.

    .. math:: J = K L_K - (K - 1) \, \frac1K \sum_{k} L_{K-1}^{(-k)}

    where :math:`L_{K-1}^{(-k)}` is log-mean-exp without the k-th weight. If :math:`L_K` has bias
    :math:`-a_1/K - a_2/K^2 - \dots`, then J has :math:`a_2 / (K (K-1))` to leading order: the sign may be either.

    All of it in O(K): with shares :math:`s_k = w_k / \sum_j w_j`, :math:`L_{K-1}^{(-k)} - L_K =
    \log(1 - s_k) - \log(1 - 1/K)`. No share but the largest exceeds one half, and what is left without the
    largest is summed for itself: nothing is lost where one weight carries all.

    Args:
        log_w: (K, B) in nats, K at least 2.

    Returns:
        (B,) nats; minus infinity where every weight is zero, and plus infinity where exactly one is not, since
        what is left without that one is zero.

    Raises:
        ValueError: K is 1: nothing can be left out.

    Reference: Nowozin 2018, "Debiasing Evidence Approximations" (there of order 1); Quenouille 1956.
    """
    n_samples = _at_least_two(log_w, "a jackknife")
    estimate = log_mean_exp(log_w)
    rise = _left_out(log_w).sum(0)
    return torch.where(estimate > -torch.inf, estimate - (n_samples - 1) / n_samples * rise, -torch.inf)


def _left_out(log_w: Tensor) -> Tensor:
    """Return by how much log-mean-exp rises without each weight, (K, B) nats; of zeros alone it means nothing."""
    largest, first = log_w.max(0, keepdim=True)
    total = torch.logsumexp(log_w, 0, keepdim=True)
    finite_total = total.where(largest > -torch.inf, 0.0)
    rest = torch.logsumexp(log_w.scatter(0, first, -torch.inf), 0, keepdim=True)  # the sum without the largest
    rises = torch.log1p(-torch.exp(log_w - finite_total).scatter(0, first, 0.0))
    return rises.scatter(0, first, rest - finite_total) - math.log1p(-1 / len(log_w))


def jackknife_error(log_w: Tensor) -> Tensor:
    r"""Return a Monte Carlo standard error of log-mean-exp that does not saturate, (B,) in nats; infinite for K = 1.

    .. math:: \mathrm{se}^2 = \frac{K - 1}{K} \sum_k \Big( L_{K-1}^{(-k)} - \frac1K \sum_j L_{K-1}^{(-j)} \Big)^2

    The usual jackknife (Efron and Stein 1981, "The Jackknife Estimate of Variance": in expectation K / (K - 1) times
    its square is at least the variance with K - 1 weights, whatever their distribution). :func:`standard_error` is at
    most 1 nat however far weights are apart; this is right within 15 % for log-normal weights with log-spreads from 0.3
    to 5 nats, and up to a third too large where log-weights have a tail to the left, as those of annealing do.

    Args:
        log_w: (K, B) in nats.

    Returns:
        (B,) nats; 0 where every weight is zero, infinite where exactly one is not.
    """
    if len(log_w) == 1:
        return torch.full_like(log_w[0], torch.inf)
    rises = _left_out(log_w)
    error = (rises - rises.mean(0)).square().sum(0).mul(1 - 1 / len(log_w)).sqrt()
    error = torch.where(error.isnan(), torch.inf, error)  # -inf less -inf: nothing is left without the only weight
    return torch.where(log_w.amax(0) > -torch.inf, error, 0.0)


def extrapolation(log_w: Tensor) -> Tensor:
    r"""Return the bound extrapolated to infinitely many samples, (B,) in nats: an estimate, and no bound.

    With bias :math:`-a_1 / |b|` of each block b, the bound of :func:`bound_against_k` for n blocks is, whatever
    the sizes of the blocks,

    .. math:: \mathbb E[L] = \log P(x) - a_1 \sum_b \frac{|b|}{K} \frac{1}{|b|} = \log P(x) - a_1 \frac nK

    to leading order. The estimate is the intercept of the least-squares line, all points alike, through the bounds of
    the four largest block sizes (n = 1, 2, 4, 8; all where there are fewer) against n / K. Its bias falls as 1 / K^2,
    with a larger constant than that of :func:`jackknife`, and it depends on the order of the samples: it is there to
    be compared with the jackknife, which knows nothing of the bound against K.

    Args:
        log_w: (K, B) in nats, K at least 2.

    Returns:
        (B,) nats; minus infinity where every weight is zero, and plus infinity where all of some block are zero and
        others are not.

    Raises:
        ValueError: K is 1: there is no line through one point.
    """
    n_samples = _at_least_two(log_w, "an extrapolation")
    sizes, bounds = bound_against_k(log_w)
    fitted = bounds[-FITTED_SIZES:]
    x = torch.tensor([-(-n_samples // size) / n_samples for size in sizes[-FITTED_SIZES:]], dtype=torch.float64).to(
        log_w
    )
    centred = x - x.mean()
    coefficients = 1 / len(x) - x.mean() * centred / centred.square().sum()  # of the intercept; they add up to 1
    rises = fitted - fitted[-1].where(fitted[-1] > -torch.inf, 0.0)  # small numbers, of which few digits are lost
    intercept = fitted[-1] + (coefficients[:, None] * rises).sum(0)
    finite = torch.where(fitted[0] > -torch.inf, intercept, torch.inf)
    return torch.where(fitted[-1] > -torch.inf, finite, -torch.inf)


def _at_least_two(log_w: Tensor, what: str) -> int:
    n_samples = log_w.shape[0]
    if n_samples < 2:
        raise ValueError(f"{what} needs at least 2 samples, not {n_samples}")
    return n_samples


def mean_error(values: Tensor, same_as: Tensor | None = None) -> float:
    r"""Return the standard error of the mean of values (N,); infinite for one, or where one is infinite.

    Copies of an image are one observation. With :math:`u_c` the sum of :math:`v_n - \bar v` over the :math:`n_c` copies
    of the c-th of C distinct images, it is the jackknife's that leaves out one distinct image at a time,

    .. math:: \mathrm{se}^2 = \frac{C - 1}{C} \sum_c \Big( \frac{u_c}{N - n_c} \Big)^2

    which is the usual one where C = N.

    Args:
        values: one for each image.
        same_as: (N,) for each image the number of an equal one; None: all are distinct.
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
