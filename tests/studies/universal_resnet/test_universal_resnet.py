"""The study describes its networks correctly; its rules are checked on networks whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitsperdim.config.params import UniversalResnetSection
from bitsperdim.results.universal_resnet import ERRORS, NETS
from bitsperdim.studies.universal_resnet import OneNeuronResNet, approximation, ball, construct, essay, study
from bitsperdim.studies.universal_resnet.approximation import COARSE, FINE, TARGETS
from bitsperdim.studies.universal_resnet.predicates import PREDICATES
from support.cases import TINY_RESNET, write_resnet

CPU = torch.device("cpu")


def test_a_rerun_is_byte_identical(tmp_path: Path) -> None:
    for name in ("first", "second"):
        study.write(tmp_path / name, study.study(TINY_RESNET, CPU))
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(files) == 8
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    other = TINY_RESNET.model_copy(update={"seed": 1})
    study.write(tmp_path / "other", study.study(other, CPU))
    drawn = {"accuracy.csv", "ball.csv", "metrics.json", "regions.npz", "trained.csv"}
    changed = {
        name for name in files if (tmp_path / "first" / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
    }
    assert changed == drawn


def test_every_network_of_the_essay_is_there(tmp_path: Path) -> None:
    assert [architecture.name for architecture in essay.ARCHITECTURES] == list(essay.PUBLISHED)
    write_resnet(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["accuracy"]) == set(essay.PUBLISHED)
    found = metrics["accuracy"]["resnet_40"]["hard"]
    assert (found["essay_mean"], found["essay_spread"]) == (88, 4)
    assert "essay_spread" not in metrics["accuracy"]["dense_2_5"]["easy"]  # the essay gives no spread
    sizes = {name: row["n_parameters"] for name, row in metrics["accuracy"].items()}
    assert sizes["resnet_40"] == 40 * 5 + 3
    assert sizes["dense_6_5"] == 18 + 4 * 42 + 7
    assert sizes["single_300"] == 300 * 3 + 301


def test_a_constant_scores_the_larger_class() -> None:
    """If all weights are zero and the learning rate is too small to change them, every network says 'outside'."""
    _, labels = essay.labelled_points(500, np.random.default_rng(0))
    for inside in labels.values():
        right = essay.accuracy(torch.zeros(2, 500), torch.tensor(inside).float().expand(2, -1))
        assert right == pytest.approx([1 - inside.mean()] * 2)


def test_the_summary_is_the_mean_and_the_spread_of_the_rows() -> None:
    outcome = essay.run(3, 40, 3, 2, TINY_RESNET.learning_rates.model_dump(), CPU)
    summary, rows = essay.summary(outcome), essay.rows(outcome)
    assert len(rows) == len(essay.PUBLISHED) * len(PREDICATES) * 3
    for name in essay.PUBLISHED:
        for predicate in PREDICATES:
            shares = [
                100 * row["train_accuracy"] for row in rows if (row["net"], row["predicate"]) == (name, predicate)
            ]  # type: ignore[operator]
            found = summary[name][predicate]
            assert found["mean"] == pytest.approx(np.mean(shares))  # type: ignore[index]
            assert found["spread"] == pytest.approx(np.std(shares, ddof=1))  # type: ignore[index]
            assert found["best"] == max(shares)  # type: ignore[index]


def test_regions_that_go_to_infinity_are_told_from_closed_ones() -> None:
    def triangle(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0], x[:, 1], 1 - x.sum(-1)]).min(0).values + 0.5

    regions = {
        "half-plane": (lambda x: x[:, 0], 0.5),
        "wedge": (lambda x: torch.minimum(x[:, 0], x[:, 1]), 0.25),
        "strip": (lambda x: 1 - x[:, 0].abs(), 2 * np.arcsin(1 / ball.FAR) / np.pi),
        "thin strip": (lambda x: 0.1 - (x[:, 0] + 0.5 * x[:, 1]).abs(), None),
        "triangle": (triangle, 0.0),
        "nothing": (lambda x: -torch.ones(len(x)), 0.0),
    }
    for name, (decide, share) in regions.items():
        [found] = ball.far_share(lambda x, decide=decide: decide(x)[None], CPU)
        assert found > 0 if share is None else found == pytest.approx(share, abs=5e-4), name


def test_the_region_that_is_shown_is_that_of_the_best_seed() -> None:
    """Each predicate has its own best seed; the first one if several are equal."""
    train = np.array([[0.5, 0.9, 0.9], [0.8, 0.2, 0.1], [0.3, 0.4, 0.5]])  # (predicates, seeds)
    pixels = torch.zeros(essay.N_PIXELS**2, 2)
    shown = essay._regions(lambda x: torch.arange(9.0)[:, None].expand(9, len(x)), pixels, train)  # type: ignore[arg-type]
    assert shown.shape == (3, essay.N_PIXELS, essay.N_PIXELS)
    assert shown[:, 0, 0] == pytest.approx(np.tanh(essay.SOFT * np.array([1, 3, 8])))


def test_the_constructed_network_that_is_named_is_the_largest() -> None:
    """It is the largest for its function, separately with and without joined levels."""
    rows = [
        {"function": name, "join": join, "cells": cells, **dict.fromkeys((*ERRORS, "stated_l1_to_steps"), cells / 7)}
        for name in TARGETS
        for join in (0, 1)
        for cells in (2, 5, 9 + join)
    ]
    for name in TARGETS:
        for join in (False, True):
            found = study._largest(rows, name, join)
            assert (found["cells"], found["l1"]) == (9 + join, (9 + join) / 7)


def test_a_closed_ball_is_held_and_is_the_one_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three discs around the origin fit less and less: most of the ball, all of it and more, the whole plane.

    The first does not contain enough of the ball, although it is right for more points; the last is unbounded.
    """
    radii = torch.tensor([0.85**0.5, 2.5, 1e3])

    class Discs(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return radii[:, None] - x.norm(dim=-1)

    monkeypatch.setattr(ball.Architecture, "build", lambda *_, **__: Discs())
    monkeypatch.setattr(ball, "ARCHITECTURES", ball.ARCHITECTURES[:1])
    monkeypatch.setattr(ball, "fit", lambda *_: None)
    outcome = ball.run(0, 2_000, len(radii), 1, {"dense": 0.1}, CPU)
    accuracies = [row["accuracy"] for row in outcome.rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > ball.COVERED
    assert [row["is_closed"] for row in outcome.rows] == [0, 1, 0]
    assert ball.summary(outcome)[ball.ARCHITECTURES[0].name]["n_closed"] == 1
    distance = np.linalg.norm(essay.grid(ball.N_PIXELS, ball.REACH), axis=-1).reshape(outcome.regions[0].shape)
    assert np.array_equal(outcome.regions[0] > 0, distance < 2.5)


def test_two_blocks_can_close_the_ball_and_one_cannot() -> None:
    """A triangle from two blocks with given weights: the minimum of three affine functions, made from the identity."""
    net = OneNeuronResNet(2, 2)
    with torch.no_grad():
        # y = x1 at first; two bends give min(x1 + 2, ...) with gradients (1, 0), (-1, 2), (-1, -2)
        net.read_out[0] = torch.tensor([1.0, 0.0])
        net.offset[0] = 2.0
        net.rows[0] = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
        net.columns[0] = torch.tensor([[-2.0, 0.0], [-2.0, 0.0]])
        net.biases[0] = torch.tensor([0.0, 0.0])
    angle = torch.arange(3_600) * (2 * torch.pi / 3_600)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    assert (net(circle * 1_000) < 0).all()
    assert (net(circle * 0.4) > 0).all()


def test_the_distance_of_known_functions() -> None:
    """The area of the disc, two steps, and |x|, for which the midpoint rule is exact except in the last cell."""
    target = TARGETS["disc"]
    x = approximation.midpoints(2, FINE[2], target.reach)
    found = approximation.distance(np.zeros(len(x)), target, x)
    assert found["l1"] == pytest.approx(np.pi, abs=0.01)
    assert found["largest"] == 1
    assert found["close_share"] == pytest.approx(1 - np.pi / 16, abs=1e-3)
    line = approximation.midpoints(1, FINE[1], 1.0)
    exact = 0.29 * 0.2 + 0.42 * 0.9 + 0.46 * 0.4 + 0.36 * 1.0
    assert approximation.distance(np.zeros(len(line)), TARGETS["step"], line)["l1"] == pytest.approx(exact, abs=1e-3)
    several = approximation.distance(
        np.stack([TARGETS["step"].f(line), 1 + TARGETS["step"].f(line)]), TARGETS["step"], line
    )
    assert several["l1"] == pytest.approx([0, 2])
    assert TARGETS["smooth"].f(np.array([[-1.0], [1.0], [0.0]])) == pytest.approx([0, 0, 1])
    assert set(COARSE) == set(FINE) == {target.d for target in TARGETS.values()}


@pytest.mark.parametrize("cells", [3, 8, 33, 64])
def test_the_grid_of_the_plane_meets_no_ramp_in_its_middle(cells: int) -> None:
    """Otherwise every node of a row would lie on a ramp, although ramps cover almost nothing of the plane."""
    along = np.unique(approximation.midpoints(2, FINE[2], TARGETS["disc"].reach)[:, 0])
    faces = np.linspace(-1, 1, cells + 1)
    assert np.abs(along[:, None] - faces).min() > 1e-4


def test_constructed_networks_are_measured_on_their_ramps() -> None:
    row = approximation.constructed("smooth", 16, join=False)
    assert row["largest"] > 1.2  # type: ignore[operator]
    assert row["n_blocks"] == construct(TARGETS["smooth"].f, 1, -1.0, 1.0, 16).depth
    ramps = approximation.on_ramps(TARGETS["disc"], 4, 0.01)
    assert np.unique(ramps[:, 0]).tolist() == pytest.approx(
        [face + 0.01 * (k / 8 - 0.5) for face in (-0.5, 0.0, 0.5) for k in range(9)]
    )
    assert np.unique(ramps[:, 1]).tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])


