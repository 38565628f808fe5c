"""A masked dense network that gets its inputs one after the other, at the total cost of one pass.

Each unit is computed once, as soon as all inputs are known that its mask lets through. D steps together therefore cost
one pass of the network, whereas D full passes would compute each unit D times.

Invariants (``tests/models/test_triangular.py``): the outputs equal those of one pass, for any order and depth
(``test_outputs_in_order_are_those_of_one_pass``).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class InOrder:
    """A sequence of masked linear layers with activations between them, computed input by input for N rows.

    The outputs form one group for each input, side by side. The order must be that of the masks: they hide from each
    group the input of the same number, and all inputs that come later in the order.

    Args:
        layers: masked linear layers, each with ``weight``, ``mask`` and ``bias``.
        activations: element-wise activations, one after each layer except the last.
        order: order of the D inputs.
    """

    def __init__(self, layers: list[nn.Linear], activations: list[nn.Module], order: list[int]) -> None:
        """Sort the units of each layer by the number of inputs that they need."""
        self.order, self.activations = order, activations
        columns = torch.tensor(order)
        waits = torch.arange(1, len(order) + 1)  # how many inputs must be known for each value, here for each input
        self.hidden: list[tuple[Tensor, Tensor, list[int]]] = []
        for layer in layers[:-1]:
            mask = cast(Tensor, layer.mask).cpu()[:, columns]
            found = (mask * waits).amax(1)
            rows = found.argsort(stable=True)
            waits = found[rows]
            n_ready = [int((waits <= n_known).sum()) for n_known in range(len(order) + 1)]
            self.hidden.append((_masked(layer)[rows][:, columns], layer.bias[rows], n_ready))
            columns = rows
        groups = (len(order), -1)
        last = layers[-1]
        self.last = _masked(last)[:, columns].unflatten(0, groups), last.bias.unflatten(0, groups)

    def start(self, n_rows: int) -> None:
        """Start with no known inputs, for N rows."""
        self.n_known = 0
        first = self.last[1]
        self.values = [first.new_empty(len(self.order), n_rows)]
        self.values += [first.new_empty(len(bias), n_rows) for _, bias, _ in self.hidden]
        self.n_ready = [0] * len(self.values)
        self._compute()

    def outputs(self, group: int) -> Tensor:
        """Return one group of outputs, (n_outputs, N); it may depend only on the inputs known so far."""
        weight, bias = self.last[0][group], self.last[1][group]
        n_ready = self.n_ready[-1]
        return torch.addmm(bias[:, None], weight[:, :n_ready], self.values[-1][:n_ready])

    def give(self, values: Tensor) -> None:
        """Store the next input, (N,), and compute all units that become ready."""
        self.values[0][self.n_known] = values
        self.n_known += 1
        self._compute()

    def _compute(self) -> None:
        self.n_ready[0] = self.n_known
        for number, ((weight, bias, n_ready), activation) in enumerate(zip(self.hidden, self.activations, strict=True)):
            first, last, n_inputs = self.n_ready[number + 1], n_ready[self.n_known], self.n_ready[number]
            if last > first:
                before = self.values[number][:n_inputs]
                new = torch.addmm(bias[first:last, None], weight[first:last, :n_inputs], before)
                self.values[number + 1][first:last] = activation(new)
                self.n_ready[number + 1] = last


def _masked(layer: nn.Linear) -> Tensor:
    return cast(Tensor, layer.mask) * layer.weight
