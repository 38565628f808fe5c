"""Hold models and estimators against likelihoods that are known, and make every known mistake on purpose."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.runtime import stage
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.studies import known


def main(params: Params, dequantized: str, results: str) -> dict[str, str]:
    """Read the images of the folder ``dequantized``; write tables and metrics into ``results``."""
    device = set_up_device()
    metrics, tables = known.study(params.known, params.train, Path(dequantized), device)
    known.write(Path(results), metrics, tables)
    return described(device)


stage.run("known", main, "dequantized", "results")
