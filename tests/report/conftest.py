"""Charts that are the same in every report of the tests are drawn once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bitsperdim.report import universal_resnet

DRAWN: dict[str, Any] = {}


def drawn_once(name: str, draw: Callable[[Any], Any], study: object) -> Any:
    if name not in DRAWN:
        DRAWN[name] = draw(study)
    return DRAWN[name]


@pytest.fixture
def resnet_charts_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the rest of the page: those of the one-neuron ResNet take a second, and have tests of their own."""
    for name in ("all_charts", "predicate_panels", "ball_panels"):
        draw = getattr(universal_resnet, name)
        monkeypatch.setattr(universal_resnet, name, lambda study, name=name, draw=draw: drawn_once(name, draw, study))
