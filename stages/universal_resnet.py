"""Train networks of one-neuron blocks, construct others, and measure how well they approximate their targets."""

from pathlib import Path

import torch

from bitsperdim.config.params import Params
from bitsperdim.core.errors import InputError
from bitsperdim.runtime import stage
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.studies.universal_resnet import study


def main(params: Params, results: str) -> dict[str, str]:
    """Write tables, decision regions and metrics into the folder ``results``."""
    device = set_up_device()
    torch.set_num_threads(
        1
    )  # such small networks gain nothing from several threads; two networks are trained at a time instead
    try:
        found = study.study(params.universal_resnet, device)
    except FloatingPointError as error:
        raise InputError(f"Training stopped: {error}; try smaller universal_resnet.learning_rates.") from error
    study.write(Path(results), found)
    for name, row in found.metrics["accuracy"].items():
        parts = ", ".join(
            f"{predicate} {row[predicate]['mean']:.1f} +- {row[predicate]['spread']:.1f}"
            for predicate in study.PREDICATES
        )
        print(f"universal_resnet: {name}: {parts} % of the training points")
    for name, row in found.metrics["constructed"].items():
        print(
            f"universal_resnet: constructed {name}: L1 error {row['l1']:.4f} with {row['n_blocks']} blocks, "
            f"{100 * row['close_share']:.2f} % with an error below half the height"
        )
    return described(device)


stage.run("universal_resnet", main, "results")
