r"""Log-masses of images whose logits are a linear layer, with few passes over memory: what importance sampling spends
its time on.

.. math:: \log p(x \mid h) = \sum_d \log \sigma(t_d)
          = \sum_d \min(t_d, 0) + \log \prod_d \sigma(|t_d|), \qquad t_d = (2 x_d - 1) (w_d \cdot h + b_d)

Every factor of the product is at least 1/2, so that the logarithm of a product of up to 64 of them is taken at once,
and 784 sub-pixels need 49 logarithms. A factor is rounded to the digits of its dtype near 1, in float32 an error of at
most 6e-8 nats for each sub-pixel: of no account in a sum of many nats, but not as small as those of the single
log-masses where an image is almost certain.

Nothing here is differentiable: training goes through :class:`bitsperdim.likelihoods.Bernoulli`.

Invariants (``tests/likelihoods/test_bernoulli_layer.py``): the result is that of the Bernoulli, to rounding
(``test_it_is_the_bernoulli``), whatever a workspace holds (``test_a_workspace_serves_calls_of_any_smaller_size``).
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_PRODUCT = 64  # factors of at least 1/2: their product is above the smallest float32


@torch.no_grad()
def bernoulli_log_prob_of_layer(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, workspace: Tensor | None = None
) -> Tensor:
    """Return log p(x given h), (K, B) in nats.

    It is fastest where K times B rows of logits fit into the processor's cache, and where one workspace serves many
    calls: fresh memory costs about as much time as the sigmoids.

    Args:
        x: (B, C, H, W), 0 or 1.
        hidden: h, (K, B, n), float32 or float64.
        weight: w, (D, n).
        bias: b, (D,).
        workspace: (2, KB or more, D) of the dtype and on the device of h, which is overwritten.
    """
    n_samples, n_images, _ = hidden.shape
    if workspace is None:
        workspace = hidden.new_empty(2, n_samples * n_images, len(bias))
    t, below = workspace[:, : n_samples * n_images]
    signs = x.flatten(1).to(hidden.dtype).mul_(2).sub_(1)  # (B, D)
    torch.addmm(bias, hidden.flatten(0, 1), weight.t(), out=t)  # (KB, D)
    t.view(n_samples, n_images, -1).mul_(signs)
    total = torch.clamp(t, max=0, out=below).sum(1)
    total += log_of_product(t.abs_().sigmoid_())
    return total.view(hidden.shape[:2])


def tanh_(values: Tensor) -> Tensor:
    r"""Return tanh of ``values``, which are overwritten, by the sigmoid, which torch computes several times faster.

    .. math:: \tanh(a) = 2 \sigma(2 a) - 1

    The error is one of rounding, absolute: about 1e-7 in float32.
    """
    return values.mul_(2).sigmoid_().mul_(2).sub_(1)


def log_of_product(factors: Tensor) -> Tensor:
    """Return the sum of logarithms (N,) of factors (N, D) in [1/2, 1], which are overwritten."""
    n_left, n_in_each = factors.shape[1], 1
    while n_left % 2 == 0 and n_in_each < LARGEST_PRODUCT:
        n_left, n_in_each = n_left // 2, 2 * n_in_each
        torch.mul(factors[:, :n_left], factors[:, n_left : 2 * n_left], out=factors[:, :n_left])
    return factors[:, :n_left].log_().sum(1)
