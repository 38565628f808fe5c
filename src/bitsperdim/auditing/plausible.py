"""Checks that need no model but its numbers."""

from __future__ import annotations

from bitsperdim.auditing.check import Case, Check, not_applicable


def possible_range(case: Case) -> Check:
    """To be written."""
    return not_applicable("range", "It is not written yet.")


def against_codes(case: Case) -> Check:
    """To be written."""
    return not_applicable("codes", "It is not written yet.")


def inputs(case: Case) -> Check:
    """To be written."""
    return not_applicable("inputs", "It is not written yet.")


def copies(case: Case) -> Check:
    """To be written."""
    return not_applicable("copies", "It is not written yet.")
