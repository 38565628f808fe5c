"""Templates: a missing value is an error, and a package that is built has all of them."""

import fnmatch
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from bitsperdim.results.templates import markdown


def test_a_missing_value_is_an_error() -> None:
    values = {"compared": ("a", "b"), "output": "text", "error_alone": 0.5, "error_paired": 0.25}
    assert "± 0.50, which is 2 times as large" in markdown("readme", "compare", **values)
    for name in values:
        with pytest.raises(UndefinedError, match=name):
            markdown("readme", "compare", **{key: value for key, value in values.items() if key != name})


def test_a_built_package_has_every_template(repository: Path) -> None:
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    source = repository / "src"
    found = [path for path in (source / "bitsperdim").rglob("*") if path.suffix in (".css", ".html", ".jinja", ".js")]
    assert {path.suffix for path in found} >= {".html", ".jinja"}
    for path in found:
        patterns = settings["package-data"].get(".".join(path.parent.relative_to(source).parts), [])
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path
