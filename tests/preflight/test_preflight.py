"""Preflight removes the results of unlisted models and nothing else, and refuses wrong parameters before any work."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from bitsperdim.config.params import STUDIES, Params, validate
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json
from bitsperdim.preflight.last_commit import with_origin
from bitsperdim.preflight.preflight import preflight
from support.laboratory import Laboratory


@pytest.fixture
def params(committed: Callable[[str], str]) -> Params:
    content = YAML(typ="safe").load(committed("params.yaml"))
    return validate(content).model_copy(update={"models": ["vae"]})


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_results_of_unlisted_models_go_and_others_stay(params: Params, tmp_path: Path) -> None:
    results = tmp_path / "results"
    fill(results, "vae/metrics.json", "dequantize/metrics.json", "old/metrics.json", "old/pictures/samples.png")
    fill(results, "mine/metrics.json", "mine/notes.txt", "README.md", "mine/pictures/samples.png")
    fill(results, "plots/pictures/own.png", "plots/per_image.csv", "plots/metrics.json/mine.txt")
    fill(results, *(f"{study}/metrics.json" for study in STUDIES))
    preflight(params, results, tmp_path / "marker.txt")
    left = sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())
    first = ["README.md", "density_and_mass/metrics.json", "dequantize/metrics.json", "known/metrics.json"]
    first += ["mine/notes.txt", "models.json", "plots/metrics.json/mine.txt", "plots/pictures/own.png"]
    assert left == [*first, "project_delay/metrics.json", "universal_resnet/metrics.json", "vae/metrics.json"]
    assert not (results / "old").exists()
    assert read_json(results / "models.json") == {"models": ["vae"]}


def test_what_a_link_leads_to_is_not_forgotten(params: Params, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "metrics.json")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "linked").symlink_to(tmp_path / "elsewhere")
    preflight(params, tmp_path / "results", tmp_path / "marker.txt")
    assert (tmp_path / "elsewhere" / "metrics.json").exists()


def test_the_marker_is_constant(params: Params, tmp_path: Path) -> None:
    preflight(params, tmp_path / "results", tmp_path / "a.txt")
    preflight(params.model_copy(update={"models": ["iwae"]}), tmp_path / "results", tmp_path / "b.txt")
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()


def test_a_missing_file_of_own_images_stops_before_anything_is_written(params: Params, tmp_path: Path) -> None:
    dataset = params.dataset.model_copy(update={"name": "npz", "path": str(tmp_path / "no.npz")})
    fill(tmp_path / "results", "old/metrics.json")
    with pytest.raises(InputError, match="is not a file"):
        preflight(params.model_copy(update={"dataset": dataset}), tmp_path / "results", tmp_path / "marker.txt")
    assert (tmp_path / "results" / "old" / "metrics.json").exists()
    assert not (tmp_path / "marker.txt").exists()


def own(params: Params, name: str, path: Path, **changes: object) -> Params:
    """Return the parameters with the user's own data set and with further changes."""
    dataset = params.dataset.model_copy(update={"name": name, "path": str(path)})
    return params.model_copy(update={"dataset": dataset, **changes})


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_models_are_checked_for_own_images_before_any_work(params: Params, name: str, tmp_path: Path) -> None:
    """RealNVP halves the sides of images, which is impossible for 7x5 pixels, and these images have no labels."""
    images, path = np.zeros((3, 7, 5), dtype=np.uint8), tmp_path / "own"
    if name == "npz":
        path = tmp_path / "own.npz"
        np.savez(path, train=images)
    else:
        path.mkdir()
        Image.fromarray(images[0]).save(path / "a.png")
    arguments = (tmp_path / "results", tmp_path / "marker.txt")
    preflight(own(params, name, path), *arguments)
    with pytest.raises(InputError, match=r"realnvp\.n_scales"):
        preflight(own(params, name, path, models=["vae", "realnvp"]), *arguments)
    given = params.section("gated_pixelcnn").model_copy(update={"n_classes": 10})
    sections = {**params.sections, "gated_pixelcnn": given}
    with pytest.raises(InputError, match=r"gated_pixelcnn\.n_classes = 10 is not allowed"):
        preflight(own(params, name, path, models=["gated_pixelcnn"], sections=sections), *arguments)
    if name == "npz":
        np.savez(path, train=images, train_labels=np.arange(3))
        preflight(own(params, name, path, models=["gated_pixelcnn"], sections=sections), *arguments)


@pytest.mark.parametrize("key", ["vae.latent_size", "vae.laten_size"])
def test_a_value_that_is_not_of_the_last_commit_is_named(
    key: str, tmp_path: Path, repository: Path, committed: Callable[[str], str]
) -> None:
    """Both the stage and the check of the file name it; nothing is said about a value that was committed."""
    laboratory = Laboratory(tmp_path / "laboratory")
    text = committed("params.yaml")
    wrong = text.replace(
        "vae:\n  family: vae\n  latent_size: 16", f"vae:\n  family: vae\n  latent_size: 16\n  {key[4:]}: -8"
    )
    wrong = wrong.replace("  latent_size: 16\n  latent_size: -8", "  latent_size: -8")
    path = laboratory.root / "params.yaml"
    had = {"vae.latent_size": "has 16", "vae.laten_size": "does not have this key"}[key]
    origin = f" The last commit {had}: if an earlier -S wrote this value, `bitsperdim back` undoes it.\n"
    for last, now, is_named in ((text, wrong, True), (wrong, wrong, False)):
        path.write_text(last, encoding="utf-8")
        laboratory.git("add", "params.yaml")
        laboratory.git("commit", "--quiet", "-m", "Parameters")
        path.write_text(now, encoding="utf-8")
        for command in (
            [str(repository / "stages" / "preflight.py"), "results", "marker", "code"],
            ["-m", "bitsperdim.preflight", "params.yaml"],
        ):
            environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
            done = subprocess.run(
                [sys.executable, *command],
                cwd=laboratory.root,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert f"params.yaml: {key} " in done.stderr
            assert done.stderr.endswith(origin) == is_named
            assert ("The last commit" in done.stderr) == is_named


def test_where_git_cannot_tell_the_sentence_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = InputError("params.yaml: vae.latent_size = -8 is not allowed; it must be at least 1.")
    (tmp_path / "params.yaml").write_text("vae: {latent_size: -8}\n")
    assert with_origin(error, tmp_path) is error
    laboratory = Laboratory(tmp_path / "laboratory")
    (laboratory.root / "params.yaml").write_text("vae: {latent_size: -8}\n")
    assert with_origin(error, laboratory.root) is error  # no commit yet
    (laboratory.root / "params.yaml").write_text("vae: [\n")
    laboratory.git("add", "--all")
    laboratory.git("commit", "--quiet", "-m", "Broken")
    (laboratory.root / "params.yaml").write_text("vae: {latent_size: -8}\n")
    assert with_origin(error, laboratory.root) is error
    monkeypatch.setenv("PATH", str(tmp_path))
    assert with_origin(error, laboratory.root) is error
