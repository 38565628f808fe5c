"""Work on many images, block by block: each block is computed once, by any process, in this run or an earlier one.

Where a block begins is decided by parameters alone, and its random numbers come from a stream of its own, so that its
rows do not depend on who computes it, when, or after what. Hence several processes share the blocks out, an interrupted
run goes on with those that are left, and on CPUs of one kind the rows are the same bits either way: whoever computes a
block, it has the same shapes (with as many threads in each process: they may change how a sum is rounded).

The processes take one block each and then exchange the rows, so that every one knows all rows, and all stop where one
has to. The first alone reads and writes the checkpoint: the others need not see its folder.

Not here: what is computed of a block; a balance of blocks that differ much in cost.

Invariants (``tests/runtime/test_blocks.py``):

1. Each row is there exactly once and in its place, or it is an error
   (``test_rows_that_are_missing_or_there_twice_are_an_error``).
2. One process or several, more of them than blocks too: the same bits; what stops one stops all
   (``test_sharded_is_the_same_bit_for_bit``).
3. Interrupted or not: the same bits, and what was kept is not computed again (``test_what_is_done_is_taken_over``).
4. Killed at any moment, the stages end with the same bytes (``tests/runtime/test_killed.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import gathered, is_first, rank, world_size

KEPT_SHARE = 0.1  # of the checkpoint's interval: work that took longer is kept at its end, should later work stop
FAILED = -1.0  # in place of a row's number


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
        title: of the work, for messages.
        n_rows: of all blocks.
        size: rows of a block; the last may have fewer.
        n_columns: numbers of a row.
        work: computes the rows of a block, (len(block), n_columns) float64; of nothing but the block's numbers.
        device: over which rows are exchanged.
        checkpoint: where finished rows are kept; the caller says when it is no longer needed. None: nowhere.
        progress: called with new rows whenever there are some, those of a checkpoint too.

    Raises:
        FloatingPointError: ``work`` raised it, in any of the processes.
        InputError: another process stopped for another reason.
        RuntimeError: a row is missing or there twice.
    """
    parts = _kept(title, n_rows, n_columns, checkpoint, device, progress)
    done = {int(number) for part in parts for number in part[:, 0]}
    waiting = [block for block in blocks(n_rows, size) if block.start not in done]
    mine = share(waiting)
    n_kept, started = len(parts), time.monotonic()
    saved = started

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
    except BaseException:  # Ctrl-C too: what is done is done
        save()
        raise
    if checkpoint is not None and time.monotonic() - started >= KEPT_SHARE * checkpoint.interval:
        save()
    return in_place(torch.cat([torch.empty(0, 1 + n_columns, dtype=torch.float64), *parts]), n_rows)


def blocks(n_rows: int, size: int) -> list[range]:
    """Return the numbers of the rows of every block."""
    return [range(first, min(first + size, n_rows)) for first in range(0, n_rows, size)]


def share(waiting: list[range]) -> list[range]:
    """Return the blocks that this process computes: all processes together compute each once."""
    return waiting[rank() :: world_size()]


def in_place(rows: Tensor, n_rows: int) -> Tensor:
    """Sort rows by the number that each begins with, and take it off.

    Raises:
        RuntimeError: the numbers are not 0, 1, ..., n_rows - 1, each once.
    """
    rows = rows[rows[:, 0].argsort()]
    if rows[:, 0].tolist() != list(range(n_rows)):
        raise RuntimeError(f"the {len(rows)} rows that were computed are not the {n_rows} that were to be, each once")
    return rows[:, 1:]


def _together(
    block: range | None, n_columns: int, work: Callable[[range], Tensor], device: torch.device
) -> Tensor:  # (n, 1 + n_columns)
    """Compute the rows of this process's block, if it has one; return those of all processes, with their numbers."""
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
    """Raise what stops this process, or say what stopped another one: all of them call it."""
    said = f"{int(isinstance(error, FloatingPointError))}{error}" if error is not None else ""
    texts = [bytes(part.tolist()).decode() for part in gathered(_bytes(said, device))]
    if not_finite := [text[1:] for text in texts if text[:1] == "1"]:
        raise FloatingPointError(not_finite[0]) from error  # the same in all, so that one may speak for all
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
    """Return the rows of the checkpoint, with their numbers, in every process; an empty list where there are none."""
    found = checkpoint.load() if checkpoint is not None and is_first() else None
    rows = torch.empty(0, 1 + n_columns, dtype=torch.float64) if found is None else found[0]["rows"]
    rows = torch.cat(gathered(rows.to(device))).cpu() if checkpoint is not None else rows
    if not len(rows):
        return []
    if is_first():
        print(f"{title}: goes on from a checkpoint, {len(rows)} of {n_rows} images are done.", flush=True)
    progress(rows[:, 1:])
    return [rows]
