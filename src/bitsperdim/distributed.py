"""Several processes that share one stage's work, on one machine or several: torch.distributed, started by torchrun.

Nothing in the parameters says how many there are, since it must not change a number: the launcher stands in the
environment (``BITSPERDIM_LAUNCHER="torchrun --standalone --nproc-per-node 4"``), and a stage that was started
otherwise is one process of one.

Only tensors travel between processes: nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that writes files and speaks."""
    return rank() == 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes while the work is done: by NCCL between GPUs, by Gloo between CPUs.

    A process that was not started by torchrun stays alone.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", device_id=device if device.index else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Return the number of this process on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def gathered(rows: Tensor) -> list[Tensor]:
    """Return the rows (n, ...) of every process, in the order of their ranks; n may differ, all else must not."""
    if world_size() == 1:
        return [rows]
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    longest = max(int(n) for n in counts)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    all_rows = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(all_rows, padded)
    return [part[: int(n)] for part, n in zip(all_rows, counts, strict=True)]
