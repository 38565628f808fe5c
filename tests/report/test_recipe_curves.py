"""The chart of the recipes' training curves: what is drawn, and where its labels are."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.recipes.curves import Curve
from bitsperdim.report.published import PublishedNumber
from bitsperdim.report.recipe_curves import N_POINTS, curves, spread, thinned

PUBLISHED = PublishedNumber("VAE <b>", "≤", 0.16, 87.0, "87.00 nats", "K = 5", "Them")


def falling(name: str, n: int, last: float = 0.17) -> Curve:
    n_presented = 1000.0 * np.arange(1, n + 1)
    return Curve(name, n_presented, last + 0.2 / np.arange(1, n + 1) ** 0.5 - 0.2 / n**0.5)


def test_a_long_curve_is_thinned() -> None:
    """Both ends stay, points stay on the curve, and no gap is wider than one part of the logarithmic axis."""
    curve = falling("long", 5000)
    at, bpd = thinned(curve.n_presented, curve.bpd)
    assert N_POINTS / 2 < len(at) <= N_POINTS
    assert (at[0], at[-1]) == (curve.n_presented[0], curve.n_presented[-1])
    assert np.isin(np.stack([at, bpd]).T, np.stack([curve.n_presented, curve.bpd]).T).all()
    widest = np.diff(np.log(at))[at[:-1] > 1e5].max()  # before that the epochs themselves are further apart
    assert widest < 2 * np.log(5000) / (N_POINTS - 1)
    assert thinned(at, bpd)[0] is at


@pytest.mark.parametrize("places", [[], [1.0], [3.0, 3.0, 3.0], [5.0, 1.0, 1.2, 9.0], [0.0, 10.0]])
def test_labels_keep_their_distance(places: list[float]) -> None:
    moved = spread(places, 1.0)
    for (before, after), (other, other_after) in itertools.combinations(zip(places, moved, strict=True), 2):
        assert abs(after - other_after) >= 1 - 1e-12
        assert (before < other) <= (after < other_after)
    if len(places) == 2:
        assert moved == places  # far apart: they stay


def test_the_chart_draws_every_curve_and_published_number() -> None:
    chart = str(curves([falling("one, vae", 50), falling("two, iwae", 300, 0.165)], [], [PUBLISHED]))
    for text in ("one, vae", "two, iwae", "87.00 nats: VAE &lt;b&gt;", "100,000", "training images presented"):
        assert text in chart
    assert "<b>" not in chart
    assert "mathdefault" not in chart
    label = re.search('aria-label="([^"]*)"', chart)
    assert label is not None
    assert "two, iwae: 0.165 after 300,000 images" in label[1]


def test_without_committed_curves_nothing_is_drawn() -> None:
    assert curves([], [], [PUBLISHED]) is None


def test_the_committed_files_are_drawn(repository: Path) -> None:
    from bitsperdim.recipes.curves import read_curves

    found = read_curves(repository, "mnist/dynamic/28x28x1/L2/test10000/given-none")
    assert {"mnist-dynamic-vae-l1, vae", "mnist-dynamic-iwae-l1-k5-long, iwae"} <= {curve.name for curve in found}
    assert str(curves(found, [], [])).startswith("<svg")
