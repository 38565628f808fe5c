r"""The networks: residual networks with blocks of one neuron, and fully connected networks for comparison.

A residual block with one hidden neuron on :math:`R^d` is

.. math:: x \leftarrow x + V \, \mathrm{relu}(U x + u)

with a row U, a number u and a column V: 2d + 1 parameters. After the last block, a linear read-out gives a single
number. Lin and Jegelka (2018) show that such networks approximate any integrable function arbitrarily well in mean
absolute error, while fully connected networks of width d do not, however deep they are.

Both classes hold many networks of one architecture at once, along a leading axis B of every parameter, so all seeds of
an experiment are trained together. Without a generator every weight is zero, to be set by the caller.

**Difference from the paper.** The block is the same. The paper gives no rule for the initial weights; see
:class:`OneNeuronResNet`.

Training is in :mod:`bitsperdim.studies.universal_resnet.training`, computed weights are in
:mod:`bitsperdim.studies.universal_resnet.construction`.

Invariants (``tests/studies/universal_resnet/test_nets.py``):

1. A block adds a term of rank one to its input, from one neuron (``test_a_block_has_one_neuron``).
2. Networks in a stack give the same results as each network alone (``test_networks_do_not_see_each_other``).
3. Both kinds of networks agree with their formulas (``test_the_formula``).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

Generator = torch.Generator


class _Nets(nn.Module):
    """A stack of networks of one architecture.

    Attributes:
        d: number of inputs.
        n_nets: number of networks; None: a single network without the axis B.
    """

    def __init__(self, d: int, n_nets: int | None) -> None:
        super().__init__()
        if d < 1 or (n_nets is not None and n_nets < 1):
            raise ValueError(f"d = {d} and n_nets = {n_nets} must be at least 1")
        self.d, self.n_nets = d, n_nets

    def _with_axis(self, x: Tensor) -> Tensor:
        """Return x (N, d) or (B, N, d) as (B, N, d)."""
        return x.expand(self.n_nets or 1, *x.shape[-2:])

    def _without_axis(self, y: Tensor) -> Tensor:
        return y[0] if self.n_nets is None else y

    @property
    def n_parameters(self) -> int:
        """Number of parameters of one network."""
        return sum(parameter.numel() for parameter in self.parameters()) // (self.n_nets or 1)


class OneNeuronResNet(_Nets):
    r"""Blocks :math:`x \leftarrow x + V \mathrm{relu}(U x + u)`, then :math:`y = r \cdot x + c`.

    With a generator, U is a random direction, u puts the kink through a random point of the box of the data (see
    ``reach``), and V is small, so that many blocks together begin near the identity.

    Attributes:
        d: number of inputs, which is the width of the residual stream.
        depth: number of blocks.
        rows: U, (B, depth, d).
        biases: u, (B, depth).
        columns: V, (B, depth, d).
        read_out: r, (B, d).
        offset: c, (B,).
    """

    START = 0.3  # scale of the initial columns V: standard deviation times sqrt(depth)

    def __init__(
        self, d: int, depth: int, *, n_nets: int | None = None, generator: Generator | None = None, reach: float = 1.0
    ) -> None:
        """Create the networks.

        Args:
            d: number of inputs, which is the width of the residual stream.
            depth: number of blocks, 0 or more.
            n_nets: number of networks; None: a single network without the axis B.
            generator: source of randomness for the initial weights; None: all weights are zero.
            reach: the box of the data is [-reach, reach]^d.

        Raises:
            ValueError: a size is not allowed.
        """
        super().__init__(d, n_nets)
        if depth < 0:
            raise ValueError(f"depth = {depth} must not be negative")
        self.depth = depth
        n = n_nets or 1
        rows, columns = torch.zeros(n, depth, d), torch.zeros(n, depth, d)
        biases, read_out = torch.zeros(n, depth), torch.zeros(n, d)
        if generator is not None:
            rows.normal_(generator=generator)
            rows /= rows.norm(dim=-1, keepdim=True)
            through = reach * (2 * torch.rand(n, depth, d, generator=generator) - 1)
            biases = -(rows * through).sum(-1)
            columns.normal_(0, self.START / math.sqrt(max(1, depth)), generator=generator)
            read_out.normal_(generator=generator)
        self.rows, self.columns = nn.Parameter(rows), nn.Parameter(columns)
        self.biases, self.read_out = nn.Parameter(biases), nn.Parameter(read_out)
        self.offset = nn.Parameter(torch.zeros(n))

    def stream(self, x: Tensor, n_blocks: int | None = None) -> Tensor:
        """Return the residual stream after the first blocks.

        Args:
            x: points (N, d) or (B, N, d).
            n_blocks: number of blocks; None: all blocks.

        Returns:
            (B, N, d), or (N, d) for a single network without the axis B.
        """
        x = self._with_axis(x)
        rows, biases = self.rows.unsqueeze(-1).unbind(1), self.biases[..., None, None].unbind(1)
        columns = self.columns.unsqueeze(-2).unbind(1)
        for row, bias, column in zip(rows[:n_blocks], biases[:n_blocks], columns[:n_blocks], strict=True):
            neuron = torch.relu(torch.baddbmm(bias, x, row))  # (B, N, 1), one neuron
            x = torch.baddbmm(x, neuron, column)
        return self._without_axis(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, (B, N) or (N,), for x (N, d) or (B, N, d)."""
        x = self._with_axis(self.stream(x))
        return self._without_axis(torch.baddbmm(self.offset[:, None, None], x, self.read_out[..., None])[..., 0])


