"""Show what a density says of discrete data: ratios, the collapse, the bound, the length of messages."""

from pathlib import Path

from bitsperdim import stage
from bitsperdim.params import Params
from bitsperdim.studies import density_and_mass


def main(params: Params, dequantized: str, results: str) -> None:
    """Read the training images of the folder ``dequantized``; write tables and metrics into ``results``."""
    section = params.density_and_mass
    levels = density_and_mass.count_levels(Path(dequantized), section.max_pixels)
    metrics, tables = density_and_mass.study(section, levels)
    density_and_mass.write(Path(results), metrics, tables)
    fits, code = metrics["collapse"], metrics["coding"]["codes"]["data"]
    print(
        f"density_and_mass: entropy {metrics['levels']['entropy_bits']:.4f} bits per sub-pixel; "
        f"a density of raw levels {fits['raw_bits']:.2f} (no likelihood), of dequantized ones "
        f"{fits['dequantized_bits']:.4f} bits; a message took {code['message_bits']:.4f} bits per symbol"
    )


stage.run("density_and_mass", main, "dequantized", "results")
