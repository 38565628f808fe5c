"""Fetch the original files of the data set and verify them."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.runtime import stage
from bitsperdim.sources import SOURCES


def main(params: Params, raw: str) -> None:
    """Download the original files into the folder ``raw``."""
    SOURCES[params.dataset.name].download(Path(raw), params.dataset.path)


stage.run("download", main, "raw")
