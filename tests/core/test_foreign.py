"""The user's own files: the files that they import, the names that they define, and their hashes."""

from pathlib import Path

import pytest

from bitsperdim.core import foreign
from bitsperdim.core.errors import InputError

FILE = """
import math, helper
from package.inner import thing
def late():
    import later
"""


def test_what_is_imported_is_found(tmp_path: Path) -> None:
    """Direct imports, indirect ones, imports in a function, and whole packages are found, but no unused file."""
    for name, text in {
        "model.py": FILE,
        "helper.py": "from deeper import x\nimport model\n",
        "deeper.py": "not Python",
        "later.py": "",
        "package/__init__.py": "",
        "package/inner.py": "import used_inside",
        "used_inside.py": "",
        "other.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = {path.relative_to(tmp_path).as_posix() for path in foreign.code_beside(tmp_path / "model.py")}
    assert found == {
        "model.py",
        "helper.py",
        "deeper.py",
        "later.py",
        "used_inside.py",
        "package/__init__.py",
        "package/inner.py",
    }
    assert foreign.code_beside(tmp_path / "no.py") == []


def test_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("import a.b, c as d\nif d:\n    class E:\n        f = 1\ndef g(): h = 1\ni, j = 1, 2\n")
    assert foreign.names_in(path) == {"a", "d", "E", "g", "i", "j"}
    path.write_text("from a import *\n")
    assert foreign.names_in(path) is None
    for text in (b"def f(:\n", b"x = '\x00'", b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(InputError, match="is not valid Python"):
            foreign.names_in(path)


def test_files_that_arguments_name_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "external").mkdir()
    for name in ("model.py", "w.pt", "x.pt"):
        (tmp_path / "external" / name).write_text(name)
    arguments = {"a": "external/w.pt", "b": [{"c": "external/no.pt", "d": "external/model.py"}], "e": 1}
    assert set(foreign.needed_by("external/model.py", arguments)) == {"external/model.py", "external/w.pt"}


def test_a_file_that_only_the_workspace_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("BITSPERDIM_REPOSITORY", raising=False)
    with pytest.raises(InputError, match=r"mine\.file = 'external/m\.py' is not a file; paths are relative to"):
        foreign.refuse_missing("mine.file", "external/m.py")
    (tmp_path / "external").mkdir()
    (tmp_path / "external" / "m.py").write_text("")
    with pytest.raises(InputError, match=r"in this copy of the repository, .* type `git add external/m\.py`"):
        foreign.refuse_missing("mine.file", "external/m.py")
