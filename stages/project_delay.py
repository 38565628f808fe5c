"""Estimate the probability of a rare delay by importance sampling, and compare it with the exact probability."""

from pathlib import Path

import torch

from bitsperdim.config.params import Params
from bitsperdim.runtime import stage
from bitsperdim.studies import project_delay


def main(params: Params, results: str) -> None:
    """Write tables and metrics into ``results``."""
    torch.set_num_threads(1)  # with matrices of 50 rows, several threads would mostly wait for each other
    metrics, tables = project_delay.study(params.project_delay)
    project_delay.write(Path(results), metrics, tables)
    exact, deadline = metrics["exact"], metrics["deadline"]
    print(f"project_delay: P(T >= {deadline:g}) = {exact['probability']:.4e}, E[T] = {exact['mean']:.4f}, both exact")
    for row in metrics["proposals"].values():
        measured = f"{row['probability']:.3e} +- {row['standard_error']:.1e}" if row["n_late"] else "no draw is late"
        print(
            f"project_delay: {row['label']}: {measured} from {row['n_samples']} draws, ESS {row['ess']:.0f}, "
            f"variance reduction {row['variance_reduction']:.1f} measured, {row['variance_reduction_exact']:.1f} exact"
        )


stage.run("project_delay", main, "results")
