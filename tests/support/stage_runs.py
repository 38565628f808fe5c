"""A folder in which training stages run as real processes, on few and small images."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import torch

from bitsperdim import models
from bitsperdim.config.params import read_params
from bitsperdim.core.files import write_csv
from bitsperdim.data import preparation
from bitsperdim.data.prepared import load_prepared
from bitsperdim.runtime.curve import COLUMNS
from bitsperdim.sources.base import RawImages
from bitsperdim.training.trainer import train
from support import warm


class StageFolder:
    """Parameters and images; five steps an epoch, four epochs.

    Attributes:
        folder: where stages run.
        tests: where the scripts of the tests are.
    """

    def __init__(self, folder: Path, repository: Path, params: str) -> None:
        self.folder, self.repository, self.tests = folder, repository, repository / "tests"
        text = re.sub(r"epochs: \d+", "epochs: 4", params).replace("batch_size: 64", "batch_size: 16")
        (folder / "params.yaml").write_text(text, encoding="utf-8")
        (folder / "logs").mkdir()
        given = read_params(folder / "params.yaml")
        images = np.random.default_rng(0).integers(17, size=(110, 1, 8, 8), dtype=np.uint8)
        preparation.prepare(RawImages({"train": images}, {}), given.dataset, given.dequantize, 17, folder / "images")

    def change(self, *changes: tuple[str, str]) -> None:
        """Replace text in the parameters."""
        path = self.folder / "params.yaml"
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def run(self, *launcher: str, stage: str, model: str) -> subprocess.CompletedProcess[str]:
        """Run a stage by itself, or by Python with other arguments in front."""
        paths = os.pathsep.join([str(self.repository / "src"), str(self.tests)])
        environment = {**os.environ, "PYTHONPATH": paths, "BITSPERDIM_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        script = str(self.repository / "stages" / f"{stage}.py")
        arguments = [model, "images", f"models/{model}", "curve.csv"]
        command = [warm.python(), *launcher, script, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def in_one_process(self, model: str) -> tuple[list[float], bytes]:
        """The curve, and the file of the weights, of the same training in this process."""
        params, images = read_params(self.folder / "params.yaml"), load_prepared(self.folder / "images")
        section = params.section(model)
        trained = train(model, section, params.train, images, seed=0, device=torch.device("cpu"))
        other = self.folder / "other"
        models.save(trained.model, section.family, section.hyperparameters, other / "models" / model / "0")
        write_csv(other / "curve.csv", COLUMNS, trained.curve)
        return self.results(model, "other")

    def results(self, model: str, folder: str = ".") -> tuple[list[float], bytes]:
        """The numbers of the training curve, and the file of the weights."""
        with (self.folder / folder / "curve.csv").open() as file:
            numbers = [float(value) for row in csv.DictReader(file) for value in row.values()]
        return numbers, (self.folder / folder / "models" / model / "0" / "weights.safetensors").read_bytes()
