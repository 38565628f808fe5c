"""A small workspace of stages, without DVC: parameters, prepared images, and what the stages wrote."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from bitsperdim import models
from bitsperdim.config.params import read_params
from bitsperdim.data import preparation
from bitsperdim.recipes.recipe import merged
from bitsperdim.sources import RawImages
from support import warm

ENVIRONMENT = {"BITSPERDIM_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
TRAIN = ("train.py", "vae", "images", "models/vae", "results/vae/training_curve.csv")
EVALUATE = ("evaluate.py", "vae", "models/vae", "images", "results/vae")
CHANGES = {
    "models": ["vae"],
    "seeds": [0, 1],
    "train": {"warmup_steps": 5, "average_decay": 0.9, "patience": None, "validation_samples": 4},
    "vae": {"latent_size": 4, "hidden_sizes": [64], "train_samples": 2},
    "evaluate": {
        "n_samples": 300,
        "batch_size": 7,
        "n_pictures": 9,
        "refined": {"n_steps": 20, "n_samples": 8, "n_pilot": 32, "n_rounds": 1},
        "n_contrast": 20,
        "annealed": {"n_images": 6, "n_simulated": 4, "n_chains": 200, "n_steps": 10, "n_leapfrog": 2},
    },
}


def prepare(folder: Path, repository: Path, changes: dict[str, Any], n_images: int = 400) -> None:
    """Write ``params.yaml`` and the folder ``images``: random ones, 8x8 in four levels, a quarter for the test."""
    params = YAML(typ="safe").load((repository / "params.yaml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(merged(merged(params, CHANGES), {"dataset": {"test_fraction": 0.25}, **changes}), file)
    read = read_params(folder / "params.yaml")
    rng = np.random.default_rng(0)
    images = (rng.random((n_images, 1, 8, 8)) * rng.integers(1, 5, size=(n_images, 1, 1, 1))).astype(np.uint8)
    preparation.prepare(RawImages({"train": images}, {}), read.dataset, read.dequantize, 4, folder / "images")


def make_models(folder: Path) -> None:
    """Write models as training would, with the weights that it starts from, a little larger."""
    params = read_params(folder / "params.yaml")
    section = params.section("vae")
    for seed in params.seeds:
        model = models.build("vae", section.hyperparameters, (1, 8, 8), 4, seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        models.save(model, "vae", section.hyperparameters, folder / "models" / "vae" / str(seed))


def run(
    folder: Path, repository: Path, script: str, *arguments: str, launcher: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a stage to its end."""
    return subprocess.run(
        [warm.python(), *launcher, str(repository / "stages" / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository / "src"), **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def written(folder: Path, *names: str) -> dict[str, bytes]:
    """Every one of some files, and every file below some folders, whatever its name."""
    files = [path for name in names for path in (folder / name, *(folder / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}
