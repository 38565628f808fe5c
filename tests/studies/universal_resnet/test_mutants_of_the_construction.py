"""The tests of the construction catch one wrong sign, threshold or order at a time."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import test_construction as laws
import test_rounding_of_the_construction as rounding

from bitsperdim.studies.universal_resnet import construction

SOURCE = Path(construction.__file__).read_text(encoding="utf-8")


def centres_are_met(case: str, join: bool = False) -> Callable[[], None]:
    return lambda: laws.test_centres_of_cells_are_met_and_the_outside_is_zero(case, join)


def the_error_holds(case: str, share: float = 1e-3, join: bool = False) -> Callable[[], None]:
    return lambda: laws.test_the_stated_error_holds(case, share, join)


def rounding_is_looked_at(cells: int, error: float) -> Callable[[], None]:
    return lambda: rounding.an_error_that_broke_is_refused(cells, error)


def an_error_holds_or_is_refused(name: str) -> Callable[[], None]:
    return lambda: rounding.test_an_error_holds_or_is_refused(name)


@dataclass(frozen=True)
class WrongText:
    """A text of the module, its replacement, and the test that must fail."""

    old: str
    new: str
    law: Callable[[], None]


MUTANTS = {
    "the threshold lies above the level": WrongText("lowest - 0.5,", "lowest + 0.5,", centres_are_met("line")),
    "levels are moved from the bottom": WrongText(
        "range(n_cells, -1, -1)", "range(n_cells + 1)", centres_are_met("plane")
    ),
    "cells share levels": WrongText("float(cells) ** np.arange(d)", "np.ones(d)", centres_are_met("plane")),
    "the right end is not dropped": WrongText(
        "-(1.0 + (last + drop + 1) / (q * delta))", "-1.0", centres_are_met("line, negative")
    ),
    "the left end is not dropped": WrongText("-((drop + 1) / delta - 1.0)", "0.0", centres_are_met("line, negative")),
    "two coordinates outside are no worse than one": WrongText(
        "cells - 1 + eta) + 2) / weights", "cells - 1 + eta) + 2) / weights / 4", centres_are_met("plane, odd box")
    ),
    "no floor under the outside": WrongText("made.along(0, -1.0, base, 1.0)", "", centres_are_met("plane, odd box")),
    "nothing is clamped from below": WrongText(
        "made.along(0, -1.0, base - 1.0 - room, 1.0)", "", laws.test_the_largest_error_does_not_fall
    ),
    "nothing is clamped from above": WrongText(
        "made.along(0, 1.0, -(base - 1.0), -1.0)", "", laws.test_the_largest_error_does_not_fall
    ),
    "ramps are ten times as wide": WrongText("0.75 * error", "7.5 * error", the_error_holds("plane, disc")),
    "cells are not flat": WrongText(
        "return delta, eta", "return delta, 0.4 / sum(cells**i for i in range(d))", the_error_holds("line", 2e-4)
    ),
    "rounding is not looked at": WrongText(
        "height * side**d <= error:", "height * side**d < math.inf:", rounding_is_looked_at(17, 1e-4)
    ),
    "points that stay on ramps are not counted": WrongText(
        "max(cells * delta, float(away.sum()))", "cells * delta", an_error_holds_or_is_refused("jump")
    ),
    "the wrong side of a face costs nothing": WrongText(
        " + float(jumps @ beyond)", " + 0.0", rounding_is_looked_at(17, 1e-4)
    ),
    "ramps are in the middle of cells": WrongText("face * h - 1.5", "(face - 0.5) * h - 1.5", centres_are_met("line")),
    "joined levels keep their distance": WrongText(
        "made.along(0, 1.0, -(base + top), -1.0)", "", centres_are_met("plane, disc", True)
    ),
    "the read-out forgets its offset": WrongText(
        "v_max - made.gain * (base - 1.0)", "v_max", centres_are_met("line, far from zero")
    ),
    "negative values are cut off": WrongText("min(0.0, float(values.min()))", "0.0", centres_are_met("line, negative")),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    assert SOURCE.count(mutant.old) == 1, "the text to be broken is not there once"
    mutant.law()
    broken = types.ModuleType("broken_construction")
    monkeypatch.setitem(sys.modules, broken.__name__, broken)  # dataclasses look up their module
    exec(compile(SOURCE.replace(mutant.old, mutant.new or "pass"), "broken_construction.py", "exec"), broken.__dict__)
    for tests in (laws, rounding):
        monkeypatch.setattr(tests, "construct", broken.__dict__["construct"])
        monkeypatch.setattr(tests, "plan", broken.__dict__["plan"])
    with pytest.raises((AssertionError, ValueError)):
        mutant.law()
