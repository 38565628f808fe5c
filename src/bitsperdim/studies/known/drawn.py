"""Images from a known distribution as training, validation and test set, in memory.

Invariants (``tests/studies/test_known_excess.py``): splits share images only by chance; one seed gives one set of
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitsperdim.core.files import sha256
from bitsperdim.core.randomness import stream_seed
from bitsperdim.data.prepared import SPLITS, Description, PreparedImages
from bitsperdim.sources.known import KnownDistribution


def drawn(source: KnownDistribution, n_images: Mapping[str, int], seed: int) -> PreparedImages:
    """Draw the images of each split, and dequantization noise for the splits that are evaluated.

    Args:
        source: distribution of the images.
        n_images: number of images in each split.
        seed: seed of all draws.
    """
    generators = {split: _generator(seed, index) for index, split in enumerate(SPLITS)}
    images = {split: source.draw(n_images[split], generators[split]) for split in SPLITS}
    noise = {split: generators[split].random(images[split].shape, dtype=np.float32) for split in SPLITS[1:]}
    return PreparedImages(description_of(source, images), images, noise=noise)


def description_of(source: KnownDistribution, images: Mapping[str, np.ndarray]) -> Description:
    """Return the description of the images, with the protocol tag of the ``test`` split."""
    channels, height, width = source.image_shape
    size = f"{height}x{width}x{channels}/L{source.n_levels}/test{len(images['test'])}"
    return Description(
        image_shape=source.image_shape,
        n_levels=source.n_levels,
        train_levels=source.n_levels,
        binarization="none",
        n_images={split: len(array) for split, array in images.items()},
        test_sha256=sha256(images["test"]),
        protocol=f"{source.name}-{source.tag}/none/{size}/given-none",
    )


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(stream_seed("known_images", seed, index))
