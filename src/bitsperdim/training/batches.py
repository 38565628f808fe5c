"""How training images are shown: in random order, in batches, drawn anew or with their noise.

Images live on the device, and what is done with them waits for nothing. The one exception is noise that each image
keeps for ever: it comes from the CPU, where every image has a generator of its own.

Invariants (``tests/training/test_training.py``): every image is presented once an epoch
(``test_every_image_is_presented_once_an_epoch``); fixed noise stays with its image
(``test_fixed_noise_stays_with_its_image``); dynamic binarization is drawn anew each time
(``test_dynamic_binarization_is_drawn_anew``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsperdim.core.randomness import draw


@dataclass(frozen=True)
class Presentation:
    """The training images on the device, drawn anew at each presentation where binarization is dynamic.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        train_levels: of the images before binarization.
        dynamic: whether they are binarized at each presentation.
        noise_seed: of dequantization noise that each image keeps for ever; None where the model draws its own.
        n_samples: K of the objective.
    """

    images: Tensor
    labels: Tensor | None
    train_levels: int
    dynamic: bool
    noise_seed: int | None = None
    n_samples: int = 1

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the rows of all images in random order, (N,): one epoch."""
        return torch.randperm(len(self.images), generator=generator, device=self.images.device)

    def batches(self, order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
        """Split an epoch into batches of rows; the last may be smaller."""
        return order.split(batch_size)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the images of some rows as the model sees them, their labels, and their noise if it is fixed."""
        labels = None if self.labels is None else self.labels[index]
        # whole rows are copied at once, where brackets would copy sub-pixel by sub-pixel
        return self.drawn(self.images.index_select(0, index), generator), labels, self.fixed_noise(index)

    def fixed_noise(self, index: Tensor) -> Tensor | None:
        """Return the dequantization noise of some rows, (K, B, C, H, W) in [0, 1), the same whenever they come."""
        if self.noise_seed is None:
            return None
        shape = (self.n_samples, *self.images.shape[1:])
        # each image has a generator of its own, so that none is stored; torch's would ignore all but 32 bits of a seed
        keys = [np.array([self.noise_seed, row], dtype=np.uint64) for row in index.tolist()]
        draws = [np.random.Generator(np.random.Philox(key=key)).random(shape, dtype=np.float32) for key in keys]
        return torch.from_numpy(np.stack(draws, axis=1)).to(self.images.device)

    def drawn(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Binarize with probability x / (L-1) where binarization is dynamic; else return the images."""
        if not self.dynamic:
            return images
        uniform = draw(torch.rand, images.shape, generator, device=images.device)
        return (uniform * (self.train_levels - 1) < images).to(torch.uint8)
