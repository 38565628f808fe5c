r"""Pareto k-hat, a measure of how heavy the tail of the importance weights is.

The largest weights follow a generalised Pareto distribution. Its shape k determines which moments exist: the j-th
moment exists if k < 1/j. Importance weights always have a mean, P(x), but no variance for k >= 1/2. For k well above
1/2, no affordable number of samples brings the estimate near P(x) (Vehtari et al. 2024).

**It judges many images together, not one image.** The large weights that determine the number of an image may not have
been drawn. Then its k-hat is small, and its error and bias look small too. For log-normal weights with a log-spread of
2.5 nats and K = 1,000, an eighth of all images have a k-hat below the limit by chance. Their 95 % intervals contain the
truth in 30 % of cases, and those of the images above the limit in 84 %
(``test_a_small_k_of_one_image_promises_nothing``). A number is therefore judged by the share of its images above the
limit, and the images below the limit are not selected.

The fit is that of Zhang and Stephens (2009) with the weakly informative prior of Vehtari et al., vectorized over
images. It cannot detect a tail that no sample has reached: a proposal that misses a mode completely has a small k-hat.
This module does not smooth the weights either: the estimates of this package use the unchanged weights.

Invariants (``tests/estimators/test_pareto.py``):

1. For exact Pareto tails the fit returns their k, with the spread that theory predicts
   (``test_exact_tails_come_back``).
2. The vectorized fit equals the fit of one image at a time, written out (``test_the_fit_is_its_formula``), and is near
   the most likely k (``test_the_fit_is_near_the_most_likely``).
3. Shifting and reordering log-weights changes nothing (``test_shift_and_order_do_not_matter``).
4. The result is NaN only for too few weights, or for weights that are all zero (``test_ties_zeros_and_spikes``).
5. A proposal narrower than the posterior has the k that follows from its width; a wider one has no heavy tail
   (``test_k_tells_narrow_proposals_from_wide_ones``).
6. Among images with heavy tails, those with a small k-hat have errors that exceed their reported errors
   (``test_a_small_k_of_one_image_promises_nothing``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

JUDGED_FROM = 1_000  # fewest samples; with fewer, k-hat is too noisy to judge by
FEWEST = 5  # fewest weights in a tail
PRIOR_SIZE, PRIOR_K = 10, 0.5  # the prior counts as so many additional observations with this k
CONSTANT = 1e-4  # relative spread up to which tail weights count as equal: rounding of float32 log-weights of hundreds
SMALLEST = 1e-290  # relative to the largest weight; smaller values may underflow in the fit


def pareto_k_limit(n_samples: int) -> float:
    r"""Return the k-hat above which the tail of the weights is too heavy for K samples; NaN below K = 1,000.

    A k-hat of one image below this limit does not mean that its number can be trusted (see the module docstring): the
    share of images above the limit is relevant.

    .. math:: \min\Big(1 - \frac{1}{\log_{10} K}, \; 0.7\Big)

    Both ``k < nan`` and ``k > nan`` are false, so that with few samples no image is flagged. At K = 100
    about a quarter of all tails with k = 0.3 would be above the limit.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto Smoothed Importance Sampling".
    """
    return min(1 - 1 / math.log10(n_samples), 0.7) if n_samples >= JUDGED_FROM else math.nan


def tail_size(n_samples: int) -> int:
    r"""Return how many of the largest weights form the tail: :math:`\lceil \min(K/5, 3 \sqrt K) \rceil`."""
    return math.ceil(min(0.2 * n_samples, 3 * math.sqrt(n_samples)))


@torch.no_grad()
def pareto_k(log_w: Tensor) -> Tensor:
    r"""Return the shape k-hat of the tail of the weights, (B,) float64, without unit.

    With M = :func:`tail_size`, the exceedances :math:`x_i = w_{(K-M+i)} - w_{(K-M)}` of the M largest weights over
    the next one are fitted by

    .. math:: p(x) = \frac1\sigma \Big(1 + \frac{k x}{\sigma}\Big)^{-1/k - 1}

    Weights that tie with the threshold have no exceedance and are left out. The standard deviation of k-hat is about
    (1 + k) / sqrt(M), that is 0.17 for k = 0.7 and K = 1,000, 0.12 for K = 5,000.

    Args:
        log_w: log-weights, (K, B), in nats (some libraries take the negative log-weights).

    Returns:
        k-hat, (B,): an estimate of k that is shrunk a little towards 1/2; negative if the weights are bounded.
        Minus infinity if all weights in the tail are equal (to a relative 1e-4): the weights are bounded, and there is
        nothing to fit. Plus infinity if some weights, but fewer than 5, exceed the threshold: a spike.
        NaN if the tail has fewer than 5 places (K below 21) or if every weight is zero.

    References: Zhang and Stephens 2009, "A New and Efficient Estimation Method for the Generalized Pareto
    Distribution"; Vehtari et al. 2024 (size of the tail, and the prior).
    """
    n_samples, n_images = log_w.shape
    n_tail = tail_size(n_samples)
    k = torch.full((n_images,), torch.nan, dtype=torch.float64, device=log_w.device)
    if n_tail < FEWEST:
        return k
    top = log_w.double().topk(n_tail + 1, dim=0).values  # descending
    largest = top[0]
    w = torch.exp(top - largest.where(largest > -torch.inf, 0.0))  # relative to the largest
    x = (w[:-1] - w[-1]).flip(0)  # (M, B), ascending
    x = torch.where(x > SMALLEST, x, 0.0)
    counts = (x > 0).sum(0)
    of_images = torch.arange(n_images, device=log_w.device)
    for count in counts.unique().tolist():  # a single value, unless images have ties or underflow
        which = of_images[counts == count]
        k[which] = torch.inf if count < FEWEST else fit_shape(x[n_tail - count :, which])
    smallest = torch.where(x > 0, x, torch.inf).amin(0)  # smallest exceedance
    is_constant = (x[-1] <= CONSTANT) | (x[-1] - smallest <= CONSTANT * x[-1]) & (counts >= FEWEST)
    k = torch.where(is_constant, -torch.inf, k)
    return torch.where(largest > -torch.inf, k, torch.nan)


def fit_shape(x: Tensor) -> Tensor:
    r"""Fit generalised Pareto distributions to exceedances and return their k, (B,).

    In :math:`\theta = -k/\sigma` the likelihood has a closed maximum in k,
    :math:`k(\theta) = \frac1n \sum_i \log(1 - \theta x_i)`, which leaves
    :math:`\ell(\theta) = n \big(\log(-\theta / k(\theta)) - k(\theta) - 1\big)`. The estimate of :math:`\theta` is its
    mean under :math:`e^{\ell}` over a grid of quantiles of a prior that the data scale,

    .. math:: \theta_j = \frac{1}{x_{(n)}} + \frac{1 - \sqrt{m / (j - 1/2)}}{3 \, x_{(\lfloor n/4 + 1/2 \rfloor)}},
              \qquad j = 1, \dots, m = 30 + \lfloor \sqrt n \rfloor

    and k-hat is :math:`k(\hat\theta)` averaged with the prior, :math:`(n k + 10 \cdot 0.5) / (n + 10)`.

    Args:
        x: exceedances, (n, B), positive, in ascending order, n at least 5.
    """
    n = len(x)
    n_grid = 30 + math.isqrt(n)
    j = torch.arange(1, n_grid + 1, dtype=x.dtype, device=x.device)[:, None]
    theta = 1 / x[-1] + (1 - (n_grid / (j - 0.5)).sqrt()) / (3 * x[math.floor(n / 4 + 0.5) - 1])  # (m, B)
    theta = torch.where(theta == 0, 1e-9 / x[-1], theta)  # avoids 0 / 0 below, which has a smooth limit
    k = torch.stack([_shape_given(each, x) for each in theta])  # one by one, to avoid a large tensor (m, n, B)
    log_likelihood = n * (torch.log(-theta / k) - k - 1)
    k_hat = _shape_given((torch.softmax(log_likelihood, 0) * theta).sum(0), x)
    return (n * k_hat + PRIOR_SIZE * PRIOR_K) / (n + PRIOR_SIZE)


def _shape_given(theta: Tensor, x: Tensor) -> Tensor:
    return torch.log1p(-theta * x).mean(0)
