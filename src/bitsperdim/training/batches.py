"""Presentation of training images: random order, batches, dynamic binarization, and fixed dequantization noise.

The images are on the device, and no operation on them makes the host wait. The one exception is noise that an image
keeps for the whole training run: it comes from the CPU, where every image has its own generator.

Invariants (``tests/training/test_training.py``): every image is presented once per epoch
(``test_every_image_is_presented_once_an_epoch``); fixed noise stays with its image
(``test_fixed_noise_stays_with_its_image``); dynamic binarization is drawn again each time
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
    """The training images on the device; with dynamic binarization, they are drawn again at each presentation.

    Attributes:
        images: training images, (N, C, H, W) uint8.
        labels: class labels, (N,) int64; None: there are no labels.
        train_levels: number of levels of the images before binarization.
        dynamic: whether images are binarized at each presentation.
        noise_seed: seed of the dequantization noise that each image keeps; None: the model draws its own noise.
        n_samples: K of the objective.
    """

    images: Tensor
    labels: Tensor | None
    train_levels: int
    dynamic: bool
    noise_seed: int | None = None
    n_samples: int = 1

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the row numbers of all images in random order, (N,), for one epoch."""
        return torch.randperm(len(self.images), generator=generator, device=self.images.device)

    def batches(self, order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
        """Split the row numbers of an epoch into batches; the last batch may be smaller."""
        return order.split(batch_size)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return some images as the model sees them, their labels, and their noise if it is fixed.

        Args:
            index: row numbers of the images, (B,).
            generator: source of the random numbers for dynamic binarization.
        """
        labels = None if self.labels is None else self.labels[index]
        # index_select copies whole rows; indexing by brackets would copy single sub-pixels
        return self.drawn(self.images.index_select(0, index), generator), labels, self.fixed_noise(index)

    def fixed_noise(self, index: Tensor) -> Tensor | None:
        """Return the fixed dequantization noise of some images, (K, B, C, H, W) in [0, 1); None if it is not fixed."""
        if self.noise_seed is None:
            return None
        shape = (self.n_samples, *self.images.shape[1:])
        # each image has its own generator, so no noise is stored; torch's generator would use only 32 bits of a seed
        keys = [np.array([self.noise_seed, row], dtype=np.uint64) for row in index.tolist()]
        draws = [np.random.Generator(np.random.Philox(key=key)).random(shape, dtype=np.float32) for key in keys]
        return torch.from_numpy(np.stack(draws, axis=1)).to(self.images.device)

    def drawn(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Set each sub-pixel to 1 with probability x / (L-1) if binarization is dynamic; else return the images."""
        if not self.dynamic:
            return images
        uniform = draw(torch.rand, images.shape, generator, device=images.device)
        return (uniform * (self.train_levels - 1) < images).to(torch.uint8)
