"""The rate-distortion plane has the points and the lines of the metrics, and its text alternative names them."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from bitsperdim.core.metrics import RateDistortionMetrics
from bitsperdim.report import rate_distortion


def terms(encoder: tuple[float, float], normal: tuple[float, float], log_p: float) -> RateDistortionMetrics:
    values: dict[str, Any] = {
        "n_images": 5,
        "n_samples": 256,
        "log_p_nats": log_p,
        "encoder": {"rate_nats": encoder[0], "distortion_nats": encoder[1]},
        "normal": {"rate_nats": normal[0], "distortion_nats": normal[1]},
        "amortization_gap_nats": sum(encoder) - sum(normal),
        "amortization_gap_nats_standard_error": 0.1,
        "approximation_gap_nats": sum(normal) + log_p,
        "approximation_gap_nats_standard_error": 0.1,
    }
    return RateDistortionMetrics.model_validate(values)


def model(name: str, of: RateDistortionMetrics | None) -> Any:
    return SimpleNamespace(name=name, metrics=SimpleNamespace(rate_distortion=of))


FIRST, SECOND = terms((10.9, 83.0), (10.0, 81.8), -91.2), terms((9.3, 85.7), (10.1, 82.3), -91.2)


def test_the_points_and_the_line_are_those_of_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point is inside the axes; on the line, rate and distortion add up to -log P(x)."""
    axes: list[Any] = []
    to_svg = rate_distortion.to_svg

    def kept(given: Any, said: str) -> Any:
        axes.append(given)
        return to_svg(given, said)

    monkeypatch.setattr(rate_distortion, "to_svg", kept)
    svg = rate_distortion.plane([model("one", FIRST), model("exact", None), model("two", SECOND)])
    assert svg is not None
    lines = [list(zip(*line.get_data(), strict=True)) for line in axes[0].lines]
    points = [(each.rate_nats, each.distortion_nats) for of in (FIRST, SECOND) for each in (of.encoder, of.normal)]
    assert [line[0] for line in lines if len(line) == 1] == points
    assert [sum(point) for line in lines if len(line) == 2 for point in line] == pytest.approx([91.2] * 4)
    (left, right), (low, high) = axes[0].get_xlim(), axes[0].get_ylim()
    assert all(left < x < right and low < y < high for x, y in points)
    box = axes[0].get_position()
    width, height = rate_distortion.WIDTH * box.width, rate_distortion.HEIGHT * box.height
    assert (right - left) / width == pytest.approx((high - low) / height)  # nats per pixel are equal on both axes
    said = re.search(r'aria-label="([^"]*)"', svg)
    assert said is not None
    assert "one: encoder 10.90 and 83.00, best normal 10.00 and 81.80, -log P(x) at most 91.20" in said[1]
    assert "exact" not in said[1]


def test_points_that_are_one_and_models_without_terms() -> None:
    """If the encoder is the best normal and the posterior, all points coincide, and no division by zero occurs."""
    same = terms((0.0, 0.0), (0.0, 0.0), 0.0)
    assert "<svg" in str(rate_distortion.plane([model("same", same)]))
    assert rate_distortion.plane([model("exact", None)]) is None
