"""Train one model, once per seed."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitsperdim import models, stage
from bitsperdim.checkpoints import Checkpoint
from bitsperdim.data import preparation
from bitsperdim.device import described, set_up_device
from bitsperdim.files import sha256, write_csv
from bitsperdim.params import Params
from bitsperdim.training import CURVE_COLUMNS, train
from bitsperdim.units import bits_per_dim


def main(params: Params, name: str, dequantized: str, folder: str, curve: str) -> dict[str, str | float]:
    """Read the folder ``dequantized``; write ``folder``/<seed> and the training curve of all seeds."""
    section, device = params.section(name), set_up_device()
    prepared = preparation.load(Path(dequantized), ("train", "validation"))
    decides: dict[str, Any] = {
        "section": section.model_dump(mode="json"),
        "train": section.settings(params.train).model_dump(mode="json"),
        "data": asdict(prepared.description),
        "labels": {split: sha256(labels) for split, labels in prepared.labels.items()},
        "dataset_seed": params.dataset.seed,
        "device": device.type,
    }
    checkpoints = {seed: Checkpoint.of({**decides, "seed": seed}) for seed in params.seeds}
    rows, seconds, started = [], 0.0, time.monotonic()
    for seed, checkpoint in checkpoints.items():
        trained = train(name, section, params.train, prepared, seed=seed, device=device, checkpoint=checkpoint)
        models.save(trained.model, section.family, section.hyperparameters, Path(folder) / str(seed))
        rows += trained.curve
        seconds += trained.seconds
        fitted = f"epoch {trained.best_epoch} of {len(trained.curve)}" if trained.best_epoch else "closed form"
        bpd = bits_per_dim(trained.validation_log_p, prepared.description.image_shape)
        print(f"{name} seed {seed}: {fitted}, validation {bpd:.4f} bits/dim ({-trained.validation_log_p:.2f} nats)")
    write_csv(Path(curve), CURVE_COLUMNS, rows)
    for checkpoint in checkpoints.values():
        checkpoint.remove()
    earlier = max(0.0, seconds - (time.monotonic() - started))
    return {**described(device), "earlier_seconds": round(earlier, 2)}


stage.run("train", main, "model", "dequantized", "folder", "curve")
