r"""The histogram: independent sub-pixels whose probability masses are counted in the training images.

.. math:: p_d(v) = \frac{n_d(v) + \alpha}{N + \alpha L}

This is the simplest exact model, and a baseline for every other model: it uses only the marginals of the sub-pixels and
ignores all dependence between them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsperdim.likelihoods import Categorical, Likelihood, build_head
from bitsperdim.models.autoregressive import AutoregressiveModel
from bitsperdim.models.base import level_counts
from bitsperdim.models.parts.causal import Memory


class Histogram(AutoregressiveModel):
    """Independent categorical sub-pixels, fitted in closed form.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        pseudocount: pseudo-count alpha > 0 of each level, so that no level is impossible.
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
        """The number of free parameters: L - 1 for each sub-pixel."""
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
        """Return the log-masses, (B, C * L, H, W) or only at the position of the memory; they do not depend on x."""
        maps = self.log_masses.permute(0, 3, 1, 2).flatten(0, 1)  # (C * L, H, W)
        if memory is not None:
            row = maps[:, memory.row : memory.row + 1]
            maps = row if memory.column is None else row[:, :, memory.column : memory.column + 1]
        return maps.expand(len(x), *maps.shape)

    def likelihood(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood with these masses, which already sum to one."""
        return Counted(outputs.unflatten(1, (-1, self.n_levels)).permute(0, 1, 3, 4, 2))

    def unchecked_sample(
        self, n_images: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw all sub-pixels at once, since they are independent."""
        return Categorical(self.log_masses.expand(n_images, *self.log_masses.shape)).sample(generator=generator)


class Counted(Categorical):
    """A categorical likelihood with normalised masses, so that no image needs a sum over the levels."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats."""
        return self.at(self.logits, x)
