r"""Log-masses of images whose logits are a linear layer, with few passes over memory: what importance sampling spends
its time on.

.. math:: \log p(x \mid h) = \sum_d \log \sigma(t_d)
          = \sum_d \min(t_d, 0) + \log \prod_d \sigma(|t_d|), \qquad t_d = (2 x_d - 1) (w_d \cdot h + b_d)

Every factor of the product is at least 1/2, so that the logarithm of a product of up to 64 of them is taken at once,
and 784 sub-pixels need 49 logarithms. No terms cancel: the result is as exact as the sum of the single log-masses.

Nothing here is differentiable: training goes through :class:`bitsperdim.likelihoods.Bernoulli`.

Invariant (``tests/likelihoods/test_bernoulli_layer.py``): the result is that of the Bernoulli, to rounding
(``test_it_is_the_bernoulli``).
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_PRODUCT = 64  # factors of at least 1/2: their product is above the smallest float32
ROWS_AT_ONCE = 1024  # samples times images, so that what is worked on stays in the processor's cache


@torch.no_grad()
def bernoulli_log_prob_of_layer(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return log p(x given h), (K, B) in nats.

    Args:
        x: (B, C, H, W), 0 or 1.
        hidden: h, (K, B, n), float32 or float64.
        weight: w, (D, n).
        bias: b, (D,).
    """
    n_samples, n_images, n_dims = *hidden.shape[:2], len(bias)
    signs = x.flatten(1).to(hidden.dtype).mul_(2).sub_(1)  # (B, D)
    result = hidden.new_empty(n_samples, n_images)
    step = max(1, ROWS_AT_ONCE // n_images)
    # two buffers for all steps; sub-pixels are the last dimension of both
    logits, below = (hidden.new_empty(min(step, n_samples) * n_images, n_dims) for _ in range(2))
    for start in range(0, n_samples, step):
        part = hidden[start : start + step]
        n_rows = part.shape[0] * n_images
        t = torch.addmm(bias, part.reshape(n_rows, -1), weight.t(), out=logits[:n_rows])
        t.view(-1, n_images, n_dims).mul_(signs)
        total = torch.clamp(t, max=0, out=below[:n_rows]).sum(1)
        total += log_of_product(t.abs_().sigmoid_())
        result[start : start + step] = total.view(-1, n_images)
    return result


def log_of_product(factors: Tensor) -> Tensor:
    """Return the sum of logarithms (N,) of factors (N, D) in [1/2, 1], which are overwritten."""
    n_left, n_in_each = factors.shape[1], 1
    while n_left % 2 == 0 and n_in_each < LARGEST_PRODUCT:
        n_left, n_in_each = n_left // 2, 2 * n_in_each
        torch.mul(factors[:, :n_left], factors[:, n_left : 2 * n_left], out=factors[:, :n_left])
    return factors[:, :n_left].log_().sum(1)
