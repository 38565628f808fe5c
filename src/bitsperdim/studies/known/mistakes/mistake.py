"""A single mistake: how it is made, the error that it causes, and the check that catches it.

The checks get no hint: a model with a mistake is passed to the audit like any other model, and the messages of the
checks are recorded unchanged. If no check finds the mistake, the row says so.

Invariants (``tests/studies/known/test_mistakes.py``): if a check is removed, its mistakes become "not caught"
(``test_without_its_check_a_mistake_is_not_caught``); every law that is named is an existing test
(``test_every_law_is_a_test``).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from bitsperdim.auditing.audit import audit
from bitsperdim.core.errors import InputError
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.estimators.paired import paired_difference
from bitsperdim.studies.known.mistakes.bench import Bench

if TYPE_CHECKING:
    from bitsperdim.auditing.report import Audit

Way = Literal["audit", "refusal", "comparison", "law", "open"]
Outcome = Literal["caught", "not caught", "open", "does not apply"]


class DoesNotApplyError(Exception):
    """Raised if the mistake cannot be made on these images; the message says why."""


@dataclass(frozen=True)
class Foreign:
    """A model with a mistake, in the form in which a user would pass it to the audit.

    Attributes:
        model: model of any kind that the audit accepts.
        options: options of the audit; ``images`` replaces the test images.
    """

    model: Any
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """The result of making a mistake.

    Attributes:
        wrong: log P of each image with the mistake, (N,) nats, or the number in bits/dim.
        right: the same quantity without the mistake.
        foreign: the model with the mistake.
        provoke: function that does what the package should refuse.
    """

    wrong: Tensor | float
    right: Tensor | float
    foreign: Foreign | None = None
    provoke: Callable[[], object] | None = None


@dataclass(frozen=True)
class Mistake:
    """The definition of a mistake.

    Attributes:
        name: name of a few words.
        done: description of the mistake, one sentence.
        make: function that makes the mistake.
        way: how it should be caught: by the ``audit``, by a ``refusal`` of the input, by the refused ``comparison`` of
            two numbers, by a ``law`` (a test which ensures that the code of this package cannot make the mistake), or
            not at all: ``open``.
        checks: checks of the audit; at least one of them has to find the mistake.
        law: test that guards this package, ``file::name`` below ``tests/``; any mistake can have one.
        source: published case in which this was done, or asked about; empty: no published case was found.
    """

    name: str
    done: str
    make: Callable[[Bench], Made]
    way: Way
    checks: tuple[str, ...] = ()
    law: str = ""
    source: str = ""


@dataclass(frozen=True)
class Caught:
    """The outcome for a mistake.

    Attributes:
        outcome: ``caught``; ``not caught`` if a check should have found it; ``open``; or ``does not apply``.
        by: the checks that found the mistake, or the law.
        words: message of the first check or of the refusal, or the reason why the mistake does not apply.
    """

    outcome: Outcome
    by: tuple[str, ...] = ()
    words: str = ""


def audited(bench: Bench, foreign: Foreign, seed: int = 0) -> Audit:
    """Audit a model on the test images, with a budget that does not depend on the machine."""
    section = bench.section
    options = {"n_samples": section.n_samples, "n_asked": section.n_asked, "seed": seed, **foreign.options}
    images = options.pop("images", bench.test)
    with contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # seeds the draws of a model in training mode
        return audit(foreign.model, images.numpy(), n_levels=bench.n_levels, **options)


def caught(mistake: Mistake, made: Made, bench: Bench) -> Caught:
    """Return the outcome for a mistake: the checks that catch it, if any."""
    if mistake.way == "law":
        return Caught("caught", (mistake.law,))
    by: tuple[str, ...] = ()
    words = ""
    if made.foreign is not None:
        try:
            found = audited(bench, made.foreign)
        except InputError as error:
            return Caught("caught", ("refused",), str(error))
        checks = [check for check in (*found.failed, *found.warnings) if check.name in mistake.checks]
        by = tuple(check.name for check in checks)
        words = checks[0].words if checks else ""
    if made.provoke is not None:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                made.provoke()
        except (InputError, ValueError) as error:
            by, words = (*by, "refused"), f"{str(error)[:1].upper()}{str(error)[1:]}"
    if by:
        return Caught("caught", by, words)
    return Caught("open" if mistake.way == "open" else "not caught")


def row_of(mistake: Mistake, group: str, bench: Bench) -> dict[str, Any]:
    """Make a mistake and return its row, with numbers in bits/dim and empty cells for unknown values."""
    row: dict[str, Any] = {
        "group": group,
        "name": mistake.name,
        "done": mistake.done,
        "source": mistake.source,
        "way": mistake.way,
        "law": mistake.law,
    }
    with torch.no_grad():
        try:
            made = mistake.make(bench)
        except DoesNotApplyError as error:
            empty = dict.fromkeys(("wrong_bpd", "right_bpd", "off_bpd", "off_bpd_standard_error", "by"), "")
            return row | empty | {"outcome": "does not apply", "words": str(error)}
        found = caught(mistake, made, bench)
    wrong, right = (number_of(value, bench) for value in (made.wrong, made.right))
    standard_error: float | str = ""
    if isinstance(made.wrong, Tensor) and isinstance(made.right, Tensor) and made.wrong.shape == made.right.shape:
        pair = paired_difference(made.wrong.double().numpy(), made.right.double().numpy())
        standard_error = nats_to_bits_per_dim(pair.standard_error, bench.shape)
    return row | {
        "wrong_bpd": wrong,
        "right_bpd": right,
        "off_bpd": wrong - right,
        "off_bpd_standard_error": standard_error if standard_error != math.inf else "",
        "outcome": found.outcome,
        "by": "; ".join(found.by),
        "words": found.words,
    }


def number_of(value: Tensor | float, bench: Bench) -> float:
    """Return the number in bits/dim."""
    return float(bits_per_dim(float(value.double().mean()), bench.shape)) if isinstance(value, Tensor) else value
