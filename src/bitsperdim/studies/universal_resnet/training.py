"""Training of many small networks at once: one optimizer, one schedule, all points in every step.

The networks of a stack do not see each other: their losses are summed, and Adam (Kingma and Ba 2015) works parameter by
parameter. What they are trained for is a matter of the loss.

Not here: early stopping, validation; the experiments ask how well a network can fit.

Invariants (``tests/studies/universal_resnet/test_many_trainings.py``):

1. A stack is trained as its networks are alone (``test_a_stack_is_trained_as_its_networks_are_alone``).
2. The rate rises, falls to zero, and is never negative (``test_the_rate_rises_and_falls_to_zero``).
3. A loss that is no number is an error (``test_what_is_not_finite_is_refused``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]

WARMUP = 20  # steps, at most
BETAS = (0.9, 0.99)  # a shorter memory than usual: the trainings are short


def cross_entropy(y: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy in nats of each network, (B,), of log-odds y (B, N) and labels 0 or 1 (B, N)."""
    return F.binary_cross_entropy_with_logits(y, labels, reduction="none").mean(-1)


def squared_error(y: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of each network, (B,), of y (B, N) and targets (B, N)."""
    return (y - targets).square().mean(-1)


def rate(step: int, n_steps: int, largest: float) -> float:
    """Return the learning rate of a step: a short linear rise, then half a cosine down to zero."""
    warmup = min(WARMUP, n_steps // 5)
    if step < warmup:
        return largest * (step + 1) / (warmup + 1)
    return largest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def fit(nets: nn.Module, x: Tensor, targets: Tensor, loss: Loss, n_steps: int, learning_rate: float) -> None:
    """Train a stack of networks in place.

    Args:
        nets: take x (N, d) or (B, N, d) and return (B, N).
        x: the points.
        targets: (B, N).
        loss: returns one number for each network.
        n_steps: of the optimizer, each on all points.
        learning_rate: the largest.

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
