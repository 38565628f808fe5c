r"""The histogram: every sub-pixel independent, its mass counted on the training images.

.. math:: p_d(v) = \frac{n_d(v) + \alpha}{N + \alpha L}

The simplest exact model, and a floor under every other: what it reaches is what the marginals of
the pixels alone are worth. It knows nothing of how pixels depend on each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsperdim.likelihoods import Categorical, Likelihood, build_head
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import level_counts
from bitsperdim.models.parts.causal import Memory


class Histogram(AutoregressiveModel):
    """Independent categorical sub-pixels in closed form.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        pseudocount: alpha > 0, so that no level is impossible.
    """

    log_masses: Tensor

    def __init__(self, image_shape: tuple[int, int, int], n_levels: int, *, pseudocount: float) -> None:
        """Start from equal masses."""
        super().__init__(image_shape, n_levels)
        self.pseudocount = pseudocount
        self.head = build_head("categorical", image_shape[0], n_levels, 1)
        self.register_buffer("log_masses", torch.zeros(*image_shape, n_levels))  # (C, H, W, L)

    @property
    def n_parameters(self) -> int:
        """L - 1 for each sub-pixel."""
        return self.n_dims * (self.n_levels - 1)

    def unchecked_initialise(self, images: Tensor) -> None:
        """Count the levels of the training images (N, C, H, W)."""
        counts = level_counts(images, self.n_levels)
        masses = (counts.double() + self.pseudocount) / (len(images) + self.pseudocount * self.n_levels)
        self.log_masses.copy_(masses.log())

    def outputs(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        memory: Memory | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the same log-masses whatever came before, (B, C * L, H, W) or the place of the memory."""
        maps = self.log_masses.permute(0, 3, 1, 2).flatten(0, 1)  # (C * L, H, W)
        if memory is not None:
            row = maps[:, memory.row : memory.row + 1]
            maps = row if memory.column is None else row[:, :, memory.column : memory.column + 1]
        return maps.expand(len(x), *maps.shape)

    def likelihood(self, outputs: Tensor) -> Likelihood:
        """Return the masses, which sum to one already."""
        return Counted(outputs.unflatten(1, (-1, self.n_levels)).permute(0, 1, 3, 4, 2))

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw all sub-pixels at once: none depends on another."""
        return Categorical(self.log_masses.expand(n_images, *self.log_masses.shape)).sample(generator=generator)


class Counted(Categorical):
    """Masses that sum to one as they are, so that no sum over the levels is taken again for every image."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        return self.at(self.logits, x)
