"""Split, quantize and binarize the images, draw the evaluation noise, measure the yardsticks."""

from pathlib import Path
from typing import Any

from bitsperdim.config.params import Params
from bitsperdim.core.files import StoredArray, read_npy
from bitsperdim.core.yardsticks import ImagesMetrics
from bitsperdim.data import preparation
from bitsperdim.data.pictures import evenly_spaced, write_grid, write_near_copies
from bitsperdim.data.yardsticks import truth, yardsticks
from bitsperdim.preflight.agreement import raw_levels
from bitsperdim.runtime import stage

N_PICTURES = 64


def main(params: Params, raw: str, dequantized: str, results: str) -> None:
    """Read the images in the folder ``raw``; write the folders ``dequantized`` and ``results``."""
    images = preparation.read_source(params.dataset, Path(raw))
    folder = Path(dequantized)
    description = preparation.prepare(images, params.dataset, params.dequantize, raw_levels(params), folder)
    train, test = (StoredArray(folder / split / "images.npy") for split in ("train", "test"))
    counts = {f"n_{what}": count for what, count in (description.n_images | description.n_same).items()}
    measured: dict[str, Any] = {**counts, **yardsticks(test, description.n_levels)}
    if images.are_independent:
        measured |= truth(images.log_p["test"], description.image_shape)
    metrics = ImagesMetrics(protocol=description.protocol, test_sha256=description.test_sha256, **measured)
    metrics.write(Path(results) / "metrics.json")
    write_grid(Path(results) / "pictures" / "test_images.png", evenly_spaced(test, N_PICTURES), description.n_levels)
    levels = description.train_levels, description.n_levels
    near_train = read_npy(folder / "test" / "near_train.npy")
    write_near_copies(Path(results) / "pictures" / "near_copies.png", train, test, near_train, levels)
    for sentence in metrics.same_in_words:
        print(f"dequantize: {sentence}")


stage.run("dequantize", main, "raw", "dequantized", "results")
