r"""The gated PixelCNN: two stacks without a blind spot, given the class if it is asked for.

Van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu 2016, "Conditional Image Generation with PixelCNN
Decoders", sections 2.1 to 2.3 and figure 2. A *vertical* stack sees all rows above, to both sides; a *horizontal* stack
sees what is to the left in its own row, and what the vertical stack says at its own place::

    vertical, 3x3:   1 1 1        horizontal, 1x3:   1 ? 0
                     - - -                           (? as in ``pixelcnn.py``: mask A, then B)

Both pass their values through gates, which add what the label h says (equations 2 and 4):

.. math:: y = \tanh(W_f * x + V_f^\top h) \odot \sigma(W_g * x + V_g^\top h)

Only the horizontal stack is residual. Here the first vertical layer sees rows above its own alone, so that its own row
holds nothing that is later; all further vertical layers see their own row of it, and no shift is needed to hand it to
the horizontal stack. Two layers of 1x1 convolutions follow, as in the PixelCNN.

Differences from the paper: the input is scaled to [-1, 1]; the kernel of the first layers and the sizes are parameters;
any likelihood may take the place of the softmax; the label acts as a bias of each gate, the same at all places, as the
paper has it, but not as a spatial map (its equation 5).

Invariants (``tests/models/test_gated_pixelcnn.py``): a pixel sees all that is before it within reach, and there is no
blind spot (``test_causality_is_two_sided``); labels matter, and each class is a mass of its own
(``test_each_class_is_a_mass``).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import build_head
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import in_full_precision
from bitsperdim.models.parts.causal import CausalConv2d, Memory, at_place, groups_of, in_row, order_of
from bitsperdim.models.pixelcnn import check_sizes, masked, start_at_marginals

KERNEL_SIZE = 3  # of all layers but the first


class Gate(nn.Module):
    """Half of the maps through a hyperbolic tangent, times the other half through a logistic function.

    Args:
        n_maps: p, of the result.
        n_classes: of labels; None: there are none.
    """

    def __init__(self, n_maps: int, n_classes: int | None) -> None:
        """Build what labels add, which is nothing at the start."""
        super().__init__()
        self.of_label = None if n_classes is None else nn.Embedding(n_classes, 2 * n_maps)
        if self.of_label is not None:
            nn.init.zeros_(self.of_label.weight)

    def forward(self, hidden: Tensor, labels: Tensor | None) -> Tensor:
        """Return (B, p, H, W) for maps (B, 2p, H, W) and labels (B,), which matter only where there are classes.

        Raises:
            ValueError: there are classes, but no labels.
        """
        if self.of_label is not None:
            if labels is None:
                raise ValueError("a model that is given the class needs labels")
            hidden = hidden + self.of_label(labels)[:, :, None, None]
        value, gate = hidden.chunk(2, 1)
        return torch.tanh(value) * torch.sigmoid(gate)


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2 of the paper).

    Args:
        n_inputs: maps of the image, for the first layer, or p.
        n_maps: p.
        kernel_size: n, odd.
        n_groups: G, into which the channels of the image fall.
        n_classes: of labels; None: there are none.
        is_first: whether it sees the image itself: mask A, rows above alone, and no residual.
        is_last: whether no layer comes after, so that the vertical stack ends before its gate.
    """

    def __init__(
        self,
        n_inputs: int,
        n_maps: int,
        kernel_size: int,
        n_groups: int,
        n_classes: int | None,
        *,
        is_first: bool,
        is_last: bool,
    ) -> None:
        """Build the convolutions of both stacks."""
        super().__init__()
        reach = kernel_size // 2
        self.is_first = is_first
        rows = (-reach, -1 if is_first else 0)
        of_inputs = groups_of(n_inputs, n_groups)
        of_outputs = groups_of(n_maps, n_groups).repeat(2)  # values and gates
        self.vertical = CausalConv2d(n_inputs, 2 * n_maps, rows=rows, columns=(-reach, reach))
        self.horizontal = CausalConv2d(
            n_inputs,
            2 * n_maps,
            columns=(-reach, 0),
            order=order_of(of_inputs, of_outputs, sees_own_group=not is_first),
        )
        self.down = CausalConv2d(2 * n_maps, 2 * n_maps)  # from the vertical to the horizontal stack
        self.out = masked(n_maps, n_maps, 1, n_groups, sees_own_group=True)
        self.vertical_gate = Gate(n_maps, None if is_last else n_classes)  # nothing comes after the last
        self.horizontal_gate = Gate(n_maps, n_classes)

    def add(self, seen: Tensor, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Tensor:
        """Return what the layer adds to the horizontal stack.

        Args:
            seen: (B, 2p, H, W), what the horizontal convolution sees.
            above: likewise, what the vertical stack says.
            labels: (B,).
            memory: of the place.
        """
        return self.out(self.horizontal_gate(seen + above, labels), memory)


class GatedPixelCNN(AutoregressiveModel):
    """A gated PixelCNN with any likelihood.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        n_filters: p in the paper; even, and at least 2G so that every group of channels has maps of its own.
        n_layers: after the first.
        kernel_size: of the first layer, odd; all others have 3.
        n_classes: of labels, each with an image model of its own; None: labels are not given.
        likelihood: a key of :data:`bitsperdim.likelihoods.HEADS`; ``categorical`` is that of the paper.
        n_mixtures: the number of its components.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        n_filters: int,
        n_layers: int,
        kernel_size: int,
        n_classes: int | None,
        likelihood: str,
        n_mixtures: int,
    ) -> None:
        """Build both stacks."""
        super().__init__(image_shape, n_levels)
        channels, self.n_classes = image_shape[0], n_classes
        self.head = build_head(likelihood, channels, n_levels, n_mixtures)
        groups = self.head.n_groups
        check_sizes(n_filters, kernel_size, groups)
        self.layers = nn.ModuleList(
            GatedLayer(
                n_filters if number else channels,
                n_filters,
                KERNEL_SIZE if number else kernel_size,
                groups,
                n_classes,
                is_first=number == 0,
                is_last=number == n_layers,
            )
            for number in range(1 + n_layers)
        )
        self.last = masked(n_filters, n_filters, 1, groups, sees_own_group=True)
        self.to_outputs = masked(n_filters, groups * self.head.n_outputs, 1, groups, sees_own_group=True)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Start the output biases at the marginals of each channel."""
        start_at_marginals(self, self.to_outputs, images)

    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return what the network says of p(x_i given x_<i), (B, G * n, H, W) or its place of the memory."""
        above = [at_place(row, memory) for row in in_row(memory, lambda: self.above(x, labels, memory))]
        first, *rest = self.both_stacks
        hidden = first.add(first.horizontal.of_image(x, self.scaled, memory), above[0], labels, memory)
        for layer, said in zip(rest, above[1:], strict=True):
            hidden = hidden + layer.add(layer.horizontal(hidden, memory), said, labels, memory)
        return in_full_precision(self.to_outputs, F.relu(self.last(F.relu(hidden), memory)), memory)

    def above(self, x: Tensor, labels: Tensor | None, memory: Memory | None) -> list[Tensor]:
        """Return what the rows above say to each layer of the horizontal stack, (B, 2p, H, W) or a row of it."""
        first, *rest = self.both_stacks
        seen = first.vertical.of_image(x, self.scaled, memory)
        said, before = [first.down(seen, memory)], first
        for layer in rest:
            seen = layer.vertical(before.vertical_gate(seen, labels), memory)
            said.append(layer.down(seen, memory))
            before = layer
        return said

    @property
    def both_stacks(self) -> list[GatedLayer]:
        """The layers, the first of which sees the image."""
        return cast(list[GatedLayer], list(self.layers))
