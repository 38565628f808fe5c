"""Train one model with each seed."""

import time
from pathlib import Path
from typing import Any

from bitsperdim import models
from bitsperdim.config.params import Params
from bitsperdim.core import made_with
from bitsperdim.core.files import write_json
from bitsperdim.data.prepared import load_prepared
from bitsperdim.runtime import distributed, finished, stage
from bitsperdim.runtime.curve import CurveFiles
from bitsperdim.runtime.device import described, peak_memory, set_up_device
from bitsperdim.training.step import settings_on
from bitsperdim.training.trainer import checkpoint_of, train


def main(params: Params, name: str, dequantized: str, folder: str, curve: str) -> dict[str, Any]:
    """Read the images in ``dequantized``; write the model of each seed into ``folder``/<seed>.

    Also write the training curve of all seeds, which grows during training, its copy with seconds beside the log, and
    the environment of training (:mod:`bitsperdim.core.made_with`).
    """
    section = params.section(name)
    device = set_up_device()
    started = time.monotonic()
    prepared = load_prepared(Path(dequantized), ("train", "validation"))
    decides = (section, params.train, prepared, params.dataset.seed, device)
    checkpoints = {seed: checkpoint_of(*decides, seed) for seed in params.seeds}
    finished.clear(keep={checkpoint.folder for checkpoint in checkpoints.values()})
    files = CurveFiles(Path(curve), stage.log_path("train", name).with_suffix(".csv"))
    done = []
    with distributed.joined(device):
        precision = settings_on(device, section, params.train).precision
        used = {**described(device), "n_processes": distributed.world_size(), "precision": precision}
        for seed, checkpoint in checkpoints.items():
            how: dict[str, Any] = {"seed": seed, "device": device, "checkpoint": checkpoint, "follow": files.follow}
            trained = train(name, section, params.train, prepared, **how)
            done.append(trained)
            files.add(trained.curve, trained.times)
            if not distributed.is_first():
                continue
            models.save(trained.model, section.family, section.hyperparameters, Path(folder) / str(seed))
            k = section.settings(params.train).validation_samples
            print(f"{name} seed {seed}: {trained.in_words(prepared.description, k)}")
        if distributed.is_first():
            files.finish()
            write_json(Path(curve).with_name(made_with.FILES["train"]), used)
            for checkpoint in checkpoints.values():
                checkpoint.finish()
        earlier = max(0.0, sum(trained.seconds for trained in done) - (time.monotonic() - started))
        speed = sum(trained.n_presented for trained in done) / max(1e-9, sum(trained.step_seconds for trained in done))
        log = {**used, **peak_memory(device), "earlier_seconds": round(earlier, 2)}
        return {**log, "images_per_second": round(speed, 1)}


stage.run("train", main, "model", "dequantized", "folder", "curve")
