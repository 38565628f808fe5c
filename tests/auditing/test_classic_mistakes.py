"""Classic mistakes, made in models of somebody else, are found by a check that is not told of them; right models pass.

Seeded; ``benchmarks/audits.py`` counts how often right models fail a check by chance.
"""

from typing import Any

import pytest
import torch
from classic import MISTAKES, N_IMAGES, OPEN, RIGHT, UNIT, Audited, Raster, digits

import bitsperdim
from bitsperdim.auditing.report import Audit


def audited(case: Audited, **more: Any) -> Audit:
    options = {"n_samples": 64, "seconds": 0.5, **case.options, **more}
    if "train" in options:  # of arrays alone
        return bitsperdim.audit(case.model, digits().images, n_levels=17, subset=N_IMAGES, **options)
    return bitsperdim.audit(case.model, digits(), subset=N_IMAGES, **options)


def failed(found: Audit) -> set[str]:
    return {check.name for check in found.failed}


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_pass(name: str) -> None:
    """But for a warning of one that is as poor as it looks."""
    case = RIGHT[name]()
    found = audited(case)
    assert failed(found) == set()
    assert found.passed
    assert {check.name for check in found.warnings} == set(case.caught_by)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_classic_mistake_is_found(name: str) -> None:
    case = MISTAKES[name]()
    found = audited(case)
    assert (failed(found) | {check.name for check in found.warnings}) & set(case.caught_by), found.summary()
    assert not found.passed or name == "levels instead of 0 to 1"
    assert found.verdict().startswith("No error was found, but look at" if found.passed else "(!) Not to be believed")


@pytest.mark.parametrize("name", OPEN)
def test_what_is_open_stays_declared_or_small(name: str) -> None:
    """The page of your own model says that no check finds these."""
    case = OPEN[name]()
    found = audited(case)
    assert failed(found) == set()
    assert {check.name for check in found.warnings} == set(case.caught_by)
    assert found["masses sum to one"].catches_bpd or not found.estimate.is_verified


def test_an_untrained_network_is_a_warning() -> None:
    """Its number is right, and worse than that of independent sub-pixels, or even of uniform coding."""
    for seed, names in ((3, ["codes"]), (6, ["range", "codes"])):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found = audited(Audited(Raster().eval(), UNIT))
        assert found.passed
        assert {check.name for check in found.warnings} == set(names)
        assert found.verdict().startswith("No error was found, but look at the warning: ")


def test_a_kind_is_verified_by_its_checks_alone() -> None:
    names = {name: audited(RIGHT[name]()).estimate.verified_by for name in ("logits", "log_weights", "VAE")}
    assert names["logits"] == ("masses sum to one", "causality")
    assert names["VAE"] == ("masses sum to one", "decoder", "samples")
    assert names["log_weights"] == ()
    looks_ahead = audited(MISTAKES["a mask that sees its own pixel"]()).estimate
    assert "verified:no" in looks_ahead.signature


def test_the_model_stays_where_it_was() -> None:
    """Weights, gradients' switches and torch's global generator are as before an audit."""
    model = RIGHT["VAE"]().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    audited(RIGHT["VAE"]())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in model.parameters())
