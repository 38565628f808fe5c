"""Equal images: images that a set holds several times, or that another set holds too.

Copies of an image are no new evidence, so a standard error over test images counts distinct images. A test image that
was also a training image shows how well the model remembers it, not how well the model does on new images.

Two images are equal if all their values are equal, as the models see them but before random binarization: two random
binarizations of one grey image count as the same image. Each image is identified by a hash of 128 bits, so that no
image stays in memory.

Nearly equal images are found by :mod:`.near`. If a set holds independent draws from a distribution with so few possible
images that equal ones are often drawn, copies *are* new evidence. Errors that count distinct images are then too large.

Invariants (``tests/data/test_repeated.py``): the result equals a comparison of every pair
(``test_it_is_the_comparison_of_every_pair``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bitsperdim.core.labels import COUNTED

DIGEST_BYTES = 16


def digests(images: np.ndarray) -> list[bytes]:
    """Return a hash of each image, for images (N, C, H, W)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest() for image in images]


def first_equal(hashes: Sequence[bytes]) -> np.ndarray:
    """Return for each image the index of the first equal image, which may be the image itself, (N,) int64."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, index) for index, digest in enumerate(hashes)], dtype=np.int64)


def are_among(hashes: Sequence[bytes], others: Iterable[bytes]) -> np.ndarray:
    """Return whether each image is among others, (N,) bool."""
    there = set(others)
    return np.array([digest in there for digest in hashes], dtype=bool)


def counted(hashes: Mapping[str, Sequence[bytes]]) -> dict[str, int]:
    """Count the distinct test images, and the equal images in ``train``, ``validation`` and ``test``."""
    test, validation, train = (hashes[split] for split in ("test", "validation", "train"))
    counts = (
        len(set(test)),
        int(are_among(test, train).sum()),
        int(are_among(test, validation).sum()),
        int(are_among(validation, train).sum()),
    )
    return dict(zip(COUNTED, counts, strict=True))