def test_the_last_step_is_the_network() -> None:
    rows = study.derivation()
    x = np.array([row["x"] for row in rows])
    target = TARGETS["smooth"]
    net = construct(target.f, 1, -1.0, 1.0, study.DERIVED_CELLS, error=study.DERIVED_ERROR)
    assert np.array_equal([row["network"] for row in rows], net(torch.tensor(x)[:, None]).numpy())
    away = np.array([abs(row["network"] - row["steps"]) < 1e-3 for row in rows])
    assert 0.6 < away.mean() < 1  # outside the ramps, which are wide here
    levels, disc = study.of_the_plane(6)
    assert sorted(row["level"] for row in levels) == list(range(1, study.PLANE_CELLS**2 + 1))
    assert {row["value"] for row in levels} == {0.0, 1.0}
    assert disc.dtype == np.int8
    assert (disc > 0).mean() == pytest.approx(np.pi / 16, rel=0.15)


def test_fewer_than_two_seeds_have_no_spread() -> None:
    with pytest.raises(ValueError, match="n_seeds"):
        UniversalResnetSection.model_validate({**TINY_RESNET.model_dump(), "n_seeds": 1})


def test_the_readme_has_the_numbers_of_the_full_budget(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((repository / "docs" / "universal_resnet.json").read_text(encoding="utf-8"))
    for name, words in NETS.items():
        cells = []
        for predicate in PREDICATES:
            score = metrics["accuracy"][name][predicate]
            published = dict(zip(PREDICATES, essay.PUBLISHED[name], strict=True))[predicate]
            spread = "" if published[1] is None else f" ± {published[1]}"
            cells += [f"{score['mean']:.1f} ± {score['spread']:.1f}", f"{published[0]}{spread}"]
        assert f"| {words} | {' | '.join(cells)} |" in text
    best = max(metrics["accuracy"][name]["hard"]["fresh_mean"] for name in NETS)
    assert f"more often than {best:.1f} %" in " ".join(text.split())
    rows = [approximation.constructed("disc", 8, join=False), approximation.constructed("disc", 33, join=True)]
    for row in [*rows, metrics["constructed"]["disc"], metrics["constructed"]["disc_joined"]]:
        shown = f"| {row['n_blocks']:,d} | {row['l1']:.4f} | {100 * row['close_share']:.2f} % |"
        assert shown in text, shown
