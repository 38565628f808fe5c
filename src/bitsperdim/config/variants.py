"""Which models are one flow, trained alike, but dequantized in different ways.

Invariant (``tests/report/test_ways.py``): models that are one flow are found
(``test_models_that_are_one_flow_are_compared``).
"""

from __future__ import annotations

from collections.abc import Mapping

from bitsperdim.config.families.base import DequantizedSection, FamilySection


def ways_of_dequantizing(sections: Mapping[str, FamilySection]) -> list[tuple[str, list[str]]]:
    """Find models that are the same flow, trained alike, but dequantized in different ways.

    Args:
        sections: name -> section, of the models that are compared.

    Returns:
        For each such flow the reference, which has fresh uniform noise and one sample where there is such a model and
        is the first else, and all names, in the order of ``sections``. Flows with one way only are left out.
    """
    groups: dict[str, list[str]] = {}
    flows = {name: section for name, section in sections.items() if isinstance(section, DequantizedSection)}
    for name, section in flows.items():
        # the sizes of learned noise matter to nobody who has none
        own = section.model_dump(exclude={"dequantization", "train_samples", "variational", "train"})
        own["train"] = section.train.model_dump(exclude_unset=True)  # a null that is written is a change
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
