"""Jinja templates beside the code of a room: pages of the report in HTML, and generated sections in Markdown.

A template holds the sentences and the layout of tables. The code passes it values, and its filters are the functions of
:mod:`bitsperdim.results.formatting`.

Invariants (``tests/report/test_text_templates.py``): a value that a template uses but does not get is an error, never
an empty text (``test_a_missing_value_is_an_error``); a package that is built has all templates
(``test_a_built_package_has_every_template``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bitsperdim.results import formatting

FILTERS: dict[str, Callable[..., Any]] = {
    "count": formatting.count,
    "data_uri": formatting.data_uri,
    "error_alone": formatting.error_alone,
    "four_digits": formatting.four_digits,
    "machine": formatting.machine,
    "markdown": formatting.markdown,
    "plain": formatting.plain,
    "two_digits": formatting.two_digits,
    "with_error": formatting.with_error,
}


def environment(room: str, *, autoescape: bool) -> Environment:
    """Return an environment that finds the templates in a folder of this package.

    Args:
        room: name of the folder.
        autoescape: whether values are escaped, as they must be in HTML.
    """
    found = Environment(
        loader=PackageLoader("bitsperdim", room),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(FILTERS)
    return found


def markdown(room: str, section: str, **values: object) -> str:
    """Return a section in Markdown: the template ``<section>.md.jinja`` of a room, with these values."""
    return environment(room, autoescape=False).get_template(f"{section}.md.jinja").render(values)
