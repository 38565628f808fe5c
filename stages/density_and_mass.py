"""Run the study of densities on discrete data: likelihood ratios, the collapse, the bound, the length of messages."""

from pathlib import Path

from bitsperdim.config.params import Params
from bitsperdim.core import labels
from bitsperdim.core.errors import InputError
from bitsperdim.data.prepared import load_prepared
from bitsperdim.runtime import stage
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.studies import density_and_mass
from bitsperdim.studies.density_and_mass import dequantizing


def main(params: Params, dequantized: str, results: str) -> dict[str, str]:
    """Read the training images of the folder ``dequantized``; write tables and metrics into ``results``."""
    section = params.density_and_mass
    levels = density_and_mass.count_levels(Path(dequantized), section.max_pixels)
    metrics, tables = density_and_mass.study(section, levels)
    device = set_up_device()
    try:
        metrics["dequantizing"], tables["dequantizing"] = dequantizing.compare_ways(
            section.dequantizing, params.train, Path(dequantized), section.seed, device
        )
    except InputError:
        raise
    except (FloatingPointError, ValueError) as error:  # NaN, or a test image to which a flow gives no mass
        raise InputError(f"Evaluating the flows stopped: {error}; try a smaller learning_rate.") from error
    density_and_mass.write(Path(results), metrics, tables)
    fits = metrics["collapse"]
    code = metrics["coding"]["codes"]["data"]
    print(
        f"density_and_mass: entropy {metrics['levels']['entropy_bits']:.4f} bits per sub-pixel; "
        f"a density on raw levels {fits['raw_bits']:.2f} (not a likelihood), on dequantized levels "
        f"{fits['dequantized_bits']:.4f} bits; a message takes {code['message_bits']:.4f} bits per symbol"
    )
    protocol = load_prepared(Path(dequantized), ()).description.protocol
    k = metrics["dequantizing"]["n_samples"]
    for row in tables["dequantizing"]:
        why = labels.doubts("lower", row["bpd"], protocol, row["bpd_standard_error"])
        why += [labels.too_few(k)] if row["too_few_samples"] else []
        number = labels.number("lower", row["bpd"], why, row["bpd_standard_error"])
        print(
            f"density_and_mass: a flow with {row['way']} noise: test {number}, {labels.WORDS['lower']}, K = {k}, "
            f"{row['difference_bpd'] + 0.0:+.4f} +- {row['difference_bpd_standard_error']:.4f} against uniform noise"
            f"{labels.because(why)}"
        )
    return described(device)


stage.run("density_and_mass", main, "dequantized", "results")
