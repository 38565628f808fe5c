"""How a process is asked to stop, and how one of several stops without speaking over the others.

SIGINT (Ctrl-C) and SIGTERM end a stage in an orderly way: they raise :class:`Interrupted` at once, or, where work is
about to be saved, wait until it is (:func:`deferred`). A second signal does not wait. A signal that was ignored when
the process started stays ignored.

What goes wrong often goes wrong in every process alike: only the first of a machine says so, unless another has
something else to say (:func:`speaks`, :mod:`bitsperdim.runtime.distributed`).

Nothing here needs torch. Invariants (``tests/core/test_stopping.py``): handlers are put back as they were
(``test_handlers_are_put_back``); the first signal waits and the second does not
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
    """A signal asked for the end.

    Attributes:
        number: of the signal; the exit status is 128 more.
    """

    def __init__(self, number: int, sentence: str = "interrupted") -> None:
        """Take the signal and what there is to say."""
        super().__init__(sentence)
        self.number = number


@dataclass
class Request:
    """A wish to stop.

    Attributes:
        number: of the signal; 0 where there was none yet.
    """

    number: int = 0


@contextmanager
def raised() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise Interrupted."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(number)

    with _handled_by(stop):
        yield


@contextmanager
def deferred() -> Iterator[Request]:
    """Let the first SIGINT or SIGTERM be noted, for the work to stop where it can go on later, and a second raise."""
    request = Request()

    def note(number: int, _: object) -> None:
        if request.number:
            raise Interrupted(number)
        request.number = number

    with _handled_by(note):
        yield request


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
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
    """Return how many processes of this stage there are on this machine."""
    return _said_by_torchrun("LOCAL_WORLD_SIZE", 1)


def is_first_of_all() -> bool:
    """Return whether this process is the first one of all machines."""
    return _said_by_torchrun("RANK", 0) == 0


def _said_by_torchrun(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable, otherwise)) if "TORCHELASTIC_RUN_ID" in os.environ else otherwise


def speaks() -> bool:
    """Return whether an error of this process is to be told."""
    return local_rank() == 0 or _HAS_SOMETHING_TO_SAY.is_set()


def must_speak() -> None:
    """Let an error of this process be told, since the first of this machine does not tell it."""
    _HAS_SOMETHING_TO_SAY.set()
