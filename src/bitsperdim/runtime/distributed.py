"""Several processes that share the work of one stage, on one or more machines, by torch.distributed and torchrun.

The number of processes is not a parameter, because it must not change a result. The launcher is an environment variable
(``BITSPERDIM_LAUNCHER="torchrun --standalone --nproc-per-node 4"``). Without a launcher, a stage is a single process.

Tensors on GPUs are exchanged by NCCL, tensors on CPUs by Gloo. Processes agree on other things, such as when to save
and when to stop, by CPU tensors, so that no GPU has to wait. Processes exchange only tensors, and nothing is pickled.

Invariants (``tests/runtime/test_distributed.py``): the shares of all processes cover a batch exactly once
(``test_shares_are_the_whole``); two processes train and validate like one (``test_two_processes_are_one``).
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
PATIENCE = 5.0  # seconds after which an error that occurs in all processes has occurred in the first one too
NEEDLESS_WARNINGS = (  # from DistributedDataParallel
    "`broadcast_buffers` is deprecated",  # older versions of torch have no other name for this argument
    "Grad strides do not match bucket view strides",  # 1x1 convolutions have two notations for the same strides
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
    """Return the number of processes of the stage."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the first one, which writes files and prints messages."""
    return rank() == 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes for the duration of the block; a process that torchrun did not start stays alone.

    If all processes fail with the same message, only the first process of each machine prints it.

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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the launcher may end this process together with the others
        is_lost = isinstance(error, RuntimeError) and is_of_a_lost_process(error)
        if not is_told_by_the_first(error, of_another=is_lost or isinstance(error, KeyboardInterrupt)):
            must_speak()
        if is_lost:
            raise InputError("Another process of this stage has stopped; see its error message.") from error
        raise
    finally:
        dist.destroy_process_group()


def is_told_by_the_first(error: BaseException, *, of_another: bool) -> bool:
    """Return whether the first process of this machine prints the same error, so that this process need not print it.

    The other processes wait up to :data:`PATIENCE` seconds for the first one.

    Args:
        error: error of this process.
        of_another: whether the error is only a consequence of an error in another process.
    """
    store = dist.distributed_c10d._get_default_store()
    first = rank() - local_rank()
    sentence = f"{type(error).__name__}: {error}"
    try:
        store.set(f"failed/{rank()}", sentence)
        if local_rank() == 0:
            return False
        store.wait([f"failed/{first}"], timedelta(seconds=PATIENCE))
        return of_another or store.get(f"failed/{first}").decode() == sentence
    except RuntimeError:  # the first process has not failed, or the launcher is gone
        return False


def is_of_a_lost_process(error: RuntimeError) -> bool:
    """Return whether an error was raised because another process no longer exists."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in LOST)


@dataclass(frozen=True)
class Share:
    """The part of a batch that this process works on; it is never empty.

    If there are fewer rows than processes, some processes compute the first row without counting it.

    Attributes:
        rows: rows of the batch that this process computes.
        n_own: number of these rows that count; 0 if the row is only a placeholder.
        n_whole: number of rows of the whole batch.
    """

    rows: slice
    n_own: int
    n_whole: int

    @property
    def fraction(self) -> float:
        """The fraction of the batch that counts for this process."""
        return self.n_own / self.n_whole


def share(n_whole: int) -> Share:
    """Return this process's contiguous part of a batch of ``n_whole`` >= 1 rows; parts are as equal as possible."""
    first, end = (n_whole * number // world_size() for number in (rank(), rank() + 1))
    return Share(slice(first, end) if end > first else slice(0, 1), end - first, n_whole)


def all_summed(values: Tensor) -> Tensor:
    """Return the sum over all processes; every process gets the same bits."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def largest(*numbers: int) -> list[int]:
    """Return, for each of these integers, the largest value over all processes, exchanged on the CPU."""
    if world_size() == 1:
        return list(numbers)
    values = torch.tensor(numbers)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [int(value) for value in values]


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the values of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            sent = tensor.detach().contiguous()  # a copy if the channels are last in memory
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)


def gathered(rows: Tensor) -> list[Tensor]:
    """Return the rows (n, ...) of every process, ordered by rank; only n may differ between processes."""
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
