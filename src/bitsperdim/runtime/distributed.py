"""Several processes that share one stage's work, on one machine or several: torch.distributed, started by torchrun.

Nothing in the parameters says how many there are, since it must not change a number: the launcher stands in the
environment (``BITSPERDIM_LAUNCHER="torchrun --standalone --nproc-per-node 4"``), and a stage that was started
otherwise is one process of one.

Tensors of GPUs travel by NCCL, those of CPUs by Gloo, also on a machine with GPUs: what processes agree on besides
numbers (when to save, when to stop) is on the CPU and makes no GPU wait. Nothing but tensors travels between them, and
nothing is pickled.

Invariants (``tests/runtime/test_distributed.py``): shares are all of a batch, once (``test_shares_are_the_whole``); two
processes train and validate as one does (``test_two_processes_are_one``).
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from bitsperdim.core.errors import InputError
from bitsperdim.core.stopping import local_rank, must_speak

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "remote process")
PATIENCE = 5.0  # seconds in which what fails everywhere has failed in the first process too
NEEDLESS_WARNINGS = (  # of DistributedDataParallel
    "`broadcast_buffers` is deprecated",  # older versions of torch know no other word for it
    "Grad strides do not match bucket view strides",  # of 1x1 convolutions, which have two names for the same strides
)

__all__ = [
    "Share",
    "all_summed",
    "broadcast",
    "gathered",
    "is_first",
    "joined",
    "largest",
    "local_rank",
    "rank",
    "share",
    "world_size",
]


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
    """Join the other processes while the work is done; a process that was not started by torchrun stays alone.

    What fails in all processes alike is told by the first of each machine.

    Raises:
        InputError: another process has stopped.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    try:
        with warnings.catch_warnings():
            for text in NEEDLESS_WARNINGS:
                warnings.filterwarnings("ignore", text)
            yield
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the launcher ends the others, perhaps this one
        is_lost = isinstance(error, RuntimeError) and is_of_a_lost_process(error)
        if not is_told_by_the_first(error, of_another=is_lost or isinstance(error, KeyboardInterrupt)):
            must_speak()
        if is_lost:
            raise InputError("Another process of this stage has stopped, and has said why.") from error
        raise
    finally:
        dist.destroy_process_group()


def is_told_by_the_first(error: BaseException, *, of_another: bool) -> bool:
    """Return whether the first process of this machine has the same to tell.

    The others wait for it a moment, before anyone notices that they are gone.

    Args:
        error: of this process.
        of_another: whether it is only the consequence of what has happened elsewhere.
    """
    store, first = dist.distributed_c10d._get_default_store(), rank() - local_rank()
    sentence = f"{type(error).__name__}: {error}"
    try:
        store.set(f"failed/{rank()}", sentence)
        if local_rank() == 0:
            return False
        store.wait([f"failed/{first}"], timedelta(seconds=PATIENCE))
        return of_another or store.get(f"failed/{first}").decode() == sentence
    except RuntimeError:  # it has not failed, or the launcher is gone
        return False


def is_of_a_lost_process(error: RuntimeError) -> bool:
    """Return whether it was raised because another process is no longer there."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in LOST)


@dataclass(frozen=True)
class Share:
    """This process's part of a batch, never empty: with fewer rows than processes some take the first for show.

    Attributes:
        rows: of the batch.
        n_own: how many of them count, 0 where they are for show.
        n_whole: rows of the batch.
    """

    rows: slice
    n_own: int
    n_whole: int

    @property
    def fraction(self) -> float:
        """Of the batch."""
        return self.n_own / self.n_whole


def share(n_whole: int) -> Share:
    """Return this process's part of a batch of ``n_whole`` rows, at least 1: contiguous, as even as they can be."""
    first, end = (n_whole * number // world_size() for number in (rank(), rank() + 1))
    return Share(slice(first, end) if end > first else slice(0, 1), end - first, n_whole)


def all_summed(values: Tensor) -> Tensor:
    """Return the sum over all processes; every one has the same bits."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def largest(*numbers: int) -> list[int]:
    """Return the largest of each of these whole numbers over all processes, by way of the CPU."""
    if world_size() == 1:
        return list(numbers)
    values = torch.tensor(numbers)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [int(value) for value in values]


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            sent = tensor.detach().contiguous()  # a copy where channels come last
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)


def gathered(rows: Tensor) -> list[Tensor]:
    """Return the rows (n, ...) of every process, in the order of their ranks; n may differ, all else must not."""
    if world_size() == 1:
        return [rows]
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    longest = max(int(n) for n in counts)
    if longest == 0:
        return [rows for _ in counts]
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    all_rows = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(all_rows, padded)
    return [part[: int(n)] for part, n in zip(all_rows, counts, strict=True)]
