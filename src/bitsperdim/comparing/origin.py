"""Recorded origin of a number: the code, the images, the versions and the machine that made it.

``bitsperdim compare`` says in one sentence which of these differ between two results, besides their parameters.

Invariants (``tests/comparing/test_origin.py``): each difference is named, and nothing that is not recorded is called
the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bitsperdim.comparing.cache import md5_of, parse
from bitsperdim.core import made_with

PREPARED = "data/dequantized"


@dataclass(frozen=True)
class Origin:
    """Recorded origin of a number.

    Attributes:
        code: hashes of the code of its training and evaluation, one for each room (subpackage); empty: not known.
        images: hashes of all images, also for training and validation, by the name of the hashed data.
        used: versions and machine of its training and evaluation.
    """

    code: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    used: made_with.MadeWith = field(default_factory=dict)


def read_origin(file: Callable[[str], bytes | None], lock: str, model: str) -> Origin:
    """Return the origin of a model's number from the files of a workspace or a commit.

    Args:
        file: function that returns the content of a file by its path, or None.
        lock: text of ``dvc.lock``; files whose MD5 it does not have are ignored, because they were made later.
        model: name of the model.
    """

    def vouched(path: str) -> object:
        content = file(path) or b""
        if md5_of(lock, path) != hashlib.md5(content, usedforsecurity=False).hexdigest():
            return None
        return parse(content.decode("utf-8", "replace"))

    code: dict[str, str] = {}
    used = {}
    for stage, name in made_with.FILES.items():
        content = vouched(f"data/code/{stage}/{model}.json")
        rooms = content.get("rooms") if isinstance(content, Mapping) else None
        if isinstance(rooms, Mapping):
            code |= {f"{room} of {stage}": str(digest) for room, digest in rooms.items()}
        used[stage] = made_with.read(vouched(f"results/{model}/{name}"))
    is_whole = all(any(name.endswith(f" of {stage}") for name in code) for stage in made_with.FILES)
    prepared = md5_of(lock, PREPARED)
    return Origin(code if is_whole else {}, {PREPARED: prepared} if prepared else {}, used)


def what_differs(a: Origin, b: Origin, *, has_parameters: bool) -> list[str]:
    """Return a sentence about the differences between the origins of two numbers, and about missing records.

    Args:
        a: origin of the first number.
        b: origin of the second number.
        has_parameters: whether parameters differ; these are listed elsewhere.
    """
    found, unknown = [], []
    if a.code and b.code:
        rooms = sorted({name.split(" of ")[0] for name in {*a.code, *b.code} if a.code.get(name) != b.code.get(name)})
        data = [name for name in rooms if Path(name).suffix not in ("", ".py")]  # the user's weights and images
        code = [name for name in rooms if name not in data]
        found += [f"the code in {', '.join(code)}"] if code else []
        found += [f"the content of {', '.join(data)}"] if data else []
    else:
        unknown.append("the code")
    if both := {*a.images} & {*b.images}:
        differ = any(a.images[key] != b.images[key] for key in both)
        found += ["the images for training or validation, or the data stored with them"] if differ else []
    else:
        unknown.append("the images for training and validation")
    found += made_with.differing(a.used, b.used)
    if not all(item.get(stage) for item in (a.used, b.used) for stage in made_with.FILES):
        unknown.append("versions and machine")
    if not found and not has_parameters and not unknown:
        return ["All that is recorded is equal: parameters, code, images, versions and machine."]
    if not found and has_parameters:
        return []
    text = "Besides the parameters, these differ: " if has_parameters else "No parameter differs. These differ: "
    text = text + ", ".join(found) if found else "No parameter differs"
    return [text + (f"; not recorded for both: {', '.join(unknown)}." if unknown else ".")]
