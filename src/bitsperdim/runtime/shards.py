"""Work on many images in blocks: each block is computed once, by any process, in this run or an earlier one.

Only parameters decide where a block begins, and each block has its own stream of random numbers. So the rows of a block
do not depend on the process that computes it, on the time, or on the order. Several processes can share the blocks, and
an interrupted run resumes with the blocks that are missing. On CPUs of one kind, the rows have the same bits in all
these cases, because the shapes in a block are always the same. The number of threads per process must also be the same:
it may change how a sum is rounded.

Each process computes one block, and then all exchange their rows. So every process knows all rows, and all stop if one
must stop. Only the first process reads and writes the checkpoint; the others need no access to its folder.

This module does not compute the rows of a block itself, and it does not balance blocks of very different cost.

Invariants (``tests/runtime/test_blocks.py``):

1. Each row is computed exactly once and is in its place; otherwise an error is raised
   (``test_rows_that_are_missing_or_there_twice_are_an_error``).
2. One process and several processes, even more processes than blocks, give the same bits; an error in one process stops
   all (``test_sharded_is_the_same_bit_for_bit``).
3. An interrupted run gives the same bits as an uninterrupted one, and does not compute saved blocks again
   (``test_what_is_done_is_taken_over``).
4. If a process is killed at any moment, the stages finally give the same bytes (``tests/runtime/test_killed.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import gathered, is_first, rank, world_size

KEPT_SHARE = 0.1  # of the checkpoint's interval; work that took longer is saved at its end, in case later work stops
FAILED = -1.0  # replaces the number of a row if its computation failed


def in_blocks(
    title: str,
    n_rows: int,
    size: int,
    n_columns: int,
    work: Callable[[range], Tensor],
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Tensor], object] = lambda _: None,
) -> Tensor:
    """Return the rows of all blocks in order, (n_rows, n_columns) float64, on the CPU of every process.

    Args:
        title: name of the work, for messages.
        n_rows: number of rows of all blocks together.
        size: number of rows of a block; the last block may have fewer.
        n_columns: number of values in a row.
        work: function that computes the rows of a block, (len(block), n_columns) float64, only from its row numbers.
        device: device on which rows are exchanged.
        checkpoint: where finished rows are saved; the caller marks it as finished. None: rows are not saved.
        progress: function that is called with all new rows, also with the rows of a checkpoint.

    Raises:
        FloatingPointError: ``work`` raised it in one of the processes.
        InputError: another process stopped for another reason.
        RuntimeError: a row is missing or occurs twice.
    """
    parts = _kept(title, n_rows, n_columns, checkpoint, device, progress)
    done = {int(number) for part in parts for number in part[:, 0]}
    waiting = [block for block in blocks(n_rows, size) if block.start not in done]
    mine = share(waiting)
    n_kept = len(parts)
    started = saved = time.monotonic()

    def save() -> None:
        if checkpoint is not None and is_first() and len(parts) > n_kept:
            checkpoint.save({"rows": torch.cat(parts)}, {"title": title, "n_rows": n_rows})

    try:
        for turn in range(-(-len(waiting) // world_size())):
            new = _together(mine[turn] if turn < len(mine) else None, n_columns, work, device)
            parts.append(new)
            progress(new[:, 1:])
            if checkpoint is not None and time.monotonic() - saved >= checkpoint.interval:
                save()
                saved = time.monotonic()
    except BaseException:  # also after Ctrl-C: keep the finished rows
        save()
        raise
    if checkpoint is not None and time.monotonic() - started >= KEPT_SHARE * checkpoint.interval:
        save()
    return in_place(torch.cat([torch.empty(0, 1 + n_columns, dtype=torch.float64), *parts]), n_rows)


def blocks(n_rows: int, size: int) -> list[range]:
    """Return the row numbers of every block."""
    return [range(first, min(first + size, n_rows)) for first in range(0, n_rows, size)]


def share(waiting: list[range]) -> list[range]:
    """Return the blocks that this process computes; all processes together compute each block once."""
    return waiting[rank() :: world_size()]


def in_place(rows: Tensor, n_rows: int) -> Tensor:
    """Sort rows by the number in their first column, and remove that column.

    Raises:
        RuntimeError: the numbers are not 0, 1, ..., n_rows - 1, each once.
    """
    rows = rows[rows[:, 0].argsort()]
    if rows[:, 0].tolist() != list(range(n_rows)):
        raise RuntimeError(f"the {len(rows)} computed rows are not the {n_rows} expected rows, each exactly once")
    return rows[:, 1:]


def _together(
    block: range | None, n_columns: int, work: Callable[[range], Tensor], device: torch.device
) -> Tensor:  # (n, 1 + n_columns)
    """Compute the rows of this process's block, if it has one; return the numbered rows of all processes."""
    error: Exception | None = None
    rows = torch.empty(0, 1 + n_columns, dtype=torch.float64)
    if block is not None:
        try:
            numbers = torch.arange(block.start, block.stop, dtype=torch.float64)
            rows = torch.cat([numbers[:, None], work(block)], dim=1)
        except Exception as caught:
            error, rows = caught, torch.full((1, 1 + n_columns), FAILED, dtype=torch.float64)
    everything = torch.cat(gathered(rows.to(device))).cpu()
    if bool((everything[:, 0] == FAILED).any()):
        _stop(error, device)
    return everything


def _stop(error: Exception | None, device: torch.device) -> None:
    """Raise the error of this process, or an error that names the one of another process; all processes call this.

    Raises:
        FloatingPointError: a number is not finite in one of the processes; the same error in all processes.
        InputError: another process stopped for another reason.
    """
    said = f"{int(isinstance(error, FloatingPointError))}{error}" if error is not None else ""
    texts = [bytes(part.tolist()).decode() for part in gathered(_bytes(said, device))]
    if not_finite := [text[1:] for text in texts if text[:1] == "1"]:
        raise FloatingPointError(not_finite[0]) from error  # the same in all processes, so that only one prints it
    if error is not None:
        raise error
    number, text = next((number, text) for number, text in enumerate(texts) if text)
    raise InputError(f"Process {number} of {len(texts)} stopped: {text[1:]}")


def _bytes(text: str, device: torch.device) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)


def _kept(
    title: str,
    n_rows: int,
    n_columns: int,
    checkpoint: Checkpoint | None,
    device: torch.device,
    progress: Callable[[Tensor], object],
) -> list[Tensor]:
    """Return the numbered rows of the checkpoint, in every process; an empty list if there are none."""
    found = checkpoint.load() if checkpoint is not None and is_first() else None
    rows = torch.empty(0, 1 + n_columns, dtype=torch.float64) if found is None else found[0]["rows"]
    rows = torch.cat(gathered(rows.to(device))).cpu() if checkpoint is not None else rows
    if not len(rows):
        return []
    if is_first():
        print(f"{title}: resumes from a checkpoint with {len(rows)} of {n_rows} images done.", flush=True)
    progress(rows[:, 1:])
    return [rows]
