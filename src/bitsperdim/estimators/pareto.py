r"""Pareto k-hat: how heavy is the tail of the importance weights?

The largest weights follow a generalised Pareto distribution whose shape k says which moments exist: the j-th where
k < 1/j. Importance weights always have a mean, P(x), but for k >= 1/2 no variance, and for k well above
that no number of samples that anyone can afford brings the estimate near (Vehtari et al. 2024).

**It judges many images, not one.** The large weights that decide an image's number may not have been drawn; then its
k-hat is small, and its error and bias look small too. Of log-normal weights with a log-spread of 2.5 nats and K = 1,000
an eighth of all images have a k-hat below the limit by chance: their 95 % intervals hold the truth in 30 % of cases,
those of the images above the limit in 84 % (``test_a_small_k_of_one_image_promises_nothing``). So a number is judged by
the share of its images above the limit, and the images below are not picked out.

The fit is that of Zhang and Stephens (2009) with the weakly informative prior of Vehtari et al., vectorized over
images. It says nothing of a tail that no sample has reached: a proposal that misses a mode altogether has an innocent
k-hat. And it does not smooth: the estimates of this package are of the weights as they are.

Invariants (``tests/estimators/test_pareto.py``):

1. Exact Pareto tails give their k back, with the spread that the theory says (``test_exact_tails_come_back``).
2. The vectorized fit is that of one image at a time, written out (``test_the_fit_is_its_formula``), and near the most
   likely k (``test_the_fit_is_near_the_most_likely``).
3. Shifting and reordering log-weights changes nothing (``test_shift_and_order_do_not_matter``).
4. No weights give NaN but too few of them, or only zeros (``test_ties_zeros_and_spikes``).
5. A proposal narrower than the posterior has the k that its width says; a wider one has none to fear
   (``test_k_tells_narrow_proposals_from_wide_ones``).
6. Among images with heavy tails, those of which k-hat is small are the ones that are further off than they say
   (``test_a_small_k_of_one_image_promises_nothing``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

JUDGED_FROM = 1_000  # samples; below, k-hat is too noisy to judge by
FEWEST = 5  # weights in a tail
PRIOR_SIZE, PRIOR_K = 10, 0.5  # the prior: so many more observations, of this k
CONSTANT = 1e-4  # relative spread of a tail of equal weights: float32 log-weights of hundreds are rounded to it
SMALLEST = 1e-290  # relative to the largest weight: what lies below may underflow in the fit


def pareto_k_limit(n_samples: int) -> float:
    r"""Return the k-hat above which the weights' tail is too heavy for K samples; NaN below K = 1,000.

    Of one image a k-hat below it promises nothing (see the module): what counts is the share of images above it.

    .. math:: \min\Big(1 - \frac{1}{\log_{10} K}, \; 0.7\Big)

    Both ``k < nan`` and ``k > nan`` are false: with few samples nothing is accused. At K = 100
    about a quarter of all tails of k = 0.3 would be beyond the limit.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto Smoothed Importance Sampling".
    """
    return min(1 - 1 / math.log10(n_samples), 0.7) if n_samples >= JUDGED_FROM else math.nan


def tail_size(n_samples: int) -> int:
    r"""Return how many of the largest weights are the tail: :math:`\lceil \min(K/5, 3 \sqrt K) \rceil`."""
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
        log_w: (K, B) in nats, of the weights themselves (some libraries ask for their negative).

    Returns:
        (B,): about k, shrunk a little towards 1/2; negative where the weights are bounded.
        Minus infinity where the whole tail is one value (to a relative 1e-4): the weights are bounded and nothing is
        left to fit. Plus infinity where fewer than 5 weights, but some, exceed the threshold: a spike.
        NaN where the tail has fewer than 5 places (K below 21) or every weight is zero.

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
    for count in counts.unique().tolist():  # one, but for images with ties or underflow
        which = of_images[counts == count]
        k[which] = torch.inf if count < FEWEST else fit_shape(x[n_tail - count :, which])
    smallest = torch.where(x > 0, x, torch.inf).amin(0)  # of the exceedances
    is_constant = (x[-1] <= CONSTANT) | (x[-1] - smallest <= CONSTANT * x[-1]) & (counts >= FEWEST)
    k = torch.where(is_constant, -torch.inf, k)
    return torch.where(largest > -torch.inf, k, torch.nan)


def fit_shape(x: Tensor) -> Tensor:
    r"""Fit k of generalised Pareto distributions to exceedances, (B,).

    In :math:`\theta = -k/\sigma` the likelihood has a closed maximum in k,
    :math:`k(\theta) = \frac1n \sum_i \log(1 - \theta x_i)`, which leaves
    :math:`\ell(\theta) = n \big(\log(-\theta / k(\theta)) - k(\theta) - 1\big)`. The estimate of :math:`\theta` is its
    mean under :math:`e^{\ell}` over a grid of quantiles of a prior that the data scale,

    .. math:: \theta_j = \frac{1}{x_{(n)}} + \frac{1 - \sqrt{m / (j - 1/2)}}{3 \, x_{(\lfloor n/4 + 1/2 \rfloor)}},
              \qquad j = 1, \dots, m = 30 + \lfloor \sqrt n \rfloor

    and k-hat is :math:`k(\hat\theta)` averaged with the prior, :math:`(n k + 10 \cdot 0.5) / (n + 10)`.

    Args:
        x: (n, B) positive, ascending, n at least 5.
    """
    n = len(x)
    n_grid = 30 + math.isqrt(n)
    j = torch.arange(1, n_grid + 1, dtype=x.dtype, device=x.device)[:, None]
    theta = 1 / x[-1] + (1 - (n_grid / (j - 0.5)).sqrt()) / (3 * x[math.floor(n / 4 + 0.5) - 1])  # (m, B)
    theta = torch.where(theta == 0, 1e-9 / x[-1], theta)  # 0 / 0 in what follows, with a smooth limit
    k = torch.stack([_shape_given(each, x) for each in theta])  # not (m, n, B) at once: that is large
    log_likelihood = n * (torch.log(-theta / k) - k - 1)
    k_hat = _shape_given((torch.softmax(log_likelihood, 0) * theta).sum(0), x)
    return (n * k_hat + PRIOR_SIZE * PRIOR_K) / (n + PRIOR_SIZE)


def _shape_given(theta: Tensor, x: Tensor) -> Tensor:
    return torch.log1p(-theta * x).mean(0)
