"""The training curves that are kept with results: those for the same images are read, and damage is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import write_csv, write_json
from bitsperdim.recipes.curves import read_curves
from bitsperdim.recipes.recipe import RESULTS
from bitsperdim.recipes.result import CURVE

PROTOCOL = "mnist/dynamic/28x28x1/L2/test10000/given-none"


def write(root: Path, name: str, protocol: str, seeds: tuple[int, ...] = (0,), n_presented: str | None = None) -> None:
    (root / RESULTS).mkdir(parents=True, exist_ok=True)
    write_json(root / RESULTS / f"{name}.json", {"data": {"protocol": protocol}})
    rows = [
        {"model": model, "seed": seed, "epoch": epoch, "step": epoch, "seconds": "", "train_bpd": 1.0}
        | {"n_presented": 90 * epoch if n_presented is None else n_presented, "validation_bpd": 1 - epoch / 10 + seed}
        for model, n_epochs in (("vae", 3), ("gaussian", 1))
        for seed in seeds
        for epoch in range(1, n_epochs + 1)
    ]
    write_csv(root / RESULTS / f"{name}.csv", CURVE, rows)


def test_only_curves_for_the_same_images_are_read(tmp_path: Path) -> None:
    """The number of test images may differ; a model in closed form has one point and no curve."""
    write(tmp_path, "b", PROTOCOL, seeds=(0, 1))
    write(tmp_path, "a", PROTOCOL.replace("test10000", "test500"))
    write(tmp_path, "early", PROTOCOL, n_presented="")
    for number, other in enumerate((("mnist", "own"), ("dynamic", "static"), ("28x28x1", "8x8x1"), ("L2", "L256"))):
        write(tmp_path, f"other{number}", PROTOCOL.replace(*other))
    found = read_curves(tmp_path, PROTOCOL)
    assert [curve.name for curve in found] == ["a, vae", "b, vae, seed 0", "b, vae, seed 1"]
    assert found[2].n_presented.tolist() == [90, 180, 270]
    assert found[2].bpd.tolist() == pytest.approx([1.9, 1.8, 1.7])
    assert read_curves(tmp_path / "nowhere", PROTOCOL) == []


@pytest.mark.parametrize("damage", ["number", "column", "json"])
def test_a_damaged_curve_is_one_sentence(damage: str, tmp_path: Path) -> None:
    write(tmp_path, "one", PROTOCOL)
    path = tmp_path / RESULTS / "one.csv"
    if damage == "json":
        path.with_suffix(".json").write_text("{")
    else:
        path.write_text(path.read_text().replace("0.9" if damage == "number" else "validation_bpd", "x"))
    with pytest.raises(InputError, match=r"one\.csv") as caught:
        read_curves(tmp_path, PROTOCOL)
    assert "\n" not in str(caught.value)
