r"""The gated PixelCNN: two stacks without a blind spot, optionally conditioned on class labels.

Van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu 2016, "Conditional Image Generation with PixelCNN
Decoders", sections 2.1 to 2.3 and figure 2. A *vertical* stack sees all rows above, on both sides. A *horizontal* stack
sees the pixels to the left in its own row, and the output of the vertical stack at its own position::

    vertical, 3x3:   1 1 1        horizontal, 1x3:   1 ? 0
                     - - -                           (? as in ``pixelcnn.py``: mask A, then B)

Both stacks pass their values through gates, which add a term for the label h (equations 2 and 4):

.. math:: y = \tanh(W_f * x + V_f^\top h) \odot \sigma(W_g * x + V_g^\top h)

Only the horizontal stack is residual. In this implementation the first vertical layer sees only the rows above its own,
so its output contains nothing from the current row. All further vertical layers also see their own row of this output,
and the vertical stack needs no shift before it is added to the horizontal stack. Two layers of 1x1 convolutions follow,
as in the PixelCNN.

Differences from the paper: the input is scaled to [-1, 1]; the kernel size of the first layers and the sizes are
parameters; any likelihood may replace the softmax; the label acts as a bias of each gate that is the same at all
positions (as in the paper), but not as a spatial map (its equation 5); there may be dropout of the gated values.

Invariants (``tests/models/test_gated_pixelcnn.py``): a pixel sees all earlier pixels within reach, and there is no
blind spot (``test_causality_is_two_sided``); labels change the result, and each class has its own probability mass
(``test_each_class_is_a_mass``); dropout acts in both stacks, and in training only
(``test_dropout_is_of_training_alone_and_drawn_by_the_generator``, ``test_dropout_acts_in_both_stacks``).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.likelihoods import build_head
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import in_full_precision
from bitsperdim.models.parts.activations import check_dropout, dropped_out
from bitsperdim.models.parts.causal import CausalConv2d, Memory, at_place, groups_of, in_row, order_of
from bitsperdim.models.pixelcnn import check_sizes, masked, start_at_marginals

KERNEL_SIZE = 3  # of all layers except the first


class Gate(nn.Module):
    """A gate: the hyperbolic tangent of half of the maps, times the logistic function of the other half.

    Args:
        n_maps: number of feature maps p of the result.
        n_classes: number of classes; None: the model is not conditioned on labels.
    """

    def __init__(self, n_maps: int, n_classes: int | None) -> None:
        """Build the biases for the labels, which start at zero."""
        super().__init__()
        self.of_label = None if n_classes is None else nn.Embedding(n_classes, 2 * n_maps)
        if self.of_label is not None:
            nn.init.zeros_(self.of_label.weight)

    def forward(self, hidden: Tensor, labels: Tensor | None) -> Tensor:
        """Return maps (B, p, H, W) for maps (B, 2p, H, W) and labels (B,); without classes, labels are ignored.

        Raises:
            ValueError: the gate has classes, but no labels are given.
        """
        if self.of_label is not None:
            if labels is None:
                raise ValueError("the model is conditioned on labels, but no labels are given")
            hidden = hidden + self.of_label(labels)[:, :, None, None]
        value, gate = hidden.chunk(2, 1)
        return torch.tanh(value) * torch.sigmoid(gate)


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2 of the paper).

    Args:
        n_inputs: number of input maps: the channels of the image for the first layer, otherwise p.
        n_maps: number of feature maps p of each stack.
        kernel_size: size n of the kernel, odd.
        n_groups: number of groups G of the image channels.
        n_classes: number of classes; None: the model is not conditioned on labels.
        is_first: whether the input is the image itself. Then the layer has mask A, its vertical convolution sees only
            rows above, and it has no residual connection.
        is_last: whether no layer follows, so that the vertical stack ends before its gate.
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
        self.vertical_gate = Gate(n_maps, None if is_last else n_classes)  # the last layer does not use it
        self.horizontal_gate = Gate(n_maps, n_classes)


class GatedPixelCNN(AutoregressiveModel):
    """A gated PixelCNN with any likelihood.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        n_filters: number of feature maps p of each stack; even, and at least 2G so that every group of channels has
            its own maps.
        n_layers: number of layers after the first.
        kernel_size: kernel size of the first layer, odd; all other layers have size 3.
        n_classes: number of classes that the model is conditioned on; None: it is not conditioned on labels.
        likelihood: name of the likelihood, a key of :data:`bitsperdim.likelihoods.HEADS`; the paper uses
            ``categorical``.
        n_mixtures: number of components of the likelihood, if it is a mixture.
        dropout: share of the gated values of both stacks that is set to zero in training; not in the paper.
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
        dropout: float = 0.0,
    ) -> None:
        """Build both stacks."""
        super().__init__(image_shape, n_levels)
        check_dropout(dropout)
        self.dropout = dropout
        channels = image_shape[0]
        self.n_classes = n_classes
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
        """Set the output biases to the marginals of each channel."""
        start_at_marginals(self, self.to_outputs, images)

    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the parameters of p(x_i given x_<i), (B, G * n, H, W), or only those at the position of the memory."""
        above = [at_place(row, memory) for row in in_row(memory, lambda: self.above(x, labels, memory, generator))]
        first, *rest = self.both_stacks
        gated = first.horizontal_gate(first.horizontal.of_image(x, self.scaled, memory) + above[0], labels)
        hidden = first.out(self.dropped_out(gated, generator), memory)
        for layer, said in zip(rest, above[1:], strict=True):
            gated = layer.horizontal_gate(layer.horizontal(hidden, memory) + said, labels)
            hidden = hidden + layer.out(self.dropped_out(gated, generator), memory)
        return in_full_precision(self.to_outputs, F.relu(self.last(F.relu(hidden), memory)), memory)

    def dropped_out(self, gated: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the gated values of a layer, (B, p, H, W), in training with dropout."""
        return dropped_out(gated, self.dropout, generator) if self.training and self.dropout else gated

    def above(
        self, x: Tensor, labels: Tensor | None, memory: Memory | None, generator: torch.Generator | None
    ) -> list[Tensor]:
        """Return the vertical stack's input to each layer of the horizontal stack, (B, 2p, H, W) or a row of it."""
        first, *rest = self.both_stacks
        seen = first.vertical.of_image(x, self.scaled, memory)
        said = [first.down(seen, memory)]
        before = first
        for layer in rest:
            gated = self.dropped_out(before.vertical_gate(seen, labels), generator)
            seen = layer.vertical(gated, memory)
            said.append(layer.down(seen, memory))
            before = layer
        return said

    @property
    def both_stacks(self) -> list[GatedLayer]:
        """All layers of both stacks; the first layer sees the image."""
        return cast(list[GatedLayer], list(self.layers))
