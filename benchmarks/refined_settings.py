"""Compare settings of refined proposals on the VALIDATION images of the default models with a latent code.

Run it after `dvc repro`: `PYTHONPATH=src python benchmarks/refined_settings.py [MODEL ...]`. It confirms the defaults
of `evaluate.refined`; no test image is used in this choice.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from bitsperdim import models
from bitsperdim.config.params import read_params
from bitsperdim.core.randomness import stream
from bitsperdim.data.prepared import load_prepared
from bitsperdim.estimators.pareto import pareto_k_limit
from bitsperdim.evaluation import refined
from bitsperdim.evaluation.estimate import Estimate, estimated_rows

CHANGES: tuple[dict[str, Any], ...] = (
    {},
    *({"widening": value} for value in (1.0, 1.05, 1.2)),
    *({"n_steps": value} for value in (25, 100)),
    *({"n_samples": value} for value in (1, 8)),
    *({"learning_rate": value} for value in (0.05, 0.2)),
    *({"n_rounds": value} for value in (0, 1, 5)),
    *({"encoder_share": value} for value in (0.0, 0.1)),
)


def main() -> None:
    """Print a row for each model and each change."""
    params = read_params(Path("params.yaml"))
    images = torch.from_numpy(load_prepared(Path("data/dequantized"), ("validation",)).images["validation"])
    section = params.evaluate
    seed = params.seeds[0]
    print(f"{len(images)} validation images, K = {section.n_samples}")
    print("model  change                  heavy tails  median ESS  ESS < 10   nats     bias  gradients  seconds (CPU)")
    for name in sys.argv[1:] or ("vae", "iwae"):
        model = models.load(Path("models") / name / str(seed), params.section(name).family).eval()
        if not isinstance(model, models.LatentModel):
            sys.exit(f"{name} has no latent code.")
        for change in CHANGES:
            started = time.process_time()
            settings = section.refined.model_copy(update=change)
            mine = refined.refine(model, images, settings, refined.generators_of(range(len(images)), seed, seed))
            with torch.no_grad():
                rows = estimated_rows(
                    model,
                    images,
                    section.n_samples,
                    chunk_size=section.chunk_size,
                    generator=stream("evaluation", seed, seed, 0),
                    encoded=mine.proposal,
                )
            found = Estimate.of_rows(model, section.n_samples, rows, None)
            heavy = 100 * float((found.pareto_k > pareto_k_limit(section.n_samples)).double().mean())
            small, nats = 100 * found.small_ess_share, -float(found.log_p.mean())
            said = ", ".join(f"{key}={value}" for key, value in change.items()) or "as committed"
            print(
                f"{name:6} {said:22} {heavy:11.1f} % {float(found.ess.median()):10.1f} "
                f"{small:7.1f} % {nats:8.3f} {float(found.bias.mean()):8.4f} "
                f"{float(mine.n_gradients.double().mean()):10.0f} {time.process_time() - started:9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
