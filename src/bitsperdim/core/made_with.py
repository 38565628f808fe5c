"""The environment in which a number was computed: versions of Python and PyTorch, the processor and the device.

``metrics.json`` depends only on weights, images and parameters, and does not contain these facts. But another processor
or version may round differently, and training amplifies such differences. Therefore training and evaluation each write
the environment into a separate file. Only the report depends on these files, and ``bitsperdim compare`` names the
differences.

Invariants (``tests/core/test_made_with.py``): each difference is named once, with both values.
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
    """Return the keys of :data:`WORDS` from the content of a file or a stage's log, without its other keys.

    If the content is not a mapping, the result is empty.
    """
    return {key: str(content[key]) for key in WORDS if key in content} if isinstance(content, Mapping) else {}


def differing(a: MadeWith, b: MadeWith) -> list[str]:
    """Return the differences between values that are known for both, such as ``PyTorch (2.11.0 and 2.14.1)``."""
    found: dict[str, None] = {}
    for stage in FILES:
        first, second = a.get(stage, {}), b.get(stage, {})
        for key, words in WORDS.items():
            if key in first and key in second and first[key] != second[key]:
                found[f"{words} ({first[key]} and {second[key]})"] = None
    return list(found)
