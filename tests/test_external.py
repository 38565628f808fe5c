"""Models from elsewhere in the pipeline, by DVC: two of one file, with weights and trained here; then other weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from bitsperdim.config.params import STUDIES
from support import warm
from support.external_files import MADE, PARTS
from support.results import text_of
from support.small_params import made_small

IDENTITY = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def weights(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = scale * torch.randn(17, 64, 64, generator=generator)
    save_file({"weight": weight, "tied": weight.clone(), "bias": torch.zeros(64, 17)}, "external/w.safetensors")


def run(*command: str, repository: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "BITSPERDIM_DEVICE": "cpu", **IDENTITY}
    environment["PATH"] = warm.path()
    command = command if command[0] == "git" else (warm.python(), "-m", *command)
    done = subprocess.run(
        command, env={**environment, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics(model: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("results", model, "metrics.json").read_text(encoding="utf-8"))
    return content


def test_a_model_from_elsewhere_goes_through_the_pipeline(tmp_path: Path, repository: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("src", "stages"):
        shutil.copytree(repository / part, part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("recipes", "data/own", "external"):
        Path(name).mkdir(parents=True)
    Path("data/own/README.md").write_text("Nothing.\n", encoding="utf-8")
    Path("recipes/README.md").write_text("Nothing.\n", encoding="utf-8")
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(repository / name, name)
    pipeline = YAML(typ="safe").load((repository / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline = {"stages": {name: stage for name, stage in pipeline["stages"].items() if name not in STUDIES}}
    mine = {"family": "external", "file": "external/made.py"}
    changes = {
        "models": ["mine", "fitted"],
        "studies": [],
        "mine": {**mine, "weights": "external/w.safetensors", "train_images": "external/train.npz"},
        "fitted": {**mine, "fit": True, "arguments": {"scale": 0.01}, "train": {"learning_rate": 0.02}},
    }
    with Path("dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(pipeline, file)
    text = made_small((repository / "params.yaml").read_text(encoding="utf-8"), changes)
    Path("params.yaml").write_text(text, encoding="utf-8")
    Path("external/made.py").write_text(MADE, encoding="utf-8")
    Path("external/parts.py").write_text(PARTS, encoding="utf-8")
    weights(1.0)
    np.savez("external/train.npz", train=np.zeros((1, 8, 8), dtype=np.uint8))
    run("git", "init", "--quiet", "--initial-branch=main", repository=repository)
    run("dvc", "init", "--quiet", repository=repository)

    run("dvc", "repro", repository=repository)
    run("git", "add", "--all", repository=repository)
    run("git", "commit", "--quiet", "--message", "First", repository=repository)
    first, fitted = metrics("mine"), metrics("fitted")
    assert fitted["bpd"] + 1 < first["bpd"] < 10
    assert first["verified"]
    assert (first["kind"], first["n_training_images"], first["origin"]["offers"]) == ("exact", 0, "logits")
    assert set(first["origin"]) == {"file", "sha256", "offers", "weights", "weights_sha256"}
    assert first["origin"]["sha256"] == fitted["origin"]["sha256"]
    page = text_of(Path("report/index.html").read_text(encoding="utf-8"))
    assert f"Made elsewhere: external/made.py (SHA-256 {first['origin']['sha256'][:12]}), asked by logits, with" in page
    assert "Scored as delivered, not trained here: " in page
    assert "A model that was made elsewhere, from a file below external/." in page

    weights(0.5)
    images = np.load("data/dequantized/test/images.npy")
    np.savez("external/train.npz", train=images[:20, 0])
    assert set(re.findall(r"Running stage '([^']*)'", run("dvc", "repro", "evaluate@mine", repository=repository))) == {
        *("preflight", "train@mine", "evaluate@mine")
    }
    assert metrics("mine")["n_training_images"] == 20
    assert metrics("mine")["origin"]["weights_sha256"] != first["origin"]["weights_sha256"]
    said = " ".join(run("bitsperdim.cli", "compare", "HEAD:mine", ":mine", repository=repository).split())
    assert "the content of external/train.npz, external/w.safetensors" in said
    assert "20 of the 359 test images are training images too" in said
    said = run("bitsperdim.cli", "leaderboard", repository=repository)
    assert "mine" in said
    assert "fitted" in said
