"""The house stays as it was built: no room imports from its own floor or a higher one, and docs/architecture.md shows
it.

``python tests/test_architecture.py`` writes the diagram anew.
"""

import re
import sys
from pathlib import Path

from bitsperdim.core import code

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
FLOORS = (
    ("cli", "readme", "studies"),
    ("report", "comparing", "auditing", "init"),
    ("recipes", "evaluation", "training"),
    ("results", "models", "data", "preflight", "runtime"),
    ("likelihoods", "estimators", "sources", "config"),
    ("core",),
)
MAX_LINES = 500
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->"


def room_of(path: Path) -> str:
    """The first folder of a module, or its name where it lies in none."""
    return path.relative_to(code.SOURCE / "bitsperdim").with_suffix("").parts[0]


def modules() -> list[Path]:
    return sorted((code.SOURCE / "bitsperdim").rglob("*.py"))


def imports() -> dict[tuple[str, str], int]:
    """How many modules of one room import from another."""
    found: dict[tuple[str, str], int] = {}
    for path in modules():
        rooms = {room_of(other) for other in code._imported(path)} - {room_of(path), "__init__"}
        for room in rooms:
            found[room_of(path), room] = found.get((room_of(path), room), 0) + 1
    return found


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    base = code.SOURCE / "bitsperdim" / room
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    docstring = re.match(r'r?"""(.*?)(?:\.\s|\.?""")', path.read_text(encoding="utf-8"), re.DOTALL)
    assert docstring, room
    return " ".join(docstring[1].split()).replace("``", "`").replace("|", "\\|")


def diagram() -> str:
    """Every floor from the top, its rooms, and what each is for."""
    lines = []
    for floor in FLOORS:
        lines += ["| room | what is in it | imports from |", "| --- | --- | --- |"]
        for room in floor:
            below = sorted(other for one, other in imports() if one == room)
            order = [each for row in FLOORS for each in row]
            names = ", ".join(sorted(below, key=order.index)) or "nothing"
            lines.append(f"| `{room}` | {purpose(room)} | {names} |")
        lines.append("")
    return "\n".join(lines)


def test_a_room_imports_from_below_alone() -> None:
    height = {room: number for number, floor in enumerate(reversed(FLOORS)) for room in floor}
    assert {room_of(path) for path in modules()} - {"__init__"} == set(height)
    upwards = [pair for pair in imports() if height[pair[1]] >= height[pair[0]]]
    assert upwards == []


def test_no_circle_within_a_room() -> None:
    """Of modules, where a package's own __init__ is a part of each of its modules."""
    waiting = {path: set(code._imported(path)) - {path} for path in modules() if path.name != "__init__.py"}
    waiting = {path: {other for other in others if other in waiting} for path, others in waiting.items()}
    while waiting:
        free = [path for path, others in waiting.items() if not others & set(waiting)]
        assert free, sorted(str(path.relative_to(code.SOURCE)) for path in waiting)
        waiting = {path: others for path, others in waiting.items() if path not in free}


def test_files_are_short_and_few_lie_loose() -> None:
    files = [*modules(), *(ROOT / "tests").rglob("*.py")]
    long = [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    assert long == []
    loose = [path.name for path in (code.SOURCE / "bitsperdim").glob("*.py")]
    assert sorted(loose) == ["__init__.py", "cli.py"]


def test_the_page_shows_the_house() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == diagram()


def test_every_test_that_a_docstring_names_exists() -> None:
    """The invariants of a module name the tests that prove them."""
    tests = list((ROOT / "tests").rglob("*.py"))
    defined = {name for path in tests for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    missing, n_named = [], 0
    for path in modules():
        invariants = path.read_text(encoding="utf-8").split('"""')[1].partition("Invariants")[2]
        files = re.findall(r"``(tests/[\w/]+\.py)``", invariants)
        names = re.findall(r"``(test_[a-z_0-9]+)``", invariants)
        missing += [f"{path.name}: {file}" for file in files if not (ROOT / file).is_file()]
        missing += [f"{path.name}: {name}" for name in names if name not in defined]
        n_named += len(names)
    assert missing == []
    assert n_named > 200


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{diagram()}{END}{rest.split(END)[1]}", encoding="utf-8")
    sys.exit(0)