class DenseNet(_Nets):
    r"""Fully connected: ``depth`` layers :math:`h \leftarrow \mathrm{relu}(W h + b)` of one width, then a read-out.

    With depth 1 the network has a single hidden layer. Initial weights follow He et al. (2015) for rectifiers.

    Attributes:
        d: number of inputs.
        width: number of neurons in each layer.
        depth: number of hidden layers.
        weights: weights of each layer, (B, fan in, width).
        biases: biases of each layer, (B, 1, width).
        read_out: weights of the read-out, (B, width, 1).
        offset: bias of the read-out, (B, 1, 1).
    """

    def __init__(
        self, d: int, width: int, depth: int, *, n_nets: int | None = None, generator: Generator | None = None
    ) -> None:
        """Create the networks.

        Args:
            d: number of inputs.
            width: number of neurons in each layer.
            depth: number of hidden layers, 1 or more.
            n_nets: number of networks; None: a single network without the axis B.
            generator: source of randomness for the initial weights; None: all weights are zero.

        Raises:
            ValueError: a size is not allowed.
        """
        super().__init__(d, n_nets)
        if width < 1 or depth < 1:
            raise ValueError(f"width = {width} and depth = {depth} must be at least 1")
        self.width, self.depth = width, depth
        n = n_nets or 1
        sizes = [d, *[width] * depth]
        weights = [torch.zeros(n, *pair) for pair in pairwise(sizes)]
        biases = [torch.zeros(n, 1, width) for _ in range(depth)]
        read_out = torch.zeros(n, width, 1)
        if generator is not None:
            for weight in weights:
                weight.normal_(0, math.sqrt(2 / weight.shape[1]), generator=generator)
            biases[0].uniform_(-1, 1, generator=generator)  # kinks of the first layer lie among the data
            read_out.normal_(0, 1 / math.sqrt(width), generator=generator)
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.read_out, self.offset = nn.Parameter(read_out), nn.Parameter(torch.zeros(n, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return y, (B, N) or (N,), for x (N, d) or (B, N, d)."""
        h = self._with_axis(x)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.relu(torch.baddbmm(bias, h, weight))
        return self._without_axis(torch.baddbmm(self.offset, h, self.read_out)[..., 0])
