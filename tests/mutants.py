"""A classic mistake, and that the law which must notice it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Mutant:
    """One mistake: ``owner.name`` becomes ``twin``, and ``law`` must fail."""

    owner: Any
    name: str
    twin: Any
    law: Callable[[], None]


HELD: set[Callable[[], None]] = set()
FAILURES = (AssertionError, pytest.fail.Exception)


def must_die(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch, failures: tuple[type[BaseException], ...] = FAILURES
) -> None:
    """The law holds before the mistake is made, and fails after, in one of these ways.

    Laws are without chance: that one holds is seen once in each process.
    """
    if mutant.law not in HELD:
        mutant.law()
        HELD.add(mutant.law)
    monkeypatch.setattr(mutant.owner, mutant.name, mutant.twin)
    with pytest.raises(failures):
        mutant.law()
