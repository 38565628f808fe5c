"""Train one model, once per seed."""

from pathlib import Path

from bitsperdim import models, stage
from bitsperdim.data import preparation
from bitsperdim.device import set_up_device
from bitsperdim.files import write_csv
from bitsperdim.params import Params
from bitsperdim.training import CURVE_COLUMNS, train
from bitsperdim.units import bits_per_dim


def main(params: Params, name: str, dequantized: str, folder: str, curve: str) -> None:
    """Read the folder ``dequantized``; write ``folder``/<seed> and the training curve of all seeds."""
    section = params.section(name)
    prepared = preparation.load(Path(dequantized), ("train", "validation"))
    rows = []
    for seed in params.seeds:
        trained = train(name, section, params.train, prepared, seed=seed, device=set_up_device())
        models.save(trained.model, section.family, section.hyperparameters, Path(folder) / str(seed))
        rows += trained.curve
        fitted = f"epoch {trained.best_epoch} of {len(trained.curve)}" if trained.best_epoch else "closed form"
        bpd = bits_per_dim(trained.validation_log_p, prepared.description.image_shape)
        print(f"{name} seed {seed}: {fitted}, validation {bpd:.4f} bits/dim ({-trained.validation_log_p:.2f} nats)")
    write_csv(Path(curve), CURVE_COLUMNS, rows)


stage.run("train", main, "model", "dequantized", "folder", "curve")
