"""Stored weights of a recipe's result are scored again without training, in seconds and without DVC."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsperdim import models
from bitsperdim.core.git import Provenance
from bitsperdim.recipes import weights
from bitsperdim.recipes.running import Finished
from support.recipe_runs import call, copied, write_recipe

TINY: dict[str, Any] = {
    "title": "Tiny",
    "params": {
        "models": ["vae"],
        "seeds": [0, 1],
        "studies": [],
        "vae": {"train": {"epochs": 1}},
        "evaluate": {"n_samples": 8, "n_pictures": 4, "proposal": "encoder"},
    },
    "sizes": {"cpu": {"minutes": 1, "params": {}}, "gpu": {"minutes": 1, "params": {}}},
    "published": [],
}


def changed(root: Path, **changes: Any) -> None:
    write_recipe(root, "tiny", {**TINY, "params": {**TINY["params"], **changes}})


def result(root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = root / "recipes" / "results" / "tiny.json"
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text("utf-8")), dict(arrays)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the code with one small recipe, run to its end."""
    folder = tmp_path_factory.mktemp("copy")
    copied(repository, folder)
    changed(folder)
    done = call(folder, "tiny", "--without-dvc")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "runs")  # as in a fresh clone
    return folder


@pytest.fixture
def root(run_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder for one test."""
    shutil.copytree(run_once, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_same_settings_give_the_same_numbers(root: Path) -> None:
    """The numbers of all images are identical to the bit, without training or studies; the training's commit stays."""
    before, arrays = result(root)
    before["commit"], before["provenance_unknown_because"], before["has_local_changes"] = "0" * 40, None, True
    (root / "recipes" / "results" / "tiny.json").write_text(json.dumps(before), "utf-8")
    done = call(root, "tiny", "--rescore")
    assert done.returncode == 0, done.stderr
    started = [line[8:-1] for line in done.stdout.splitlines() if line.startswith("Running ")]
    assert started == ["preflight", "download", "dequantize", "evaluate@vae"]
    after, again = result(root)
    assert np.array_equal(arrays["vae"], again["vae"])
    assert after["models"] == before["models"]
    assert after["rescored"] == Provenance.recorded(after["rescored"]).as_record()
    others = {key for key in before if after[key] != before[key]}
    assert others <= {"params", "stages", "wall_seconds"}  # the section `evaluate`, and times
    assert after["stages"]["train@vae"] == before["stages"]["train@vae"]
    assert after["wall_seconds"] == pytest.approx(
        sum(after["stages"][f"{stage}@vae"]["seconds"] for stage in ("train", "evaluate")), abs=0.06
    )
    assert "is already done" in call(root, "tiny", "--rescore").stdout


def test_other_settings_of_the_evaluation(root: Path) -> None:
    before, _ = result(root)
    changed(root, evaluate={**TINY["params"]["evaluate"], "proposal": "refined", "n_samples": 16})
    done = call(root, "tiny", "--rescore")
    assert done.returncode == 0, done.stderr
    after, arrays = result(root)
    old, new = (content["models"]["vae"]["metrics"] for content in (before, after))
    assert (old["proposal"], new["proposal"]) == ("encoder", "refined")
    assert (old["n_samples"], new["n_samples"]) == (8, 16)
    assert after["params"]["evaluate"]["n_samples"] == 16
    assert new["nll_nats"] < old["nll_nats"]
    assert -arrays["vae"].mean() == pytest.approx(new["nll_nats"], rel=1e-6)
    assert after["models"]["vae"]["weights_sha256"] == before["models"]["vae"]["weights_sha256"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vae": {"train": {"epochs": 2}}}, "vae"),
        ({"vae": {"train": {"epochs": 1}, "latent_size": 3}}, "vae"),
        ({"dequantize": {"bits": 2}}, "dequantize"),
        ({"seeds": [0]}, "seeds"),
    ],
)
def test_a_recipe_that_trains_otherwise_is_refused(root: Path, changes: dict[str, Any], named: str) -> None:
    changed(root, **changes)
    done = call(root, "tiny", "--rescore")
    assert done.returncode == 1
    assert f"recipes/results/tiny.json was made with other values in {named} than recipes/tiny.yaml and" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "runs").exists()


def test_other_weights_are_refused(root: Path) -> None:
    """A changed file, a missing file and a missing result give one sentence each, before anything is computed."""
    path = root / "recipes" / "weights" / "tiny" / "vae" / "1" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = call(root, "tiny", "--rescore").stderr
    assert "vae/1/weights.safetensors has another SHA-256 than the weights of the result; run `bitsperdim" in said
    path.unlink()
    said = call(root, "tiny", "--rescore").stderr
    assert "weights/tiny/vae/1/weights.safetensors does not exist: only weights of at most 4 MiB are stored" in said
    said = call(root, "tiny", "--rescore", "--size", "gpu").stderr
    assert "There is no result recipes/results/tiny-gpu.json whose weights could be scored; run" in said
    assert not (root / "runs").exists()


@pytest.mark.parametrize("flag", ["--queue", "--collect"])
def test_flags_that_say_nothing_together(root: Path, flag: str) -> None:
    assert f"--rescore and {flag} exclude each other." in call(root, "tiny", "--rescore", flag).stderr


def test_small_weights_are_kept_and_large_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored weights can be loaded; large weights, those of users' models and of earlier runs are not stored."""
    model = models.build("histogram", {"pseudocount": 1.0}, (1, 2, 2), 3)
    for name, seed in (("small", 0), ("foreign", 0), ("large", 1)):
        models.save(model, "histogram", {"pseudocount": 1.0}, tmp_path / "models" / name / str(seed))
    description = tmp_path / "models" / "foreign" / "0" / "model.json"
    description.write_text(json.dumps({**json.loads(description.read_text("utf-8")), "origin": {}}), "utf-8")
    large = tmp_path / "models" / "large" / "1" / "weights.safetensors"
    sizes = [len(path.read_bytes()) for path in (tmp_path / "models" / "small" / "0").iterdir()]
    monkeypatch.setattr(weights, "LARGEST", sum(sizes))
    large.write_bytes(large.read_bytes() + b" ")
    finished = Finished(
        "x", lambda path: (tmp_path / path).read_bytes(), {}, tmp_path, Provenance(None, None, "no git")
    )
    kept = tmp_path / "kept"
    (kept / "earlier" / "0").mkdir(parents=True)
    weights.keep(kept, weights.small_enough(finished, ["small", "foreign"], [0]))
    assert [path.name for path in kept.iterdir()] == ["small"]
    assert models.load(kept / "small" / "0").n_levels == 3
    weights.keep(kept, weights.small_enough(finished, ["large"], [1]))
    assert not kept.exists()
