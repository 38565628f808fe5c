"""Training of many small networks at once: one optimizer, one schedule, all points in every step.

The networks of a stack do not influence each other: their losses are summed, and Adam (Kingma and Ba 2015) treats each
parameter separately. The caller chooses the loss.

There is no early stopping and no validation, because the experiments ask how well a network can fit.

Invariants (``tests/studies/universal_resnet/test_many_trainings.py``):

1. Networks in a stack are trained as each would be alone (``test_a_stack_is_trained_as_its_networks_are_alone``).
2. The learning rate rises, falls to zero, and is never negative (``test_the_rate_rises_and_falls_to_zero``).
3. A loss that is not finite is an error (``test_what_is_not_finite_is_refused``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]

WARMUP = 20  # maximum number of steps
BETAS = (0.9, 0.99)  # a shorter memory than usual, because training runs are short


def cross_entropy(y: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of each network in nats, (B,), for log-odds y (B, N) and labels 0 or 1 (B, N)."""
    return F.binary_cross_entropy_with_logits(y, labels, reduction="none").mean(-1)


def squared_error(y: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of each network, (B,), for y (B, N) and targets (B, N)."""
    return (y - targets).square().mean(-1)


def rate(step: int, n_steps: int, largest: float) -> float:
    """Return the learning rate of a step: a short linear rise, then a half cosine down to zero."""
    warmup = min(WARMUP, n_steps // 5)
    if step < warmup:
        return largest * (step + 1) / (warmup + 1)
    return largest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def fit(nets: nn.Module, x: Tensor, targets: Tensor, loss: Loss, n_steps: int, learning_rate: float) -> None:
    """Train a stack of networks in place.

    Args:
        nets: networks that take x (N, d) or (B, N, d) and return (B, N).
        x: points.
        targets: targets (B, N).
        loss: function that returns one number for each network.
        n_steps: number of optimizer steps, each on all points.
        learning_rate: largest learning rate.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    optimizer = torch.optim.Adam(nets.parameters(), lr=learning_rate, betas=BETAS, foreach=True)
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, n_steps, learning_rate)
        losses = loss(nets(x), targets)
        if not losses.isfinite().all():
            raise FloatingPointError(f"the loss of a network is not finite at step {step + 1}")
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
