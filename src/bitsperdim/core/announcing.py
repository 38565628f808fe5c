"""Say what a costly part of the work will take, once its first share has been timed.

A progress bar is drawn on a terminal alone; what is said here is one line that a log has as well. Times are told and
never used: no result depends on them.

Invariants (``tests/core/test_announcing.py``): a long part is announced once, with the setting that shortens it
(``test_a_long_part_is_announced_once``); a short one is not (``test_a_short_part_is_not_announced``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from bitsperdim.core.stopping import is_first_of_all

Item = TypeVar("Item")

TIMED = 5.0  # seconds of the first share, at least
LONG = 30.0  # seconds that are worth a line


class Announcement:
    """Counts the steps of a part of the work.

    Args:
        part: what it is, and of what.
        n_steps: of all of it.
        advice: which setting shortens it.
        clock: seconds.
    """

    def __init__(self, part: str, n_steps: int, advice: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self.part, self.n_steps, self.advice, self.clock = part, n_steps, advice, clock
        self.n_done, self.started, self.is_over = 0, clock(), not is_first_of_all()

    def step(self, n_steps: int = 1) -> None:
        """Count steps that are done."""
        self.n_done += n_steps
        seconds = self.clock() - self.started
        if self.is_over or seconds < TIMED or self.n_done >= self.n_steps:
            return
        self.is_over = True
        whole = seconds * self.n_steps / self.n_done
        if whole >= LONG:  # above a progress bar, where there is one
            tqdm.write(f"{self.part}: about {duration(whole)} in all; {self.advice}.", file=sys.stdout)
            sys.stdout.flush()


def announced(
    items: Iterable[Item], part: str, n_steps: int, advice: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Pass on the items of a loop, each of which is a step; the arguments are those of :class:`Announcement`."""
    announcement = Announcement(part, n_steps, advice, clock)
    for item in items:
        yield item
        announcement.step()


def duration(seconds: float) -> str:
    """Return a time that is only about right: ``40 s``, ``3 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
