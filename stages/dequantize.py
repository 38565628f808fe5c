"""Split, quantize and binarize the images, draw the evaluation noise, measure the yardsticks."""

from pathlib import Path
from typing import Any

from bitsperdim.config.params import Params
from bitsperdim.core.files import StoredArray
from bitsperdim.core.yardsticks import ImagesMetrics
from bitsperdim.data import preparation
from bitsperdim.data.pictures import evenly_spaced, write_grid
from bitsperdim.data.yardsticks import truth, yardsticks
from bitsperdim.preflight.agreement import raw_levels
from bitsperdim.runtime import stage

N_PICTURES = 64


def main(params: Params, raw: str, dequantized: str, results: str) -> None:
    """Read the folder ``raw``; write the folders ``dequantized`` and ``results``."""
    images = preparation.read_source(params.dataset, Path(raw))
    folder = Path(dequantized)
    description = preparation.prepare(images, params.dataset, params.dequantize, raw_levels(params), folder)
    test = StoredArray(folder / "test" / "images.npy")
    counts = {f"n_{what}": count for what, count in (description.n_images | description.n_same).items()}
    measured: dict[str, Any] = {**counts, **yardsticks(test, description.n_levels)}
    if images.are_independent:
        measured |= truth(images.log_p["test"], description.image_shape)
    metrics = ImagesMetrics(protocol=description.protocol, test_sha256=description.test_sha256, **measured)
    metrics.write(Path(results) / "metrics.json")
    write_grid(Path(results) / "pictures" / "test_images.png", evenly_spaced(test, N_PICTURES), description.n_levels)
    for sentence in metrics.same_in_words:
        print(f"dequantize: {sentence}")


stage.run("dequantize", main, "raw", "dequantized", "results")
