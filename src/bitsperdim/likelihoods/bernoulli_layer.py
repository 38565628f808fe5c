r"""Fast log-masses of binary images whose logits come from a linear layer, with few passes over memory.

Training and evaluation of a VAE spend most of their time on this computation.

.. math:: \log p(x \mid h) = \sum_d \log \sigma(t_d)
          = \sum_d \min(t_d, 0) + \log \prod_d \sigma(|t_d|), \qquad t_d = (2 x_d - 1) (w_d \cdot h + b_d)

Every factor of the product is at least 1/2, so one logarithm serves a product of up to 64 factors, and 784 sub-pixels
need 49 logarithms. Factors are rounded to the digits that their dtype has near 1. In float32 this is an error of at
most 6e-8 nats for each sub-pixel. It is negligible in a sum of many nats, but if an image is almost certain, it is
larger than the errors of single log-masses.

The derivative in a logit is :math:`(2 x_d - 1) \sigma(-t_d)`, which does not have this error. If derivatives are
needed, it is stored instead of the logit, so that the backward pass consists of two matrix products.

Invariants (``tests/likelihoods/test_bernoulli_layer.py``): the result and its derivatives equal those of
:class:`bitsperdim.likelihoods.Bernoulli` up to rounding (``test_it_is_the_bernoulli``,
``test_the_derivatives_are_those_of_the_bernoulli``), whatever values the workspace holds
(``test_a_workspace_serves_calls_of_any_smaller_size``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS_AT_ONCE = 1024  # rows of logits at once: samples times images
LARGEST_PRODUCT = 64  # factors of at least 1/2: their product is above the smallest float32


@torch.no_grad()
def bernoulli_log_prob_of_layer(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, workspace: Tensor | None = None
) -> Tensor:
    """Return log p(x given h), (K, B) in nats, without derivatives.

    It is fastest if the K times B rows of logits fit into the processor's cache, and if one workspace is used for many
    calls: new memory costs about as much time as the sigmoids.

    Args:
        x: images of 0 and 1, (B, C, H, W).
        hidden: inputs h of the layer, (K, B, n), float32 or float64.
        weight: weights w of the layer, (D, n).
        bias: biases b of the layer, (D,).
        workspace: memory that is overwritten, (2, KB or more, D), with the dtype and on the device of h; None: new
            memory.
    """
    n_samples, n_images, _ = hidden.shape
    if workspace is None:
        workspace = hidden.new_empty(2, n_samples * n_images, len(bias))
    t, work = workspace[:, : n_samples * n_images]
    torch.addmm(bias, hidden.flatten(0, 1), weight.t(), out=t)  # (KB, D)
    t.view(n_samples, n_images, -1).mul_(signs_of(x, hidden.dtype))
    return _log_prob(t, work).view(n_samples, n_images)


def learned_bernoulli_log_prob_of_layer(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return log p(x given h), (K, B) in nats, with first derivatives in h, w and b (no higher derivatives).

    The arguments are those of :func:`bernoulli_log_prob_of_layer`.
    """
    result: Tensor = _LogProbOfLayer.apply(x, hidden, weight, bias)
    return result


class _LogProbOfLayer(torch.autograd.Function):
    """The log-mass with its derivatives; it stores for each logit the derivative in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        n_samples, n_images, _ = hidden.shape
        signs = signs_of(x, hidden.dtype)
        slopes = hidden.new_empty(n_samples, n_images, len(bias))
        log_prob = hidden.new_empty(n_samples, n_images)
        n_at_once = samples_at_once(n_samples, x)
        workspace = torch.empty_like(slopes[:n_at_once])
        for first in range(0, n_samples, n_at_once):
            signed = slopes[first : first + n_at_once]
            t = signed.flatten(0, 1)
            torch.addmm(bias, hidden[first : first + n_at_once].flatten(0, 1), weight.t(), out=t)
            signed.mul_(signs)
            log_prob[first : first + n_at_once] = _log_prob(t, workspace.flatten(0, 1)[: len(t)]).view(-1, n_images)
            t.neg_().sigmoid_()
            signed.mul_(signs)
        ctx.save_for_backward(slopes, hidden, weight)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        slopes, hidden, weight = ctx.saved_tensors
        slopes, gradient = slopes.flatten(0, 1), gradient.reshape(-1, 1)  # (KB, D), (KB, 1)
        _, in_hidden, in_weight, in_bias = ctx.needs_input_grad
        return (
            None,
            (slopes @ weight).mul_(gradient).view_as(hidden) if in_hidden else None,
            slopes.t() @ (hidden.flatten(0, 1) * gradient) if in_weight else None,
            (slopes.t() @ gradient).squeeze(1) if in_bias else None,
        )


def samples_at_once(n_samples: int, x: Tensor) -> int:
    """Return how many samples of images (B, C, H, W) are computed together; on a CPU they must fit into its cache."""
    return max(1, ROWS_AT_ONCE // len(x)) if x.device.type == "cpu" else n_samples


def signs_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 2x - 1 of images (B, C, H, W), (B, D)."""
    return x.flatten(1).to(dtype).mul_(2).sub_(1)


def _log_prob(t: Tensor, work: Tensor) -> Tensor:
    """Return the sum of log sigmoids (N,) of t (N, D); ``work``, which has the shape of t, is overwritten."""
    total = torch.clamp(t, max=0, out=work).sum(1)
    return total.add_(log_of_product(torch.abs(t, out=work).sigmoid_()))


def tanh_(values: Tensor) -> Tensor:
    r"""Overwrite ``values`` with their tanh, computed with the sigmoid, which is several times faster in torch.

    .. math:: \tanh(a) = 2 \sigma(2 a) - 1

    The absolute rounding error is about 1e-7 in float32.
    """
    return values.mul_(2).sigmoid_().mul_(2).sub_(1)


def log_of_product(factors: Tensor) -> Tensor:
    """Return the sum of logarithms (N,) of factors (N, D) in [1/2, 1], which are overwritten."""
    n_left, n_in_each = factors.shape[1], 1
    while n_left % 2 == 0 and n_in_each < LARGEST_PRODUCT:
        n_left, n_in_each = n_left // 2, 2 * n_in_each
        torch.mul(factors[:, :n_left], factors[:, n_left : 2 * n_left], out=factors[:, :n_left])
    return factors[:, :n_left].log_().sum(1)
