"""The default parameters, made small: each stage and study does all that it does, on as little as it takes."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

SMALL: dict[str, Any] = {
    "evaluate": {
        "n_samples": 6,
        "n_pictures": 4,
        "refined": {"n_steps": 2, "n_samples": 4, "n_pilot": 32, "n_rounds": 1},
        "n_contrast": 3,
        "annealed": {"n_images": 2, "n_simulated": 2, "n_chains": 2, "n_steps": 3, "n_leapfrog": 1},
    },
    "known": {
        "excess": {"height": 4, "width": 4, "n_train": 64, "n_validation": 16, "n_test": 16, "n_samples": 4},
        "estimators": {
            "n_images": 2,
            "n_replicates": 2,
            "n_samples": [4],
            "n_epochs": 1,
            "annealed": {"n_images": 2, "n_replicates": 2, "n_chains": 2, "n_steps": [2], "n_leapfrog": 1},
        },
        "mistakes": {"n_images": 8, "n_train": 40, "size": 4, "n_steps": 2, "n_samples": 16, "n_asked": 32},
    },
    "density_and_mass": {
        "max_pixels": 10_000,
        "n_steps": 3,
        "n_replicates": 2,
        "n_samples": 16,
        "n_symbols": 50,
        "dequantizing": {"n_images": 100, "n_samples": 4, "train": {"epochs": 1}},
    },
    "project_delay": {
        "n_samples": [1000],
        "n_replicates": 5,
        "replicate_samples": [100],
        "cross_entropy": {"n_samples": 2000},
    },
    "universal_resnet": {"n_steps": 2, "n_seeds": 2, "depths": [4], "cells_line": [4, 8], "cells_plane": [2, 3]},
}


def made_small(text: str, changes: dict[str, Any] | None = None) -> str:
    """Return ``params.yaml`` with few steps everywhere, one epoch for each model, and other changes."""
    params = YAML(typ="safe").load(text)
    for model in (None, *params["models"]):
        section = params if model is None else params[model]
        if model is None or "train" in section:
            section["train"]["epochs"] = 1
    _change(params, SMALL)
    _change(params, changes or {})
    written = StringIO()
    YAML(typ="safe").dump(params, written)
    return written.getvalue()


def _change(params: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(params.get(key), dict):
            _change(params[key], value)
        else:
            params[key] = value
