"""One seed, many independent streams of random numbers: what is drawn for one purpose is never drawn for another.

Two generators that are started with the same small number give the same numbers, so that noise in training would be
that of evaluation too. Each purpose has its own number here, and hashes it together with the seeds
(:class:`numpy.random.SeedSequence`).

Invariant (``tests/test_randomness.py``): no two purposes and no two seeds share a stream.
"""

from __future__ import annotations

import numpy as np
import torch

PURPOSES = (
    *("weights", "start", "training", "validation", "evaluation", "causality", "pictures"),
    *("active_units", "annealed_images", "annealing", "simulation"),
    *("study_evaluation", "study_bound"),
)


def stream_seed(purpose: str, *seeds: int) -> int:
    """Return a seed of 63 bits for one purpose.

    Args:
        purpose: one of :data:`PURPOSES`.
        seeds: of the parameters, each from 0 to 2^32 - 1.

    Raises:
        ValueError: there is no such purpose.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"a purpose must be one of {', '.join(PURPOSES)}, not {purpose!r}")
    # with their number, since a sequence that ends in zeros is that without them
    return int(
        np.random.SeedSequence([PURPOSES.index(purpose), len(seeds), *seeds]).generate_state(1, np.uint64)[0] >> 1
    )


def stream(purpose: str, *seeds: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on a device for one purpose; arguments as of :func:`stream_seed`."""
    return torch.Generator(device).manual_seed(stream_seed(purpose, *seeds))
