"""One flow in four ways: the sections differ only in their noise, and the rows are those of the trained models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.config.variants import ways_of_dequantizing
from bitsperdim.core.errors import InputError
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data import preparation
from bitsperdim.data.prepared import load_prepared
from bitsperdim.estimators.paired import influences, paired_difference, standard_error
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.sources.base import RawImages
from bitsperdim.studies.density_and_mass import dequantizing
from bitsperdim.studies.density_and_mass.dequantizing import WAYS
from support.cases import TINY_FLOW

CPU = torch.device("cpu")
TRAIN = TrainSection(
    epochs=9,
    batch_size=8,
    learning_rate=0.01,
    schedule="cosine",
    warmup_steps=2,
    weight_decay=0.0,
    gradient_clip=5.0,
    average_decay=0.0,
    patience=None,
    validation_samples=9,
    precision="float32",
    compile=False,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    level = rng.integers(4, size=(90, 1, 1, 1), dtype=np.uint8)
    images = np.where(rng.random((90, 1, 2, 2)) < 0.1, 0, level).astype(np.uint8)
    dataset = DatasetSection(name="digits", path="-", n_levels=None, validation_fraction=0.1, test_fraction=0.2, seed=0)
    preparation.prepare(
        RawImages({"train": images}, {}), dataset, DequantizeSection(bits=None, binarization="none"), 4, path
    )
    return path


def test_the_flows_differ_in_their_noise_alone() -> None:
    sections = {way: TINY_FLOW.flow(way) for way in WAYS}
    assert ways_of_dequantizing(sections) == [("uniform", list(WAYS))]
    assert [(section.dequantization, section.train_samples) for section in sections.values()] == [
        ("uniform", 1),
        ("uniform_fixed", 1),
        ("variational", 1),
        ("uniform", 3),
    ]
    assert {section.settings(TRAIN).epochs for section in sections.values()} == {3}
    assert {section.settings(TRAIN).batch_size for section in sections.values()} == {128}  # the section's own default


def test_no_more_images_are_read_than_asked_for(folder: Path) -> None:
    some = dequantizing.some_images(folder, 7)
    assert {split: len(images) for split, images in some.images.items()} == {"train": 7, "validation": 7, "test": 7}
    whole = load_prepared(folder)
    everything = dequantizing.some_images(folder, 1_000)
    for split in ("train", "validation", "test"):
        assert np.array_equal(everything.images[split], whole.images[split])
        rows = np.arange(7) * len(whole.images[split]) // 7
        assert np.array_equal(some.images[split], whole.images[split][rows])
    assert np.array_equal(everything.noise["test"], whole.noise["test"])
    assert np.array_equal(everything.same_as["test"], whole.same_as["test"])
    assert np.array_equal(some.same_as["test"], whole.same_as["test"][np.arange(7) * len(whole.images["test"]) // 7])
    assert "train" not in everything.noise
    (folder / "broken" / "test").mkdir(parents=True)
    with pytest.raises(InputError, match="run the stage 'dequantize' first"):
        dequantizing.some_images(folder / "broken", 7)


@pytest.mark.parametrize("n_images", [1, 2])
def test_one_test_image_has_an_error_that_is_unknown(n_images: int, folder: Path) -> None:
    """With one image the error is infinite; with two images it is half their difference. No column contains NaN."""
    images = dequantizing.some_images(folder, n_images)
    trained = dequantizing.train_all(TINY_FLOW, TRAIN, images, 0, CPU)
    estimates = dequantizing.evaluate_all(TINY_FLOW, trained, images, 0, CPU)
    for row in dequantizing.rows(TINY_FLOW, trained, estimates, (1, 2, 2), np.arange(n_images)):
        assert not any(isinstance(value, float) and np.isnan(value) for value in row.values()), row
        log_p = estimates[row["way"]].log_p
        expected = np.inf if n_images == 1 else -bits_per_dim(abs(float(log_p[0] - log_p[1])) / 2, (1, 2, 2))
        assert row["bpd_standard_error"] == pytest.approx(expected)
        assert np.isinf(row["difference_bpd_standard_error"]) == (n_images == 1)
        assert not (n_images == 1 and row["too_few_samples"] and estimates[row["way"]].small_ess_share == 0)


def test_the_rows_are_those_of_the_models(folder: Path) -> None:
    metrics, rows = dequantizing.compare_ways(TINY_FLOW, TRAIN, folder, 0, CPU)
    assert [row["way"] for row in rows] == list(WAYS)
    assert (metrics["n_train"], metrics["n_test"], metrics["n_test_of_all"]) == (40, 18, 18)
    images = dequantizing.some_images(folder, 40)
    same_as = images.same_as["test"]
    assert metrics["n_test_distinct"] == len(np.unique(images.images["test"], axis=0)) < 18  # copies are counted once
    trained = dequantizing.train_all(TINY_FLOW, TRAIN, images, 0, CPU)
    estimates = {
        way: estimate(
            item.model.eval(),
            torch.from_numpy(images.images["test"]),
            5,
            chunk_size=5,
            batch_size=18,
            generator=stream("study_evaluation", 0),
            noise=torch.from_numpy(images.noise["test"]),
        )
        for way, item in trained.items()
    }
    for row, way in zip(rows, WAYS, strict=True):
        item = estimates[way]
        assert (item.kind, item.n_samples, len(item.log_p)) == ("lower", 5, 18)
        assert row["bpd"] == pytest.approx(bits_per_dim(float(item.log_p.mean()), (1, 2, 2)))
        assert row["elbo_bpd"] >= row["bpd"]
        pair = paired_difference(item.log_p.numpy(), estimates["uniform"].log_p.numpy(), same_as)
        unit = -bits_per_dim(1.0, (1, 2, 2))
        assert row["difference_bpd_standard_error"] == pytest.approx(unit * pair.standard_error)
        assert row["bpd_standard_error"] == pytest.approx(
            unit * standard_error(influences(item.log_p.numpy(), same_as))
        )
        assert row["difference_bpd"] == pytest.approx(bits_per_dim(pair.nats, (1, 2, 2)))
        assert len(trained[way].curve) == 3
        objectives = {epoch["epoch"]: epoch["train_bpd"] for epoch in trained[way].curve}
        assert row["train_bpd"] == objectives[trained[way].best_epoch]
        assert row["n_parameters"] == trained[way].model.n_parameters
        assert row["bias_bpd"] == pytest.approx(float(item.bias.mean()) / 4 / np.log(2))
        assert row["ess_median"] == pytest.approx(float(item.ess.median()))
        assert row["too_few_samples"] == 1  # five samples cannot reach an effective sample size of ten
    assert rows[0]["difference_bpd"] == 0
    assert rows[2]["n_parameters"] > rows[0]["n_parameters"] == rows[1]["n_parameters"]
    assert len({row["bpd"] for row in rows}) == 4
    _, again = dequantizing.compare_ways(TINY_FLOW, TRAIN, folder, 0, CPU)
    assert list(again) == list(rows)


def test_some_of_the_test_images_are_not_called_all_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantizing, "WAYS", ("uniform",))
    few = TINY_FLOW.model_copy(update={"n_images": 7})
    metrics, _ = dequantizing.compare_ways(few, TRAIN, folder, 0, CPU)
    assert (metrics["n_train"], metrics["n_test"], metrics["n_test_of_all"]) == (7, 7, 18)
