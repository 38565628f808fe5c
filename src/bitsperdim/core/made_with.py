"""What a number was made with: versions of Python and PyTorch, the processor and the device, beside ``metrics.json``.

A number is a function of weights, images and parameters, and its file says nothing else. But another processor or
version rounds otherwise, and a training amplifies that: so training and evaluation each write a file of their own, on
which only the report depends, and ``bitsperdim compare`` names what differs.

Invariants (``tests/core/test_made_with.py``): each thing that differs is named once, with both values.
"""

from __future__ import annotations

from collections.abc import Mapping

FILES = {"train": "trained_with.json", "evaluate": "evaluated_with.json"}  # in results/<model>, by stage
WORDS = {
    "python": "Python",
    "torch": "PyTorch",
    "processor": "processor",
    "instructions": "instruction set",
    "device": "device",
    "n_processes": "processes",
    "precision": "precision of the networks",
}
MadeWith = Mapping[str, Mapping[str, str]]  # stage -> key of WORDS -> value


def read(content: object) -> dict[str, str]:
    """Return what a file, or the log of a stage, says of these things; of other keys, and of no mapping, nothing."""
    return {key: str(content[key]) for key in WORDS if key in content} if isinstance(content, Mapping) else {}


def differing(a: MadeWith, b: MadeWith) -> list[str]:
    """Return what differs and is known of both, a few words each: ``PyTorch (2.11.0 and 2.14.1)``."""
    found: dict[str, None] = {}
    for stage in FILES:
        first, second = a.get(stage, {}), b.get(stage, {})
        for key, words in WORDS.items():
            if key in first and key in second and first[key] != second[key]:
                found[f"{words} ({first[key]} and {second[key]})"] = None
    return list(found)
