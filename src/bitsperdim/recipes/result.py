"""Result files of a finished recipe: ``recipes/results/<name>.json``, and ``<name>.npz`` and ``<name>.csv`` beside it.

The JSON file has the metrics (and a bound at each smaller K), the parameters, the commit and whether the code differed
from it (null with the reason if that is unknown), devices and times, hashes of data and weights, and the published
numbers. If models are the same flow with different dequantization noise, it also has their paired differences.

The .npz file has log P(x) of every test image, so that two results can be compared image by image. If test images occur
several times, it also has ``/same_as``, the index of the first equal image. The .csv file has the training curve of
every model and seed, by images presented and, if the log of the same training run exists, by seconds. The file names of
the sizes ``long`` and ``gpu`` end in ``-long`` and ``-gpu``.

Invariants (``tests/recipes/test_running.py``): the mean of the stored log-likelihoods is the number in the JSON file; a
result that does not fit its recipe is refused; copies of an image are recorded (``test_copies_are_kept``); the stored
curve is that of the run (``test_the_curve_is_kept``).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitsperdim.config.params import model_section
from bitsperdim.config.variants import ways_of_dequantizing
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import read_json, write_csv, write_json, write_npz
from bitsperdim.core.metrics import Metrics
from bitsperdim.core.units import bits_per_dim, nats_to_bits_per_dim
from bitsperdim.core.yardsticks import ImagesMetrics
from bitsperdim.estimators.paired import paired_difference
from bitsperdim.recipes import weights
from bitsperdim.recipes.recipe import RESULTS, Recipe, SizeName, merged, reading_result, result_name
from bitsperdim.recipes.running import Finished
from bitsperdim.runtime import curve

SAME_AS = "/same_as"  # stored beside the arrays of models; no model can have this name
CURVE = ("model", "seed", "epoch", "step", "n_presented", curve.SECONDS, "train_bpd", "validation_bpd")
SHARED = ("dataset", "dequantize", "models", "seeds", "train", "evaluate")


def collect(root: Path, recipe: Recipe, size: SizeName, finished: Finished) -> Path:
    """Write the result of a finished run; return the path of its JSON file.

    Raises:
        InputError: the run has other parameters than the recipe has now, or a file of the run is damaged.
    """
    params = finished.params
    models = list(params["models"])
    if merged(params, recipe.changes(size)) != params:
        raise InputError(
            f"The finished run {finished.name!r} has other parameters than recipes/{recipe.name}.yaml has now; run the "
            f"recipe again."
        )
    path = root / RESULTS / f"{result_name(recipe.name, size)}.json"
    with reading_result(Path(finished.name)):
        content, arrays = _content(recipe, size, finished, params, models)
        kept = weights.small_enough(finished, models, params["seeds"])
        rows = [row for model in models for row in _curve(finished, model, params["seeds"])]
    write_npz(path.with_suffix(".npz"), arrays)
    write_csv(path.with_suffix(".csv"), CURVE, rows)
    write_json(path, content)
    weights.keep(root / weights.WEIGHTS / path.stem, kept)
    return path


def _content(
    recipe: Recipe, size: SizeName, finished: Finished, params: Mapping[str, Any], models: list[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of the JSON file and the arrays of the .npz file."""
    path = "results/dequantize/metrics.json"
    data = ImagesMetrics.read(finished.read(path), f"{path} of {finished.name}").as_record()
    description = json.loads(finished.read("data/dequantized/description.json"))
    arrays: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {}
    same_as: np.ndarray | None = None
    for model in models:
        digests = {
            str(seed): hashlib.sha256(finished.read(f"models/{model}/{seed}/weights.safetensors")).hexdigest()
            for seed in params["seeds"]
        }
        numbers, arrays[model], same_as = _numbers(finished, model, params["seeds"])
        results[model] = {**numbers, "weights_sha256": digests}
    hashes = {split: description[f"{split}_sha256"] for split in ("train", "validation", "test")}
    content: dict[str, Any] = {
        "recipe": recipe.name,
        "title": recipe.content.title,
        "size": size,
        "experiment": finished.name,
        **finished.provenance.as_record(),
        "params": {key: params[key] for key in (*SHARED, *models)},
        "seeds": list(params["seeds"]),
        "data": {"protocol": description["protocol"], "sha256": hashes, "n_images": description["n_images"]},
        "yardsticks": {key: value for key, value in data.items() if key.endswith("_bpd")},
        "models": results,
        "dequantizations": dequantizations(params, arrays, results, tuple(description["image_shape"]), same_as),
        "published": [reference.model_dump() for reference in recipe.content.published],
        **_costs(finished, ["download", "dequantize", *(f"{s}-{m}" for m in models for s in ("train", "evaluate"))]),
    }
    if same_as is not None and len(np.unique(same_as)) < len(same_as):
        arrays[SAME_AS] = same_as
    return content, arrays


