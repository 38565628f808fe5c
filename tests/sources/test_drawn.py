"""Images from a known distribution are drawn by seed, and each keeps its true log-probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bitsperdim
from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.core.errors import InputError
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data import preparation
from bitsperdim.data.prepared import load_prepared
from bitsperdim.data.yardsticks import truth
from bitsperdim.evaluation.images import CACHE
from bitsperdim.preflight.agreement import model_levels, validated
from bitsperdim.sources import SOURCES, Drawn
from bitsperdim.sources.known import KNOWN, KnownDistribution

SMALL = {"height": 4, "width": 5, "n_train": 30, "n_validation": 10, "n_test": 20}
REST: dict[str, Any] = {
    "models": ["histogram"],
    "histogram": {"family": "histogram"},
    "seeds": [0],
    **{name: {} for name in ("train", "evaluate", "known", "density_and_mass", "project_delay", "universal_resnet")},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))


def section(name: str, **changes: Any) -> DatasetSection:
    drawn = {**SMALL, **changes.pop("drawn", {})}
    return DatasetSection.model_validate({"name": name, "path": "unused", "drawn": drawn, **changes})


def distribution(of: DatasetSection) -> KnownDistribution:
    source = SOURCES[of.name]
    assert isinstance(source, Drawn)
    return source.distribution(of.drawn, of.n_levels)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_the_truth_of_each_image_is_kept(name: str, n_channels: int, tmp_path: Path) -> None:
    of = section(name, n_levels=2, seed=3, drawn={"n_channels": n_channels, "height": 3, "width": 4})
    raw = preparation.read_source(of, tmp_path)
    described = preparation.prepare(raw, of, DequantizeSection(), 2, tmp_path)
    prepared = load_prepared(tmp_path)
    assert described.n_images == {"train": 30, "validation": 10, "test": 20}
    assert described.image_shape == (n_channels, 3, 4)
    images, log_p = prepared.images["test"], prepared.log_p_true["test"]
    assert np.allclose(log_p, distribution(of).log_p(images))
    assert described.protocol == f"{name}-{distribution(of).tag}/none/3x4x{n_channels}/L2/test20/given-none"
    assert described.protocol.count("/") == 5
    assert truth(log_p, described.image_shape)["truth_bpd"] == pytest.approx(
        bits_per_dim(float(log_p.mean()), described.image_shape)
    )


def test_one_seed_is_one_set_of_images_and_the_splits_are_independent(tmp_path: Path) -> None:
    first, again, other = (preparation.read_source(section("templates", seed=seed), tmp_path) for seed in (1, 1, 2))
    for split in ("train", "validation", "test"):
        assert np.array_equal(first.images[split][:], again.images[split][:])
        assert not np.array_equal(first.images[split][:], other.images[split][:])
    assert not np.array_equal(first.images["train"][:10], first.images["validation"][:])
    assert not np.array_equal(first.images["train"][:20], first.images["test"][:])


def test_equal_draws_are_no_copies(tmp_path: Path) -> None:
    """With four possible images, some of 20 draws are equal, but each is an independent observation."""
    of = section("ising", drawn={"height": 1, "width": 2})
    raw = preparation.read_source(of, tmp_path)
    described = preparation.prepare(raw, of, DequantizeSection(), 2, tmp_path)
    prepared = load_prepared(tmp_path)
    assert len(np.unique(prepared.images["test"].reshape(20, -1), axis=0)) <= 4
    assert prepared.same_as["test"].tolist() == list(range(20))
    assert not prepared.in_train["test"].any()
    assert described.n_same == {
        "test_distinct": 20,
        "test_in_train": 0,
        "test_in_validation": 0,
        "validation_in_train": 0,
        "test_near_train": 0,
    }


def test_what_would_change_the_truth_is_refused() -> None:
    def of(dataset: dict[str, Any], **dequantize: Any) -> Any:
        return validated({**REST, "dataset": {"path": "x", **dataset}, "dequantize": dequantize})

    assert model_levels(of({"name": "ising"})) == 2
    assert model_levels(of({"name": "templates", "n_levels": 5})) == 5
    with pytest.raises(InputError, match=r"dequantize\.bits = 1 is not allowed with dataset\.name = 'templates'; log"):
        of({"name": "templates"}, bits=1)
    with pytest.raises(InputError, match=r"dequantize\.binarization = 'threshold' is not allowed with .* Write none"):
        of({"name": "templates"}, binarization="threshold")
    with pytest.raises(InputError, match=r"dataset\.drawn\.strength = -1"):
        of({"name": "ising", "drawn": {"strength": -1}})
    with pytest.raises(InputError, match=r"^params\.yaml: dataset\.drawn"):
        of({"name": "ising", "drawn": {"height": 200, "width": 200}})


def test_the_audit_knows_the_truth_of_images_that_were_drawn() -> None:
    """The true model passes, also on a part of the images; a model whose masses are too large fails."""
    data = bitsperdim.load_data("hidden_markov", drawn=SMALL, n_levels=3)
    of = distribution(section("hidden_markov", n_levels=3))
    assert data.log_p_true is not None
    assert np.allclose(data.log_p_true, of.log_p(data.images))

    def log_prob(x: torch.Tensor, added: float = 0.0) -> torch.Tensor:
        return torch.from_numpy(of.log_p(x.numpy())) + added

    result = bitsperdim.evaluate(log_prob, data, offers="log_prob", inputs="integers")
    assert "  above truth     0.000000 +- 0.000000 (paired, bits/dim)\n" in result.summary()
    for subset in (None, 12):
        found = bitsperdim.audit(log_prob, data, offers="log_prob", inputs="integers", subset=subset, seconds=0.1)
        assert found["known truth"].status == "passed"
    wrong = bitsperdim.audit(lambda x: log_prob(x, 0.5), data, offers="log_prob", inputs="integers", seconds=0.1)
    assert wrong["known truth"].is_failed
    arrays = bitsperdim.estimate_of_arrays(data.log_p_true + 0.5, images=data)
    assert bitsperdim.audit(arrays, seconds=0.1)["known truth"].is_failed


def test_what_is_drawn_is_said_where_nothing_is() -> None:
    with pytest.raises(InputError, match=r"^drawn is not allowed with 'digits', whose images are not drawn\.$"):
        bitsperdim.load_data("digits", drawn={"height": 4})
    with pytest.raises(InputError, match=r"^drawn\.heigth is not a known key"):
        bitsperdim.load_data("ising", drawn={"heigth": 4})
