"""Models without a mistake pass the audit. They are those of the study of mistakes, trained on digits.

The tests are seeded. ``benchmarks/audits.py`` counts how often these models fail a check by chance. The mistakes are
made in ``tests/studies/known/test_mistakes.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bitsperdim
from bitsperdim.auditing import audit as auditing
from bitsperdim.auditing.check import Case
from bitsperdim.auditing.report import Audit
from bitsperdim.core.errors import InputError
from bitsperdim.studies.known.mistakes.mistake import Foreign, audited
from bitsperdim.studies.known.mistakes.models import Raster
from bitsperdim.studies.known.mistakes.right import RIGHT, false_alarms
from support.benches import EVERY, digits

UNIT = {"inputs": "unit"}


def audit_of(name: str) -> Audit:
    return audited(digits(), RIGHT[name](digits()))


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_pass(name: str) -> None:
    """No check fails; only two poor models get a warning, which is justified."""
    found = audit_of(name)
    assert found.failed == []
    assert found.passed
    assert {check.name for check in found.warnings} <= {"codes"}
    assert bool(found.warnings) == (name in ("conditionals", "bound"))


def test_a_false_alarm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(case: Case) -> auditing.Check:
        return auditing.failed("always", "Something is wrong.")

    monkeypatch.setattr(auditing, "CHECKS", {"always": always})
    assert false_alarms(digits()) == [f"{name}: always" for name in RIGHT]


def test_a_kind_is_verified_by_its_checks_alone() -> None:
    names = {name: audit_of(name).estimate.verified_by for name in ("logits", "log_weights", "encode", "log_prob")}
    assert names["logits"] == ("masses sum to one", "causality")
    assert names["encode"] == ("masses sum to one", "decoder", "samples")
    assert names["log_weights"] == names["log_prob"] == ("sum over tiny images",)
    for name in ("A mask that leaks", "A bound without chance offered as log P"):
        foreign = EVERY[name].make(digits()).foreign
        assert foreign is not None
        assert "verified:no" in audited(digits(), foreign).estimate.signature


def test_what_a_floor_of_masses_is_worth_is_less_than_the_check_catches() -> None:
    made = EVERY["1e-7 added to masses"].make(digits())
    assert made.foreign is not None
    check = audited(digits(), made.foreign)["masses sum to one"]
    assert check.status == "passed"
    assert check.catches_bpd is not None
    assert check.catches_bpd > float((made.wrong - made.right).mean()) / 64  # type: ignore[union-attr]  # nats


def test_an_untrained_network_is_a_warning() -> None:
    """The number is right, but worse than that of independent sub-pixels, or even of uniform coding."""
    for factor, names in ((1.0, {"codes"}), (30.0, {"range", "codes"})):
        model = digits().untrained(Raster)
        with torch.no_grad():
            model.last.weight.mul_(factor)
        found = audited(digits(), Foreign(model, UNIT))
        assert found.passed
        assert {check.name for check in found.warnings} == names
        assert found.verdict().startswith("No error was found, but look at the warning: ")


def test_the_model_stays_where_it_was() -> None:
    """An audit does not change weights, ``requires_grad`` flags and torch's global generator."""
    model = digits().vae
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    audit_of("encode")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_budget_of_images_makes_the_same_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check reads the machine's clock. With more images, annealing takes more steps."""

    def words(n_asked: int) -> list[str]:
        foreign = RIGHT["log_prob"](digits())
        found = audited(digits(), Foreign(foreign.model, {**foreign.options, "n_asked": n_asked}))
        return [check.words for check in found.checks]

    first = words(512)
    monkeypatch.setattr("bitsperdim.auditing.check.time.perf_counter", lambda: pytest.fail("the clock was read"))
    assert words(512) == first
    assert any("annealing in 16 steps" in sentence for sentence in first)
    assert any("annealing in 64 steps" in sentence for sentence in words(2048))


@pytest.mark.parametrize("n_asked", [0, -1, 2.0, True])
def test_a_budget_that_is_none_is_refused(n_asked: Any) -> None:
    with pytest.raises(InputError, match=r"n_asked = .* is not allowed; it must be a positive integer"):
        bitsperdim.audit(digits().raster, digits().test.numpy(), n_levels=17, n_asked=n_asked)
