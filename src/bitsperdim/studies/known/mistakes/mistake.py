"""One way to be wrong: how it is made, by how much the number is off, and what catches it.

Nothing here is told to a check: a mistake in a model goes to the audit as any model does, and what a check says is
written down as it is. Where nothing is found, the row says so.

Invariants (``tests/studies/known/test_mistakes.py``): a check that is taken away makes its mistakes "not caught"
(``test_without_its_check_a_mistake_is_not_caught``); every law that is named is a test that there is
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
    """The mistake cannot be made on these images; the message says why."""


@dataclass(frozen=True)
class Foreign:
    """A model with a mistake in it, as somebody else would give it to the audit.

    Attributes:
        model: of any sort.
        options: of the audit; ``images`` in place of the test images.
    """

    model: Any
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A mistake that was made.

    Attributes:
        wrong: log P of each image as the mistake has it, (N,) nats, or the number itself in bits/dim.
        right: likewise, without the mistake.
        foreign: the model with the mistake.
        provoke: does what has to be refused.
    """

    wrong: Tensor | float
    right: Tensor | float
    foreign: Foreign | None = None
    provoke: Callable[[], object] | None = None


@dataclass(frozen=True)
class Mistake:
    """A way to be wrong.

    Attributes:
        name: a few words.
        done: what is done, a sentence.
        make: makes it.
        way: what is expected to catch it: the ``audit``, a ``refusal`` of what is given, the refused ``comparison`` of
            two numbers, a ``law`` (a test of this package, whose code cannot make it), or nothing: ``open``.
        checks: of the audit, of which one has to find it.
        law: the test that guards this package, ``file::name`` below ``tests/``; of a mistake of any sort.
        source: where it was read that this was done, or asked; empty: no published case was read.
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
    """What became of it.

    Attributes:
        outcome: ``caught``, ``not caught`` where something was expected to, ``open``, ``does not apply``.
        by: the checks that found it, or the law.
        words: of the first check, or of the refusal; why it does not apply.
    """

    outcome: Outcome
    by: tuple[str, ...] = ()
    words: str = ""


def audited(bench: Bench, foreign: Foreign, seed: int = 0) -> Audit:
    """Audit a model on the test images, by a budget that no machine changes."""
    section = bench.section
    options = {"n_samples": section.n_samples, "n_asked": section.n_asked, "seed": seed, **foreign.options}
    images = options.pop("images", bench.test)
    with contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # what a model in training mode draws
        return audit(foreign.model, images.numpy(), n_levels=bench.n_levels, **options)


def caught(mistake: Mistake, made: Made, bench: Bench) -> Caught:
    """Return what catches a mistake, if anything does."""
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
        by, words = tuple(check.name for check in checks), checks[0].words if checks else ""
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
    """Make a mistake and return its row: numbers in bits/dim, and empty cells for what is not known."""
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
    """Return bits/dim."""
    return float(bits_per_dim(float(value.double().mean()), bench.shape)) if isinstance(value, Tensor) else value
