"""Search for models that are the same flow with the same training, but with different dequantization noise.

Invariant (``tests/report/test_ways.py``): models that are the same flow are found
(``test_models_that_are_one_flow_are_compared``).
"""

from __future__ import annotations

from collections.abc import Mapping

from bitsperdim.config.families.base import DequantizedSection, FamilySection


def ways_of_dequantizing(sections: Mapping[str, FamilySection]) -> list[tuple[str, list[str]]]:
    """Find models that are the same flow with the same training, but with different dequantization noise.

    Args:
        sections: name -> section of the compared models.

    Returns:
        For each such flow, its reference model and the names of all its models, in the order of ``sections``. The
        reference is the model with fresh uniform noise and one sample, or the first model if there is no such model.
        Flows with only one kind of noise are left out.
    """
    groups: dict[str, list[str]] = {}
    flows = {name: section for name, section in sections.items() if isinstance(section, DequantizedSection)}
    for name, section in flows.items():
        # the sizes of learned noise have no effect on models without learned noise
        own = section.model_dump(exclude={"dequantization", "train_samples", "variational", "train"})
        own["train"] = section.train.model_dump(exclude_unset=True)  # a null that is written counts as a change
        groups.setdefault(repr(own), []).append(name)
    found = []
    for names in groups.values():
        if len({(flows[name].dequantization, flows[name].n_train_samples) for name in names}) > 1:
            plain = [name for name in names if is_plain(sections[name])]
            found.append(((plain or names)[0], names))
    return found


def is_plain(section: FamilySection) -> bool:
    """Return whether a flow is trained on fresh uniform noise, one sample at a time."""
    return (
        isinstance(section, DequantizedSection) and section.dequantization == "uniform" and section.train_samples == 1
    )
