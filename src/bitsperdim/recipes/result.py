"""What is kept of a finished recipe: ``recipes/results/<name>.json`` and ``<name>.npz`` beside it.

The JSON holds the metrics, the parameters, the commit, devices and times, the hashes of data and weights,
and the published numbers; the .npz holds log P(x) of every test image, so that two results can be
compared image by image. A GPU size has names that end in ``-gpu``.

Invariants (``tests/recipes/test_result.py``): the mean of the kept log-likelihoods is the number in the
JSON; a result that does not fit its recipe is refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from bitsperdim.files import read_json, write_json, write_npz
from bitsperdim.recipes.recipe import FOLDER, Recipe, SizeName
from bitsperdim.recipes.running import Finished

RESULTS = FOLDER / "results"
SHARED = ("dataset", "dequantize", "models", "seeds", "train", "evaluate")


def result_name(recipe: str, size: SizeName) -> str:
    """Return the name of a result's files: that of the recipe, and ``-gpu`` for the GPU size."""
    return recipe if size == "cpu" else f"{recipe}-{size}"


def collect(root: Path, recipe: Recipe, size: SizeName, finished: Finished) -> Path:
    """Write the result of a finished run; return the path of its JSON."""
    params, models = finished.params, list(finished.params["models"])
    data = json.loads(finished.read("results/dequantize/metrics.json"))
    description = json.loads(finished.read("data/dequantized/description.json"))
    arrays: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {}
    for model in models:
        weights = {}
        for seed in params["seeds"]:
            file = finished.read(f"models/{model}/{seed}/weights.safetensors")
            weights[str(seed)] = hashlib.sha256(file).hexdigest()
        metrics = json.loads(finished.read(f"results/{model}/metrics.json"))
        results[model] = {"metrics": metrics, "weights_sha256": weights}
        arrays[model] = log_likelihoods(finished.read(f"results/{model}/per_image.csv").decode(), params["seeds"])
    hashes = {split: description[f"{split}_sha256"] for split in ("train", "validation", "test")}
    content: dict[str, Any] = {
        "recipe": recipe.name,
        "title": recipe.content.title,
        "size": size,
        "experiment": finished.name,
        "commit": finished.commit,
        "has_local_changes": finished.has_local_changes,
        "params": {key: params[key] for key in (*SHARED, *models)},
        "seeds": list(params["seeds"]),
        "data": {"protocol": description["protocol"], "sha256": hashes, "n_images": description["n_images"]},
        "yardsticks": {key: value for key, value in data.items() if key.endswith("_bpd")},
        "models": results,
        "published": [reference.model_dump() for reference in recipe.content.published],
        **_costs(finished, ["download", "dequantize", *(f"{s}-{m}" for m in models for s in ("train", "evaluate"))]),
    }
    name = result_name(recipe.name, size)
    write_npz(root / RESULTS / f"{name}.npz", arrays)
    path = root / RESULTS / f"{name}.json"
    write_json(path, content)
    return path


def log_likelihoods(per_image: str, seeds: list[int]) -> np.ndarray:
    """Return log P(x) of ``per_image.csv``, (seeds, N) float32 in nats."""
    rows = list(csv.DictReader(io.StringIO(per_image)))
    columns = [[float(row["log_p"]) for row in rows if int(row["seed"]) == seed] for seed in seeds]
    return np.asarray(columns, dtype=np.float32)


def _costs(finished: Finished, stages: list[str]) -> dict[str, Any]:
    """Return time, memory and device of each stage from the logs.

    A stage that DVC took from its cache has no log of this run: its cost is not known, and neither is the sum.
    """
    digest = hashlib.sha256(finished.read("params.yaml")).hexdigest()
    costs: dict[str, Any] = {}
    for stage in stages:
        path = finished.logs / f"{stage}.json"
        log = read_json(path) if path.exists() else {}
        if log.pop("params_sha256", None) != digest:
            continue
        log.pop("stage")
        log["seconds"] = round(log["seconds"] + log.pop("earlier_seconds", 0.0), 2)
        costs[stage.replace("-", "@", 1)] = log
    whole = len(costs) == len(stages)
    devices = sorted({log["device"] for log in costs.values() if "device" in log})
    return {
        "stages": costs,
        "wall_seconds": round(sum(log["seconds"] for log in costs.values()), 1) if whole else None,
        "device": ", ".join(devices) or None,
    }
