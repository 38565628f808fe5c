"""The study gives the numbers of models that are trained and scored one by one on images of a known distribution."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.known import ExcessSection
from bitsperdim.core.errors import InputError
from bitsperdim.core.units import NATS_PER_BIT
from bitsperdim.data.prepared import SPLITS
from bitsperdim.estimators.truth import LEVEL
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.results.known import MadeOnceMetrics
from bitsperdim.results.reading import read_stored
from bitsperdim.sources.known import KNOWN, Ising
from bitsperdim.studies.known import __main__ as made_once
from bitsperdim.studies.known import excess
from bitsperdim.studies.known.drawn import drawn
from bitsperdim.training.trainer import train
from support.cases import tiny_families
from support.small_params import SMALL

CPU = torch.device("cpu")
SHAPE, LEVELS = (1, 2, 2), 3
EVERY = np.array(list(itertools.product(range(LEVELS), repeat=4)), dtype=np.uint8).reshape(-1, *SHAPE)
N_IMAGES = {"train": 200, "validation": 20, "test": 300}


def section_of(*families: str, **changes: object) -> ExcessSection:
    return ExcessSection.model_validate(
        {
            "sources": ["ising"],
            "height": 2,
            "width": 2,
            "n_levels": LEVELS,
            "n_samples": 6,
            **{f"n_{split}": n for split, n in N_IMAGES.items()},
            "families": tiny_families(*families),
            **changes,
        }
    )


def test_the_numbers_are_those_of_models_trained_and_scored_one_by_one() -> None:
    section = section_of("histogram", "vae", sources=["ising", "hidden_markov"])
    metrics, tables = excess.study(section, TrainSection(), 5, CPU)
    assert list(metrics["sources"]) == section.sources
    assert [(row["source"], row["model"]) for row in tables["excess"]] == list(
        itertools.product(section.sources, section.families)
    )
    for row in tables["excess"]:
        source = KNOWN[row["source"]](SHAPE, LEVELS)
        images = drawn(source, N_IMAGES, 5)
        test = images.images["test"]
        model = train("it", section.families[row["model"]], TrainSection(), images, seed=5, device=CPU).model
        scores = excess.scored(model.eval(), images, 6, 5)
        difference = source.log_p(test) - scores.log_p.numpy()
        assert row["excess_bpd"] == pytest.approx(difference.mean() / 4 / NATS_PER_BIT, abs=1e-9)
        spread = difference.std(ddof=1) / math.sqrt(len(difference))
        assert row["excess_bpd_standard_error"] == pytest.approx(spread / 4 / NATS_PER_BIT)
        assert row["evidence_nats"] == pytest.approx(-difference.sum())
        assert row["bpd"] == pytest.approx(-float(scores.log_p.mean()) / 4 / NATS_PER_BIT)
        assert row["critical_nats"] == pytest.approx(-math.log(LEVEL))
        assert (row["is_refuted"], row["n_parameters"]) == (False, model.n_parameters)
        assert (row["kind"], row["n_samples"]) == (("exact", 1) if row["model"] == "histogram" else ("lower", 6))
        assert metrics["sources"][row["source"]]["models"][row["model"]] == {
            key: value for key, value in row.items() if key not in ("source", "model")
        }
        truth = metrics["sources"][row["source"]]["truth_bpd"]
        assert truth == pytest.approx(-source.log_p(test).mean() / 4 / NATS_PER_BIT)
        assert row["bpd"] - truth == pytest.approx(row["excess_bpd"])


def test_the_excess_is_the_divergence_by_enumeration() -> None:
    """Model and truth are summed over all images; the limit of 4 standard errors fails once in 16,000."""
    section = section_of("histogram", strength=1.0)
    metrics, _ = excess.study(section, TrainSection(), 0, CPU)
    source = Ising(SHAPE, LEVELS, 1.0)
    images = drawn(source, N_IMAGES, 0)
    model = train("it", section.families["histogram"], TrainSection(), images, seed=0, device=CPU).model.eval()
    found = estimate(model, torch.from_numpy(EVERY), 1, chunk_size=1, batch_size=100).log_p.numpy()
    truth = source.log_p(EVERY)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(truth).sum() == pytest.approx(1)
    divergence = float((np.exp(truth) * (truth - found)).sum()) / 4 / NATS_PER_BIT
    said = metrics["sources"]["ising"]
    row = said["models"]["histogram"]
    assert divergence > 0.1
    assert row["excess_bpd"] == pytest.approx(divergence, abs=4 * row["excess_bpd_standard_error"])
    entropy = -float((np.exp(truth) * truth).sum()) / 4 / NATS_PER_BIT
    for name in ("truth", "entropy_rate"):
        assert said[f"{name}_bpd"] == pytest.approx(entropy, abs=4 * said[f"{name}_bpd_standard_error"])
    ratio = said["truth_bpd_standard_error"] / said["entropy_rate_bpd_standard_error"]
    assert ratio == pytest.approx(math.sqrt(sum(N_IMAGES.values()) / N_IMAGES["test"]), rel=0.15)
    assert entropy < said["independent_bpd"] <= said["uniform_bpd"] + 0.01
    assert said["uniform_bpd"] == pytest.approx(math.log(LEVELS) / NATS_PER_BIT)


def test_a_model_that_beats_the_truth_is_refuted_and_the_truth_is_not() -> None:
    source = Ising(SHAPE, LEVELS)
    images = drawn(source, N_IMAGES, 1)
    truth = source.log_p(images.images["test"])
    section = section_of("histogram").families["histogram"]
    model = train("it", section, TrainSection(), images, seed=1, device=CPU).model.eval()
    scores = excess.scored(model, images, 1, 1)

    def verdict(added: float) -> dict:
        log_p = torch.from_numpy(truth + added)
        return excess.of_model(replace(scores, log_p=log_p, elbo=log_p), model, images, truth)

    assert (verdict(0.0)["is_refuted"], verdict(0.0)["excess_bpd"]) == (False, 0)
    least = -math.log(LEVEL) / len(truth)
    assert verdict(1.01 * least)["is_refuted"]
    assert not verdict(0.99 * least)["is_refuted"]
    assert verdict(1.01 * least)["excess_bpd"] < 0


def test_draws_are_the_same_again_and_splits_are_draws_of_their_own() -> None:
    source = Ising((3, 2, 4), 3)
    first, again, other = (drawn(source, N_IMAGES, seed) for seed in (0, 0, 1))
    for split in SPLITS:
        assert np.array_equal(first.images[split], again.images[split])
        assert not np.array_equal(first.images[split], other.images[split])
        assert first.images[split].shape == (N_IMAGES[split], 3, 2, 4)
    assert not np.array_equal(first.images["train"][:20], first.images["validation"])
    assert not np.array_equal(first.images["train"], first.images["test"][:200])
    for split in SPLITS[1:]:
        assert 0 <= first.noise[split].min() < first.noise[split].max() < 1
    assert first.description.protocol == f"ising-{source.tag}/none/2x4x3/L3/test300/given-none"
    assert first.description.n_images == N_IMAGES


def test_what_was_made_once_is_of_the_committed_settings(repository: Path) -> None:
    settings = made_once.read_settings(repository / "docs" / "known_truths.yaml")
    made = read_stored(repository / "docs" / "known_truths.json", MadeOnceMetrics)
    section, found = settings.excess, made.excess
    for key in ("n_images", "n_replicates"):
        assert getattr(made.estimators, key) == getattr(settings.estimators, key)
        assert getattr(made.estimators, f"n_annealed_{key[2:]}") == getattr(settings.estimators.annealed, key)
    assert sorted({row.n_samples for row in made.tables.estimators}) == settings.estimators.n_samples
    assert sorted({row.n_steps for row in made.tables.annealing}) == settings.estimators.annealed.n_steps
    assert set(found.sources) == set(section.sources) == set(KNOWN)
    for source in found.sources.values():
        assert {name: model.family for name, model in source.models.items()} == {
            name: each.family for name, each in section.families.items()
        }
    for key in ("n_train", "n_validation", "n_test", "n_levels", "n_samples"):
        assert getattr(found, key) == getattr(section, key)
    assert tuple(found.image_shape) == section.image_shape
    assert found.n_refuted == 0


def test_settings_that_are_none_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, result = tmp_path / "settings.yaml", tmp_path / "result.json"
    for text, words in (
        ("3", f"{path} must be a mapping with the keys of the section known, but it holds 3."),
        ("excess: {height: tall}", f"{path}: known.excess.height = 'tall' is not allowed; it must be an integer."),
        (
            "excess: {families: {x: {family: rnn}}}",
            f"{path}: known.excess.families.x.family = 'rnn' is not a family; choose ",
        ),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            made_once.read_settings(path)
        assert str(caught.value).startswith(words)
    monkeypatch.setattr("sys.argv", ["known", str(path), str(result)])
    with pytest.raises(SystemExit, match="is not a family"):
        made_once.main()
    assert not result.exists()
    small = {"sources": ["templates"], "height": 2, "width": 2, "n_train": 20, "n_validation": 5, "n_test": 5}
    settings = {"excess": {**small, "families": tiny_families("histogram")}, "estimators": SMALL["known"]["estimators"]}
    path.write_text(json.dumps(settings), encoding="utf-8")
    made_once.main()
    found = read_stored(result, MadeOnceMetrics)
    assert list(found.excess.sources) == ["templates"]
    assert {row.model for row in found.tables.estimators} == set(found.estimators.models)
    monkeypatch.setattr("sys.argv", ["known"])
    with pytest.raises(SystemExit, match="usage: "):
        made_once.main()
