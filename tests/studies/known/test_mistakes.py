"""Every mistake causes the expected error and is caught as the list says, so the table is right.

The mistakes are made on digits with the parameters of the study, which takes as long as the study: half a minute.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bitsperdim.auditing import audit
from bitsperdim.core.errors import InputError
from bitsperdim.core.units import NATS_PER_BIT
from bitsperdim.studies import known
from bitsperdim.studies.known import mistakes
from bitsperdim.studies.known.mistakes import counting, masses, pictures, samples
from bitsperdim.studies.known.mistakes.bench import Bench, some_images
from bitsperdim.studies.known.mistakes.constants import NARROW
from bitsperdim.studies.known.mistakes.mistake import Foreign, Made, Mistake, audited, row_of
from bitsperdim.studies.known.mistakes.models import VAE
from support.benches import EVERY, SMALL, digits, prepare, row

CPU = torch.device("cpu")
OF_COLOUR = "Pixels for sub-pixels"
OF_GREY = {
    "Cross entropy of grey values",
    "The density at small scales",
    "Levels where 0 to 1 is meant",
    "Static for dynamic binarization",
    "Fewer levels",
}


@pytest.mark.parametrize("name", [name for name in EVERY if name != OF_COLOUR])
def test_every_mistake_is_caught_as_it_says(name: str) -> None:
    mistake, found = EVERY[name], row(name)
    assert found["outcome"] == ("open" if mistake.way == "open" else "caught")
    by = set(filter(None, found["by"].split("; ")))
    if mistake.way == "audit":
        assert by <= set(mistake.checks)
        assert found["words"]
    elif mistake.way == "law":
        assert by == {mistake.law}
    else:
        assert by == ({"refused"} if mistake.way in ("refusal", "comparison") else set())


def test_the_list_is_long_and_names_are_unique() -> None:
    assert len(EVERY) == sum(map(len, mistakes.MISTAKES.values())) >= 25
    assert sum(mistake.way == "audit" for mistake in EVERY.values()) >= 25
    for mistake in EVERY.values():
        assert mistake.done.endswith(".")
        assert bool(mistake.law) or mistake.way != "law"
        assert bool(mistake.checks) or mistake.way != "audit"
        assert set(mistake.checks) <= {*audit.CHECKS, "evaluation mode"}


@pytest.mark.parametrize("law", sorted({mistake.law for mistake in EVERY.values() if mistake.law}))
def test_every_law_is_a_test(law: str, repository: Path) -> None:
    file, name = law.split("::")
    text = (repository / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {re.escape(name)}\(", text, re.MULTILINE)


def test_what_can_be_derived_is_measured() -> None:
    """Here L = 17 and D = 64, with 60 images, so there are three batches of 19 images and one of 3."""
    off = {name: found["off_bpd"] for name in EVERY if (found := row(name))["outcome"] != "does not apply"}
    right = {name: row(name)["right_bpd"] for name in off}
    n_levels, n_samples = digits().n_levels, digits().section.n_samples
    constants = {
        "255 for 256": -math.log2(n_levels / (n_levels - 1)),
        "log 128 for log 256": -1.0,
        "log 256 left out": -math.log2(n_levels),
        "The entropy of the noise left out": 0.5 * math.log2(math.tau * math.e * NARROW**2),
        "The wrong sign of the log-determinant": -2 * float(digits().gauss.scale.log2().mean()),
        "Averaged already": 0.0,
    }
    factors = {
        "Nats for bits": NATS_PER_BIT,
        "Bits for nats": 1 / NATS_PER_BIT,
        "Mean over sub-pixels": 1 / 64,
        "Padded images": 64 / 144,
    }
    for name, value in {**constants, **{name: right[name] * (factor - 1) for name, factor in factors.items()}}.items():
        assert off[name] == pytest.approx(value, abs=1e-6), name
    # components also have mass in other cells
    assert off["No noise on integers"] == pytest.approx(0.5 * math.log2(math.tau * NARROW**2), abs=1e-3)
    assert -math.log2(n_samples) / 64 <= off["The largest weight for the mean"] < 0
    # the sum of four means is divided by three, for any batches
    means = [float(part.mean()) for part in counting.batches(digits())]
    assert [len(part) for part in counting.batches(digits())] == [19, 19, 19, 3]
    assert off["Wrong divisor"] == pytest.approx(right["Wrong divisor"] / 3, abs=1e-6)
    assert row("Mean of the means of batches")["wrong_bpd"] == pytest.approx(
        -sum(means) / 4 / 64 / NATS_PER_BIT, abs=1e-6
    )


def test_bounds_and_leaks_look_as_they_must() -> None:
    """Bounds with fewer samples look worse on average, models that see the image look better; 1e-7 has no effect."""
    for name in ("A bound of one sample for a likelihood", "The mean of logarithms", "K ignored"):
        assert row(name)["off_bpd"] > 3 * row(name)["off_bpd_standard_error"] > 0
    for name in ("A mask that leaks", "Logits averaged over orders", "A decoder that remembers the image"):
        assert row(name)["off_bpd"] < -3 * row(name)["off_bpd_standard_error"] < 0
    assert row("A mask that leaks")["off_bpd"] < -0.2
    assert -1e-4 < row("1e-7 added to masses")["off_bpd"] < 0


@pytest.mark.parametrize("name", ["A mask that leaks", "A variance used as a scale", "Training images for test images"])
def test_without_its_check_a_mistake_is_not_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {key: check for key, check in audit.CHECKS.items() if key not in EVERY[name].checks}
    monkeypatch.setattr(audit, "CHECKS", left)
    found = row_of(EVERY[name], "a group", digits())
    assert (found["outcome"], found["by"], found["words"]) == ("not caught", "", "")
    assert found["off_bpd"] == row(name)["off_bpd"]


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (counting, "compare", "Dropped tail"),
        (counting, "evaluate", "NaN filtered"),
        (pictures, "compare", "Other images under the same name"),
    ],
)
def test_what_is_not_refused_is_not_caught(
    module: Any, function: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, function, lambda *_, **__: None)
    assert row_of(EVERY[name], "a group", digits())["outcome"] == "not caught"


def test_a_check_that_was_not_named_catches_nothing() -> None:
    """The finding of another check may have another reason."""
    leak = EVERY["A mask that leaks"]
    other = Mistake(leak.name, leak.done, leak.make, "audit", ("copies",))
    assert row_of(other, "a group", digits())["outcome"] == "not caught"


def test_an_open_one_that_is_found_is_called_caught() -> None:
    leak = EVERY["A mask that leaks"]
    other = Mistake(leak.name, leak.done, leak.make, "open", leak.checks)
    assert row_of(other, "a group", digits())["outcome"] == "caught"


def test_a_bound_without_chance_is_found_where_it_can_be_built_small() -> None:
    """This is stated in docs/ways-to-be-wrong.md."""

    def build(image_shape: tuple[int, int, int], n_levels: int) -> object:
        return samples.without_chance(VAE(image_shape, n_levels).eval())

    options = {"offers": "log_prob", "build": build}
    found = audited(digits(), Foreign(samples.without_chance(digits().vae), options))
    assert [check.name for check in found.failed] == ["sum over tiny images"]


def test_the_error_is_paired_where_the_images_are_the_same() -> None:
    bench = digits()
    shift = torch.linspace(0, 64 * NATS_PER_BIT, 60, dtype=torch.float64)
    found = row_of(
        Mistake("a", "b.", lambda _: Made(bench.log_p - shift, bench.log_p), "law", law="c"), "a group", bench
    )
    assert found["off_bpd"] == pytest.approx(0.5)
    assert found["off_bpd_standard_error"] == pytest.approx(float(torch.linspace(0, 1, 60).std()) / 60**0.5)
    assert row("Training images for test images")["off_bpd_standard_error"] == ""


@pytest.mark.parametrize(
    ("shape", "n_levels", "binarization"),
    [((1, 5, 4), 8, "dynamic"), ((3, 4, 3), 256, "none")],
    ids=["binarized", "colour"],
)
def test_other_images_run_through(
    shape: tuple[int, int, int], n_levels: int, binarization: str, tmp_path: Path
) -> None:
    """Binarized images and colour images with 256 levels; with so few steps, checks may miss mistakes."""
    prepare(tmp_path, shape, n_levels, binarization)
    metrics, tables = mistakes.study(SMALL, tmp_path, 0, CPU)
    rows = {each["name"]: each for each in tables["mistakes"]}
    assert list(rows) == list(EVERY)
    without = {name for name, each in rows.items() if each["outcome"] == "does not apply"}
    assert without == (OF_GREY | {OF_COLOUR} if binarization == "dynamic" else set())
    assert metrics["false_alarms"] == []
    assert metrics["is_cut"] == (shape[1] > 4)
    assert sum(metrics[f"n_{key}"] for key in ("caught", "not_caught", "open", "not_applicable")) == len(rows)
    for name, each in rows.items():
        assert name in without or math.isfinite(each["off_bpd"])
        if EVERY[name].way in ("comparison", "refusal", "law") and name not in without:
            assert each["outcome"] == "caught", each
    levels = 2 if binarization == "dynamic" else n_levels
    assert rows["255 for 256"]["off_bpd"] == pytest.approx(-math.log2(levels / (levels - 1)))
    assert rows["255 for 256"]["by"].startswith("sum over tiny images")
    if shape[0] == 3:
        assert rows[OF_COLOUR]["off_bpd"] == pytest.approx(2 * rows[OF_COLOUR]["right_bpd"])
        assert rows["A mask that leaks"]["by"] == "causality"


def test_a_rerun_is_byte_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes models that draw without a seed, for any state of torch's global generator."""
    prepare(tmp_path / "images", (1, 4, 4), 5)
    chosen = ("Noise that no seed governs", "Dropout in use", "A draw of a bound offered as log P", "Nats for bits")
    monkeypatch.setattr(mistakes, "MISTAKES", {"a group": [EVERY[name] for name in chosen]})
    for run in ("one", "two"):
        torch.rand(7)
        metrics, tables = mistakes.study(SMALL, tmp_path / "images", 0, CPU)
        known.write(tmp_path / run, {"mistakes": metrics}, tables)
    for name in ("metrics.json", "mistakes.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with (tmp_path / "one" / "mistakes.csv").open(encoding="utf-8", newline="") as file:
        assert [line["name"] for line in csv.DictReader(file)] == list(chosen)


def test_images_are_the_middle_of_some_of_all(tmp_path: Path) -> None:
    prepare(tmp_path, (1, 9, 6), 5)
    images = some_images(tmp_path, SMALL, 0)
    assert images.shape == (1, 4, 4)
    assert {split: len(x) for split, x in images.splits.items()} == {"train": 60, "validation": 12, "test": 12}
    whole = some_images(tmp_path, SMALL.model_copy(update={"size": 9, "n_images": 1_000}), 0).splits["test"]
    rows = [number * len(whole) // 12 for number in range(12)]
    assert torch.equal(images.splits["test"], whole[rows][:, :, 2:6, 1:5])
    prepare(tmp_path / "colour", (3, 9, 9), 256)
    assert some_images(tmp_path / "colour", SMALL.model_copy(update={"size": 8}), 0).shape == (3, 4, 4)
    with pytest.raises(InputError, match="run the stage 'dequantize' first"):
        some_images(tmp_path / "nowhere", SMALL, 0)


def test_models_are_trained_once_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    prepare(tmp_path, (1, 4, 4), 5)
    state = torch.get_rng_state()
    bench = Bench(some_images(tmp_path, SMALL, 0), SMALL, 0)
    assert bench.raster is bench.raster
    assert bench.vae is bench.vae
    for mistake in (*masses.MISTAKES, *samples.MISTAKES):
        row_of(mistake, "a group", bench)
    assert torch.equal(state, torch.get_rng_state())