def _curve(finished: Finished, model: str, seeds: list[int]) -> list[dict[str, str]]:
    """Return the training curve of a model with the keys :data:`CURVE`; unknown values are empty."""
    rows = curve.read_rows(finished.read(f"results/{model}/training_curve.csv").decode())
    if {int(row["seed"]) for row in rows} != set(seeds):
        raise ValueError(f"training_curve.csv of {model} has other seeds than the run")
    path = finished.logs / f"train-{model}.csv"
    log = curve.read_rows(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []
    seconds = curve.seconds_of(rows, log)
    timed = [{**row, "model": model, curve.SECONDS: at} for row, at in zip(rows, seconds, strict=True)]
    return [{key: row.get(key, "") for key in CURVE} for row in timed]


def _numbers(finished: Finished, model: str, seeds: list[int]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return a model's numbers for the JSON file, log P(x) of its images (seeds, N), and their copies (N,)."""
    path = f"results/{model}/metrics.json"
    metrics = Metrics.read(finished.read(path), f"{path} of {finished.name}")
    bounds = csv.DictReader(io.StringIO(finished.read(f"results/{model}/bound_against_k.csv").decode()))
    by_samples = {row["n_samples"]: float(row["nll_nats"]) for row in bounds}
    per_image = finished.read(f"results/{model}/per_image.csv").decode()
    log_p = of_images(per_image, "log_p", seeds)
    if log_p.shape[1] != metrics.n_images or not np.isclose(-log_p.mean(), metrics.nll_nats, rtol=1e-6):
        raise ValueError(f"per_image.csv of {model} does not agree with its metrics.json")
    same_as = of_images(per_image, "same_as", seeds)[0].astype(np.int64)
    numbers = {"metrics": metrics.as_record(), "nll_nats_by_n_samples": by_samples}
    return numbers, log_p.astype(np.float32), same_as


def rescored(
    content: dict[str, Any], arrays: dict[str, np.ndarray], finished: Finished
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a result with the numbers of a run that scored its weights again.

    Args:
        content: content of the JSON file.
        arrays: arrays of the .npz file.
        finished: the run, with the weights, images and training settings of the result.

    Raises:
        ValueError: the images differ, or the numbers of the run do not agree with each other.
    """
    description = json.loads(finished.read("data/dequantized/description.json"))
    if description["test_sha256"] != content["data"]["sha256"]["test"]:
        raise ValueError("the test images are not those of the result")
    models, same_as, params = dict(content["models"]), None, finished.params
    for model in models:
        numbers, arrays[model], same_as = _numbers(finished, model, list(params["seeds"]))
        models[model] = {**models[model], **numbers}
    trained = {label: log for label, log in content["stages"].items() if not label.startswith("evaluate@")}
    new = _costs(finished, [f"evaluate-{model}" for model in models])
    stages = {**trained, **new["stages"]}
    own = [f"{stage}@{model}" for model in models for stage in ("train", "evaluate")]
    all_known = all(label in stages for label in own)
    shape = tuple(description["image_shape"])
    return {
        **content,
        "params": {**content["params"], "evaluate": params["evaluate"]},
        "models": models,
        "dequantizations": dequantizations(params, {name: arrays[name] for name in models}, models, shape, same_as),
        "stages": stages,
        "wall_seconds": round(sum(stages[label]["seconds"] for label in own), 1) if all_known else None,
        "device": ", ".join(sorted({log["device"] for log in stages.values() if "device" in log})) or None,
        "rescored": finished.provenance.as_record(),
    }, arrays


def dequantizations(
    params: Mapping[str, Any],
    log_p: Mapping[str, np.ndarray],
    results: Mapping[str, Any],
    shape: tuple[int, int, int],
    same_as: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Return the paired differences between models that are the same flow with different dequantization noise."""
    names = [name for name in log_p if results[name]["metrics"]["kind"] != "density"]
    groups = []
    for reference, members in ways_of_dequantizing({name: model_section(name, params[name]) for name in names}):
        differences = {}
        for name in members:
            if name != reference:
                pair = paired_difference(log_p[name].mean(0), log_p[reference].mean(0), same_as)
                differences[name] = {
                    "log_p_nats": pair.nats,
                    "log_p_nats_standard_error": pair.standard_error,
                    "bpd": bits_per_dim(pair.nats, shape),
                    "bpd_standard_error": nats_to_bits_per_dim(pair.standard_error, shape),
                }
        groups.append({"reference": reference, "differences": differences})
    return groups


def of_images(per_image: str, column: str, seeds: list[int]) -> np.ndarray:
    """Return a column of ``per_image.csv``, (seeds, N)."""
    rows = list(csv.DictReader(io.StringIO(per_image)))
    return np.asarray([[float(row[column]) for row in rows if int(row["seed"]) == seed] for seed in seeds])


def _costs(finished: Finished, stages: list[str]) -> dict[str, Any]:
    """Return time, memory and device of the last run of each stage under these parameters.

    A stage whose result was already in DVC's cache, from another recipe on the same data, has no log here and is left
    out. ``wall_seconds`` is the time of training and evaluation of all models; it is None if a log is missing.
    """
    digest = hashlib.sha256(finished.read("params.yaml")).hexdigest()
    costs: dict[str, Any] = {}
    for stage in stages:
        path = finished.logs / f"{stage}.json"
        log = read_json(path) if path.exists() else {}
        if log.get("params_sha256") != digest:
            continue
        log = {key: value for key, value in log.items() if key not in ("stage", "params_sha256")}
        log["seconds"] = round(log["seconds"] + log.pop("earlier_seconds", 0.0), 2)
        costs[stage.replace("-", "@", 1)] = log
    own = [stage.replace("-", "@", 1) for stage in stages if "-" in stage]
    seconds = [costs[stage]["seconds"] for stage in own if stage in costs]
    devices = sorted({log["device"] for log in costs.values() if "device" in log})
    return {
        "stages": costs,
        "wall_seconds": round(sum(seconds), 1) if len(seconds) == len(own) else None,
        "device": ", ".join(devices) or None,
    }
