"""Checks of total mass: the probabilities of all images together are one, or at least not more."""

from __future__ import annotations

from bitsperdim.auditing.check import Case, Check, not_applicable


def sum_over_tiny_images(case: Case) -> Check:
    """Add up the probabilities of all images of a model that is small enough."""
    return not_applicable("sum over tiny images", "It is not written yet.")


def sampler(case: Case) -> Check:
    """Ask whether the model draws images as often as it says."""
    return not_applicable("sampler", "It is not written yet.")


def annealed_mass(case: Case) -> Check:
    """Estimate the total mass without bias, by annealing from a distribution that is known."""
    return not_applicable("annealed mass", "It is not written yet.")


def known_truth(case: Case) -> Check:
    """Ask whether the model beats the truth by more than chance allows."""
    return not_applicable("known truth", "It is not written yet.")


def slice_of_images(case: Case) -> Check:
    """Add up the probabilities of images that differ in one sub-pixel."""
    return not_applicable("slice", "It is not written yet.")
