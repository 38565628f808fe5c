"""A fixture that draws charts only once if they are the same in several reports of the tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitsperdim.report import content, density_and_mass, known, project_delay, universal_resnet
from support.results import ROOT

DRAWN: dict[tuple[str, bytes], Any] = {}
OF_STUDIES = {
    known: ("all_charts",),
    density_and_mass: ("all_charts",),
    project_delay: ("all_charts",),
    universal_resnet: ("all_charts", "predicate_panels", "ball_panels"),
}


def drawn_once(name: str, draw: Callable[..., Any], *arguments: object) -> Any:
    key = (name, pickle.dumps(arguments))
    if key not in DRAWN:
        DRAWN[key] = draw(*arguments)
    return DRAWN[key]


@pytest.fixture
def charts_of_studies_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the charts of studies only once, for tests of the rest of the page.

    These charts take a second or two, and separate tests check them and the published numbers of the committed recipes.
    """
    for module, names in OF_STUDIES.items():
        for name in names:
            draw, full = getattr(module, name), f"{module.__name__}.{name}"
            monkeypatch.setattr(
                module, name, lambda *arguments, full=full, draw=draw: drawn_once(full, draw, *arguments)
            )
    read = content.read_published

    def read_once(root: Path, *arguments: Any) -> Any:
        return drawn_once("published", read, root, *arguments) if root == ROOT else read(root, *arguments)

    monkeypatch.setattr(content, "read_published", read_once)
