"""Which images of a set are there several times, and which are in another set too.

Copies of an image are no new evidence: an error over test images counts distinct ones. A test image that was trained on
says how well the model remembers it, not how well it does on images that it has not seen. Images are the same where all
their values are, as the models see them, but before they are binarized by chance: two draws from one grey image are
one image. Each is known by a hash of 128 bits, so that no image stays in memory.

Nearly equal images are found by :mod:`.near`. Where a set holds independent draws from so few possible images that
equal ones are drawn again and again, copies *are* new evidence: errors that count distinct images are then too large.

Invariants (``tests/data/test_repeated.py``): against a comparison of every pair
(``test_it_is_the_comparison_of_every_pair``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bitsperdim.core.labels import COUNTED

DIGEST_BYTES = 16


def digests(images: np.ndarray) -> list[bytes]:
    """Return a hash of each image of (N, C, H, W)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest() for image in images]


def first_equal(hashes: Sequence[bytes]) -> np.ndarray:
    """Return for each image the number of the first that is equal, its own where there is none before, (N,) int64."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, index) for index, digest in enumerate(hashes)], dtype=np.int64)


def are_among(hashes: Sequence[bytes], others: Iterable[bytes]) -> np.ndarray:
    """Return whether each image is among others, (N,) bool."""
    there = set(others)
    return np.array([digest in there for digest in hashes], dtype=bool)


def counted(hashes: Mapping[str, Sequence[bytes]]) -> dict[str, int]:
    """Count what is the same within the test images, and between the splits ``train``, ``validation`` and ``test``."""
    test, validation, train = (hashes[split] for split in ("test", "validation", "train"))
    counts = (
        len(set(test)),
        int(are_among(test, train).sum()),
        int(are_among(test, validation).sum()),
        int(are_among(validation, train).sum()),
    )
    return dict(zip(COUNTED, counts, strict=True))
