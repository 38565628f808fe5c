"""Compare settings of the optimizer for a VAE: 784-200-200-50, k = 1, dynamically binarized MNIST.

Each setting is one training run of 130 epochs with 7.2 million presentations, a tenth of the recipe
``mnist-dynamic-vae-l1``. Each row names the settings in which it differs from that recipe. 5,000 of the training images
are used for validation. The table shows their bound with K = 200, and its paired difference from the first row with the
standard error over images. This standard error does not include the variation over seeds. No test image is used.

A row takes five to ten minutes on one core. It is saved to a file when it is finished, so the script can be stopped and
resumed. The file contains the log-likelihood of each image only for the first row.

    python benchmarks/optimizers.py docs/optimizers.json            # compute all missing rows
    python benchmarks/optimizers.py docs/optimizers.json --table    # only show the finished rows
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import heading, table

from bitsperdim import load_data
from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.params import model_section
from bitsperdim.core.files import write_json
from bitsperdim.core.randomness import stream
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.training.trainer import train

EPOCHS, K = 130, 200
VAE: dict[str, Any] = {"family": "vae", "latent_size": 50, "hidden_sizes": [200, 200], "likelihood": "bernoulli"}
RECIPE: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 500,
    "learning_rate": 0.002,
    "warmup_steps": 200,
    "gradient_clip": 100.0,
    "average_decay": 0.9995,
    "validation_samples": 5,
    "patience": None,
}
BURDA: dict[str, Any] = {"betas": [0.99, 0.999], "eps": 1e-4, "initial_second_moment": 1.0}
ROWS: dict[str, dict[str, Any]] = {  # changes of the section `train`, or of the model
    "as the recipe": {},
    "batches of 100": {"batch_size": 100},
    "batches of 100, rate 0.001": {"batch_size": 100, "learning_rate": 0.001},
    "doubly reparameterized": {"doubly_reparameterized": True},
    "no average of the weights": {"average_decay": 0.0},
    "rate 0.001": {"learning_rate": 0.001},
    "rate 0.004": {"learning_rate": 0.004},
    "stages of Burda et al., their Adam, rate 0.001": {"schedule": "stages", "learning_rate": 0.001, **BURDA},
    "batches of 1,000": {"batch_size": 1_000},
    "warm-up of the KL term over a tenth": {"kl_warmup_steps": 1_430},
    "bfloat16": {"precision": "bfloat16"},
    "cosine to 1e-5": {"final_learning_rate": 1e-5},
    "exponential to 1e-5": {"schedule": "exponential", "final_learning_rate": 1e-5},
    "constant rate": {"schedule": "constant"},
}


FIRST = next(iter(ROWS))


def mean_and_error(values: np.ndarray) -> list[float]:
    """Return the mean of the values and its standard error."""
    return [round(float(values.mean()), 4), round(float(values.std(ddof=1)) / math.sqrt(len(values)), 4)]


def measured(changes: dict[str, Any], base: list[float] | None) -> dict[str, Any]:
    """Train with changed settings, score the validation images, and return the content of a row.

    Args:
        changes: the changed settings.
        base: bound of log P(x) of each image in the first row; None: this is the first row.
    """
    data = load_data("mnist", binarization="dynamic", validation_fraction=1 / 12)
    device = set_up_device()
    own = {key: changes[key] for key in changes.keys() & {"doubly_reparameterized"}}
    settings = TrainSection.model_validate({**RECIPE, **{key: changes[key] for key in changes.keys() - own.keys()}})
    started = time.monotonic()
    trained = train("vae", model_section("vae", VAE | own), settings, data.prepared, seed=0, device=device)
    elapsed = time.monotonic() - started
    images = torch.from_numpy(data.prepared.images["validation"])
    generator = stream("validation", device=device)
    found = estimate(trained.model, images, K, chunk_size=50, batch_size=100, generator=generator)
    log_p = found.log_p.numpy()
    return {
        **({"log_p": [round(value, 3) for value in log_p.tolist()]} if base is None else {}),
        "nats": mean_and_error(-log_p),
        **({} if base is None else {"better": mean_and_error(log_p - np.array(base))}),
        "elbo": round(float(found.elbo.mean()), 4),
        "best_epoch": trained.best_epoch,
        "seconds": round(elapsed, 1),
        **described(device),
    }


def show(kept: dict[str, Any]) -> None:
    rows = []
    for name in ROWS:
        if name in kept:
            found = kept[name]
            paired = "{:+.2f} ± {:.2f}".format(*found["better"]) if "better" in found else ""
            rows.append([name, "≤ {:.2f} ± {:.2f}".format(*found["nats"]), paired, f"{-found['elbo']:.2f}"])
    table(("setting", "validation, nats", "better by, nats", "minus the ELBO, nats"), rows)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("Name the file of the rows: python benchmarks/optimizers.py docs/optimizers.json [--table]")
    path = Path(sys.argv[1])
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if "--table" not in sys.argv[2:]:
        for name, changes in ROWS.items():
            if name not in kept:
                kept[name] = measured(changes, kept[FIRST]["log_p"] if kept else None)
                write_json(path, kept)
    heading("Settings of the optimizer, VAE 784-200-200-50, k = 1", set_up_device())
    show(kept)


if __name__ == "__main__":
    main()
