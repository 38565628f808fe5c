"""The code that a stage needs is the code that Python really imports, and its hash ignores comments and docstrings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitsperdim.config.families import FAMILIES, code_of
from bitsperdim.core import code

STAGES = ("download", "dequantize", "train", "evaluate", "project_delay", "universal_resnet", "report")
LOADED = """
import json, runpy, sys
sys.argv = ["stage"]
try:
    runpy.run_path(sys.argv_path, run_name="__main__")
except SystemExit:
    pass
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.startswith("bitsperdim")]))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_what_python_imports(stage: str, repository: Path) -> None:
    """All modules that the script has loaded when it prints its usage are found, and no family of models is."""
    script = repository / "stages" / f"{stage}.py"
    done = subprocess.run(
        [sys.executable, "-c", LOADED.replace("sys.argv_path", repr(str(script)))],
        env={**os.environ, "PYTHONPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {Path(file) for file in json.loads(done.stdout.splitlines()[-1]) if file}
    needed = set(code.needed(script))
    assert loaded <= needed
    assert not needed & {code_of(family)[1] for family in FAMILIES}
    assert len(needed - loaded) <= 12, needed - loaded  # modules that functions import when they are called


def test_a_family_adds_its_own_code(repository: Path) -> None:
    script = repository / "stages" / "train.py"
    common = set(code.needed(script))
    of_vae, of_flow = (set(code.needed(script, *code_of(family))) - common for family in ("vae", "flow"))
    assert {path.name for path in of_vae} == {"vae.py"}
    assert len(of_vae) == 2
    assert {path.name for path in of_flow} == {"flow.py", "normalizing_flow.py", "masked.py"}
    digests = {family: code.digest(code.needed(script, *code_of(family))) for family in FAMILIES}
    assert len(set(digests.values())) == len(FAMILIES)


SOURCE = '''"""A module."""

import math  # for pi


class A:
    """A class.

    With two lines.
    """

    def area(self, r: float) -> float:
        """Return an area."""
        text = "# no comment"  # a comment
        return math.pi * r**2 + len(text)
'''


def test_what_changes_a_hash(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "module.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        return "\n".join(code.what_it_does(path.read_text(encoding="utf-8")))

    same = [
        SOURCE.replace("# for pi", "# for e"),
        SOURCE.replace("  # for pi", ""),
        SOURCE.replace("With two lines", "With, two lines"),
        SOURCE.replace("    With two lines.\n", "    With.\n    Three lines.\n"),
        SOURCE.replace("Return an area.", "Return the area."),
        SOURCE.replace("\n\n\n", "\n\n"),
        SOURCE.replace('"""A module."""\n', ""),
    ]
    other = [
        SOURCE.replace("r**2", "r**3"),
        SOURCE.replace("# no comment", "# a comment"),  # inside a string
        SOURCE.replace("import math", "import cmath as math"),
        SOURCE.replace("        return", "    return"),
    ]
    assert {digest(text) for text in same} == {digest(SOURCE)}
    assert len({digest(text) for text in [SOURCE, *other]}) == len(other) + 1


def test_types_alone_are_no_need(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bitsperdim.core import git\n"
    path.write_text(text, encoding="utf-8")
    assert code.needed(path) == [path]
    path = tmp_path / "other.py"
    path.write_text(f"{text}else:\n    from bitsperdim.core import units\n", encoding="utf-8")
    assert {found.name for found in code.needed(path)} == {"other.py", "__init__.py", "units.py"}


def test_rooms_are_told_apart(repository: Path) -> None:
    files = code.needed(repository / "stages" / "project_delay.py")
    rooms = code.digests_by_room(files)
    assert set(rooms) == {
        "bitsperdim/__init__.py",
        "config",
        "core",
        "estimators",
        "runtime",
        "stages/project_delay.py",
        "studies",
    }
    assert rooms == code.digests_by_room(files)
    fewer = code.digests_by_room([path for path in files if path.name != "chain.py"])
    assert {room for room in rooms if rooms[room] != fewer[room]} == {"studies"}


def test_a_link_to_the_package_changes_nothing(repository: Path, tmp_path: Path) -> None:
    """A home folder may be a symbolic link; the hashes use the resolved paths."""
    (tmp_path / "link").symlink_to(repository / "src")
    script = (
        "from bitsperdim.config.families import code_of\n"
        "from bitsperdim.core.code import digest, needed\n"
        "print(digest(needed(*code_of('vae'))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for source in (repository / "src", tmp_path / "link")
    }
    assert len(found) == 1
