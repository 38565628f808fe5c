"""Checks of the parts of a model."""

from __future__ import annotations

from bitsperdim.auditing.check import Case, Check, not_applicable


def masses_sum_to_one(case: Case) -> Check:
    """To be written."""
    return not_applicable("masses sum to one", "It is not written yet.")


def causality(case: Case) -> Check:
    """To be written."""
    return not_applicable("causality", "It is not written yet.")


def decoder(case: Case) -> Check:
    """To be written."""
    return not_applicable("decoder", "It is not written yet.")


def samples(case: Case) -> Check:
    """To be written."""
    return not_applicable("samples", "It is not written yet.")
