"""Compare models and estimators with known likelihoods, and make every known mistake on purpose."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.core import labels
from bitsperdim.core.errors import InputError
from bitsperdim.runtime import stage
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.studies import known


def main(params: Params, dequantized: str, results: str) -> dict[str, str]:
    """Read the images of the folder ``dequantized``; write tables and metrics into ``results``."""
    device = set_up_device()
    try:
        metrics, tables = known.study(params.known, params.train, Path(dequantized), device)
    except FloatingPointError as error:
        raise InputError(f"The study stopped: {error}; try a smaller learning_rate.") from error
    known.write(Path(results), metrics, tables)
    for row in tables["excess"]:
        verdict = "refuted: better than the truth" if row["is_refuted"] else "not better than the truth"
        print(
            f"known: {row['model']} on {row['source']}: {labels.ASCII_SIGNS[row['kind']]} {row['excess_bpd']:+.4f} "
            f"+- {row['excess_bpd_standard_error']:.4f} bits/dim above the truth; {verdict}"
        )
    return described(device)


stage.run("known", main, "dequantized", "results")
