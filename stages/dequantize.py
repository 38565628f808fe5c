"""Split, quantize and binarize the images, draw the evaluation noise, measure the yardsticks."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.core import labels
from bitsperdim.core.files import StoredArray, write_json
from bitsperdim.data import preparation
from bitsperdim.data.pictures import evenly_spaced, write_grid
from bitsperdim.data.yardsticks import yardsticks
from bitsperdim.preflight.agreement import raw_levels
from bitsperdim.runtime import stage
from bitsperdim.sources import SOURCES

N_PICTURES = 64


def main(params: Params, raw: str, dequantized: str, results: str) -> None:
    """Read the folder ``raw``; write the folders ``dequantized`` and ``results``."""
    images = SOURCES[params.dataset.name].read(Path(raw))
    folder = Path(dequantized)
    description = preparation.prepare(images, params.dataset, params.dequantize, raw_levels(params), folder)
    test = StoredArray(folder / "test" / "images.npy")
    metrics: dict[str, float | int | str] = dict(yardsticks(test, description.n_levels))
    metrics |= {f"n_{split}": count for split, count in description.n_images.items()}
    metrics |= {f"n_{what}": count for what, count in description.n_same.items()}
    metrics |= {"protocol": description.protocol, "test_sha256": description.test_sha256}
    write_json(Path(results) / "metrics.json", metrics)
    write_grid(Path(results) / "pictures" / "test_images.png", evenly_spaced(test, N_PICTURES), description.n_levels)
    for sentence in labels.same_in_words(description.n_same, description.n_images):
        print(f"dequantize: {sentence}")


stage.run("dequantize", main, "raw", "dequantized", "results")
