"""A classic mistake, and that the test which must notice it does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import pytest


@dataclass(frozen=True)
class Mutant:
    """One mistake: ``owner.name`` is replaced by ``twin``, and then ``law`` must fail.

    Attributes:
        owner: a class or a module. A function of a module is replaced in every module that has imported it.
        name: name of the attribute.
        twin: what replaces the attribute.
        law: a test of the suite, or one of :mod:`support.laws`, with its arguments.
    """

    owner: Any
    name: str
    twin: Any
    law: Callable[[], None]


HELD: set[Callable[[], None]] = set()
FAILURES = (AssertionError, pytest.fail.Exception)


def importers(owner: Any, name: str) -> list[Any]:
    """Return the owner and, for a function of a module, every module in which the same function has this name."""
    original = getattr(owner, name)
    if not (isinstance(owner, ModuleType) and isinstance(original, FunctionType)):
        return [owner]
    return [owner] + [
        module
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType) and module is not owner and vars(module).get(name) is original
    ]


def must_die(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch, failures: tuple[type[BaseException], ...] = FAILURES
) -> None:
    """Check that the law holds without the mistake, and fails with it in one of these ways.

    Laws are deterministic, so that each process checks only once that a law holds.
    """
    if mutant.law not in HELD:
        mutant.law()
        HELD.add(mutant.law)
    for owner in importers(mutant.owner, mutant.name):
        monkeypatch.setattr(owner, mutant.name, mutant.twin)
    with pytest.raises(failures):
        mutant.law()
