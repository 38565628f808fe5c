"""Announce how long a costly part of the work will take, after timing its first steps.

A progress bar appears only on a terminal. The announcement is one line that appears in a log as well. Times are only
printed: no result depends on them.

Invariants (``tests/core/test_announcing.py``): a long part is announced once, with the setting that shortens it
(``test_a_long_part_is_announced_once``); a short part is not announced (``test_a_short_part_is_not_announced``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from bitsperdim.core.stopping import is_first_of_all

Item = TypeVar("Item")

TIMED = 5.0  # seconds: the estimate is made from at least this much work
LONG = 30.0  # seconds: shorter parts are not announced


class Announcement:
    """Counts the steps of a part of the work and prints its expected duration once, if it is long.

    Args:
        part: name of the part, for the message.
        n_steps: number of steps of the whole part.
        advice: the setting that shortens the part, as a clause of the message.
        clock: function that returns the time in seconds.
    """

    def __init__(self, part: str, n_steps: int, advice: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self.part, self.n_steps, self.advice, self.clock = part, n_steps, advice, clock
        self.n_done = 0
        self.started = clock()
        self.is_over = not is_first_of_all()

    def step(self, n_steps: int = 1) -> None:
        """Count finished steps, and print the announcement when it is due."""
        self.n_done += n_steps
        seconds = self.clock() - self.started
        if self.is_over or seconds < TIMED or self.n_done >= self.n_steps:
            return
        self.is_over = True
        whole = seconds * self.n_steps / self.n_done
        if whole >= LONG:  # tqdm.write prints above a progress bar
            tqdm.write(f"{self.part}: about {duration(whole)} in all; {self.advice}.", file=sys.stdout)
            sys.stdout.flush()


def announced(
    items: Iterable[Item], part: str, n_steps: int, advice: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Yield the items of a loop and count each as one step; :class:`Announcement` explains the other arguments."""
    announcement = Announcement(part, n_steps, advice, clock)
    for item in items:
        yield item
        announcement.step()


def duration(seconds: float) -> str:
    """Return a duration, rounded, with a suitable unit: ``40 s``, ``3 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
