"""Orderly stops by signals, and the choice of the process that prints an error.

SIGINT (Ctrl-C) and SIGTERM end a stage in an orderly way. They raise :class:`Interrupted` at once; where work must be
saved first, they only set a flag, and the work stops when it is saved (:func:`deferred`). A second signal always raises
at once. A signal that was ignored when the process started stays ignored.

If several processes fail with the same message, only the first process of each machine prints it. Another process
prints its error only if it is different (:func:`speaks`, :mod:`bitsperdim.runtime.distributed`).

This module does not need torch. Invariants (``tests/core/test_stopping.py``): the former handlers are restored
(``test_handlers_are_put_back``); the first signal is deferred and the second raises at once
(``test_a_second_signal_does_not_wait``).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HAS_SOMETHING_TO_SAY = threading.Event()


class Interrupted(KeyboardInterrupt):
    """Raised when SIGINT or SIGTERM asks the process to stop.

    Attributes:
        number: signal number; the process exits with status 128 + number.
    """

    def __init__(self, number: int, sentence: str = "interrupted") -> None:
        """Store the signal number and the message."""
        super().__init__(sentence)
        self.number = number


@dataclass
class Request:
    """Records whether a signal has asked the process to stop.

    Attributes:
        number: signal number; 0 if there was no signal yet.
    """

    number: int = 0


@contextmanager
def raised() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise :class:`Interrupted` in the block."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(number)

    with _handled_by(stop):
        yield


@contextmanager
def deferred() -> Iterator[Request]:
    """Record the first SIGINT or SIGTERM, so that the work can stop where it can be resumed; a second one raises."""
    request = Request()

    def note(number: int, _: object) -> None:
        if request.number:
            raise Interrupted(number)
        request.number = number

    with _handled_by(note):
        yield request


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # other threads must not set signal handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, old in before.items():
        if old not in (None, signal.SIG_IGN):
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            if old is not None:
                signal.signal(number, old)


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return _said_by_torchrun("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return the number of processes of this stage on this machine."""
    return _said_by_torchrun("LOCAL_WORLD_SIZE", 1)


def is_first_of_all() -> bool:
    """Return whether this process is the first one on all machines together."""
    return _said_by_torchrun("RANK", 0) == 0


def _said_by_torchrun(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable, otherwise)) if "TORCHELASTIC_RUN_ID" in os.environ else otherwise


def speaks() -> bool:
    """Return whether this process prints its error."""
    return local_rank() == 0 or _HAS_SOMETHING_TO_SAY.is_set()


def must_speak() -> None:
    """Make this process print its error, because the first process of this machine does not print the same one."""
    _HAS_SOMETHING_TO_SAY.set()
