"""Independent streams of random numbers from one seed, one stream for each purpose.

Two generators that start from the same small number give the same numbers: training and evaluation would then use the
same noise. Therefore each purpose has a number of its own in this module, which is hashed together with the seeds
(:class:`numpy.random.SeedSequence`).

If several processes share a batch of images, each has a generator in the same state, draws the numbers for the whole
batch, and uses its own rows (:func:`draw`). So the numbers do not depend on the number of processes. Drawing costs
little compared with the work on the numbers.

Invariants (``tests/core/test_randomness.py``): no two purposes and no two seeds share a stream; a process draws the
same numbers for its rows as one process draws for the whole batch (``test_shares_are_rows_of_the_whole``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

PURPOSES = (
    "weights",
    "start",
    "training",
    "validation",
    "evaluation",
    "causality",
    "pictures",
    "active_units",
    "annealed_images",
    "annealing",
    "simulation",
    "study_evaluation",
    "study_bound",
    "known_images",
    "known_evaluation",
    "study_mistakes",
    "fitted_noise",
    "refining",
    "contrast_images",
    "contrast",
    "annealed_start",
    "best_normal",
    "rate_distortion",
)


def stream_seed(purpose: str, *seeds: int) -> int:
    """Return a seed of 63 bits for one purpose.

    Args:
        purpose: one of :data:`PURPOSES`.
        seeds: seeds from the parameters, each from 0 to 2^32 - 1.

    Raises:
        ValueError: there is no such purpose.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"a purpose must be one of {', '.join(PURPOSES)}, not {purpose!r}")
    # the number of seeds is hashed too, since SeedSequence ignores zeros at the end
    return int(
        np.random.SeedSequence([PURPOSES.index(purpose), len(seeds), *seeds]).generate_state(1, np.uint64)[0] >> 1
    )


class Stream(torch.Generator):
    """A generator whose numbers several processes may share, each using its own rows of a batch.

    Attributes:
        share: first row of this process, and number of rows of the whole batch; None: this is the only process.
    """

    share: tuple[int, int] | None = None


def stream(purpose: str, *seeds: int, device: torch.device | str = "cpu") -> Stream:
    """Return a generator on a device for one purpose; :func:`stream_seed` explains the arguments."""
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
    """Draw random numbers for the images of a batch, or for this process's rows of a shared batch.

    Args:
        how: ``torch.rand``, ``torch.randn`` or another function of a shape, ``generator``, ``dtype`` and ``device``.
        shape: (B, ...), shape of the result: B counts only the rows of this process.
        generator: source of the numbers; a :class:`Stream` knows the rows of this process.
        dtype: type of the numbers.
        device: device of the generator.
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
    """Exclude the drawing of random numbers from compilation: torch cannot compile code that uses a generator."""
    global _rows_drawn
    _rows_drawn = torch.compiler.disable(_drawn)
