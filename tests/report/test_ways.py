"""The table of ways of dequantizing: rows match the files, signs and colours match the numbers."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import FamilySection
from bitsperdim.core.errors import InputError
from bitsperdim.estimators.intervals import standard_errors
from bitsperdim.estimators.paired import paired_difference
from bitsperdim.report.variants import differences
from bitsperdim.results.density_and_mass import read_study
from bitsperdim.results.formatting import MINUS
from bitsperdim.results.variants import Scored, of_models
from support.cases import WAYS, write_study

SHAPE = (1, 2, 2)


def section(**changes: object) -> FamilySection:
    flow = {"family": "flow", "transform": "maf", "n_transforms": 2, "hidden_sizes": [8], "n_bins": 4}
    noise = {"n_couplings": 1, "n_filters": 4, "n_blocks": 0}
    plain = {"logit_margin": 0.0, "dequantization": "uniform", "variational": noise, "train_samples": 1}
    return FAMILIES["flow"].model_validate({**flow, **plain, **changes})


def scored(log_p: np.ndarray) -> Scored:
    return Scored(77, 1.9, 2.2, 2.1, 0.03, 0.002, 12.3, False, log_p)


def test_the_rows_of_the_study_are_those_written(tmp_path: Path) -> None:
    write_study(tmp_path)
    ways = read_study(tmp_path).ways
    assert [way.name for way in ways] == ["uniform", "uniform fixed", "variational", "importance weighted"]
    for way, row in zip(ways, WAYS, strict=True):
        assert (way.bpd, way.elbo_bpd, way.train_samples) == (row["bpd"], row["elbo_bpd"], row["train_samples"])
        assert (way.train_bpd, way.n_parameters) == (row["train_bpd"], row["n_parameters"])
        assert (way.bias_bpd, way.ess_median) == (0.002, 12.3)
    assert [way.difference for way in ways] == [None, 0.05, -0.1, -0.01]
    assert [way.too_few_samples for way in ways] == [False, False, False, True]


@pytest.mark.parametrize("way", ["uniform", "variational"])
def test_a_way_that_is_none_is_one_sentence(way: str, tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / "dequantizing.csv"
    path.write_text(re.sub(rf"^{way},", "gaussian,", path.read_text(), flags=re.MULTILINE))
    with pytest.raises(InputError, match=r"dequantizing.csv does not have the ways uniform, uniform_fixed"):
        read_study(tmp_path)


def test_models_that_are_one_flow_are_compared() -> None:
    rng = np.random.default_rng(0)
    log_p = {name: rng.normal(-50, 9, 20) for name in ("fixed", "plain", "other")}
    sections = {"fixed": section(dequantization="uniform_fixed"), "plain": section(), "other": section(n_transforms=9)}
    (ways,) = of_models(sections, {name: scored(values) for name, values in log_p.items()}, SHAPE)
    assert [way.name for way in ways] == ["fixed", "plain"]
    pair = paired_difference(log_p["fixed"], log_p["plain"])
    assert ways[0].difference == pytest.approx(-pair.nats / 4 / np.log(2))
    assert ways[0].difference_error == pytest.approx(pair.standard_error / 4 / np.log(2))
    assert ways[1].difference is None
    same_as = np.arange(20) // 2 * 2  # ten images, each twice
    copies = {name: dataclasses.replace(scored(values), same_as=same_as) for name, values in log_p.items()}
    (of_copies,) = of_models(sections, copies, SHAPE)
    expected = paired_difference(log_p["fixed"], log_p["plain"], same_as).standard_error
    assert of_copies[0].difference_error == pytest.approx(expected / 4 / np.log(2))
    log_p["fixed"][3] = -np.inf  # no finite value to pair
    assert of_models(sections, {name: scored(values) for name, values in log_p.items()}, SHAPE) == []


def test_a_difference_whose_error_is_unknown_is_not_drawn(tmp_path: Path) -> None:
    write_study(tmp_path)
    ways = read_study(tmp_path).ways
    [first, *others] = [way for way in ways if way.difference is not None]
    unknown = dataclasses.replace(first, difference_error=math.inf)
    drawing = str(differences("one", [unknown if way is first else way for way in ways], 50))
    assert first.name in str(differences("one", ways, 50))
    assert f"{first.name} +" not in drawing
    assert all(way.name in drawing for way in others)
    assert "nan" not in drawing


def test_the_chart_tells_better_from_worse_and_from_neither(tmp_path: Path) -> None:
    write_study(tmp_path)
    drawing = str(differences("one", read_study(tmp_path).ways, 50))
    for colour in ("--bound", "--exact", "--muted"):
        assert f"var({colour})" in drawing
    for words in ("0: uniform", "uniform fixed +0.050 ± 0.010", f"variational {MINUS}0.1000 ± 0.0040"):
        assert words in drawing
    alone = [way for way in read_study(tmp_path).ways if way.difference is None]
    assert "<svg" in str(differences("alone", alone, 50))


@pytest.mark.parametrize(("n_drawn", "is_coloured"), [(1, True), (3, False)])
def test_a_colour_asks_for_all_intervals_together(n_drawn: int, is_coloured: bool, tmp_path: Path) -> None:
    """A difference of 2.1 errors is outside the interval of a single difference, but inside the intervals of three."""
    write_study(tmp_path)
    ways = [
        way if way.difference is None else dataclasses.replace(way, difference=0.021, difference_error=0.01)
        for way in read_study(tmp_path).ways
    ]
    assert ("var(--bound)" in str(differences("one", ways[: 1 + n_drawn], 1_000))) == is_coloured


@pytest.mark.parametrize(("n_distinct", "n_together"), [(2, 1), (5, 1), (5, 4), (60, 4)])
def test_intervals_hold_together(n_distinct: int, n_together: int) -> None:
    """In 40,000 simulations with normal numbers, the coverage is 95 % up to 0.5 points (five errors), or higher."""
    values = np.random.default_rng(0).normal(size=(40_000 // n_together, n_together, n_distinct))
    errors = values.std(-1, ddof=1) / math.sqrt(n_distinct)
    holds = (np.abs(values.mean(-1)) <= standard_errors(n_distinct, n_together) * errors).all(1).mean()
    assert 0.945 < holds < (0.955 if n_together == 1 else 0.97)
    assert standard_errors(1) == math.inf
