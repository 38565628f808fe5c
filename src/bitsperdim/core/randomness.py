"""One seed, many independent streams of random numbers: what is drawn for one purpose is never drawn for another.

Two generators that are started with the same small number give the same numbers, so that noise in training would be
that of evaluation too. Each purpose has its own number here, and hashes it together with the seeds
(:class:`numpy.random.SeedSequence`).

Several processes that share a batch of images hold a generator in the same state each, draw for the whole batch, and
take their rows (:func:`draw`): so the numbers do not depend on how many processes there are. Drawing is cheap beside
what is done with the numbers.

Invariants (``tests/core/test_randomness.py``): no two purposes and no two seeds share a stream; rows of a batch are
drawn as those of the whole (``test_shares_are_rows_of_the_whole``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

PURPOSES = (
    *("weights", "start", "training", "validation", "evaluation", "causality", "pictures"),
    *("active_units", "annealed_images", "annealing", "simulation"),
    *("study_evaluation", "study_bound", "known_images", "known_evaluation", "study_mistakes"),
    "fitted_noise",
    *("refining", "contrast_images", "contrast", "annealed_start"),
    *("best_normal", "rate_distortion"),
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


class Stream(torch.Generator):
    """A generator that may stand for one that others hold as well.

    Attributes:
        share: the first row of this process and the number of rows of the whole batch; None: there is no other process.
    """

    share: tuple[int, int] | None = None


def stream(purpose: str, *seeds: int, device: torch.device | str = "cpu") -> Stream:
    """Return a generator on a device for one purpose; arguments as of :func:`stream_seed`."""
    generator = Stream(device)
    generator.manual_seed(stream_seed(purpose, *seeds))
    return generator


def draw(
    how: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Draw numbers for the images of a batch, or for the rows that are this process's share of it.

    Args:
        how: ``torch.rand``, ``torch.randn`` or another function of a shape, ``generator``, ``dtype`` and ``device``.
        shape: (B, ...), of the share.
        generator: of the numbers; a :class:`Stream` says what the share is.
        dtype: of the numbers.
        device: of the generator.
    """
    return _rows_drawn(how, shape, generator, dtype, device)


def _drawn(
    how: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    dtype: torch.dtype | None,
    device: torch.device | None,
) -> Tensor:
    first, n_rows = 0, shape[0]
    if isinstance(generator, Stream) and generator.share is not None:
        first, n_rows = generator.share
    drawn = how((n_rows, *shape[1:]), generator=generator, dtype=dtype, device=device)
    return drawn[first : first + shape[0]]


_rows_drawn = _drawn


def leave_uncompiled() -> None:
    """Let compilers of models pass by what is drawn here: they cannot look into a generator."""
    global _rows_drawn
    _rows_drawn = torch.compiler.disable(_drawn)
