"""Measure time and memory of exact likelihoods: 10,000 images of 28x28, float32.

Each model runs in a separate process, so that the peak memory belongs to this model; the memory of Python and torch
before the work is shown separately. The weights are the initial ones. The work is done by the evaluator of the library,
batch by batch.

    python benchmarks/exact_likelihoods.py
"""

from __future__ import annotations

import subprocess
import sys

import torch
from measuring import heading, seconds, table

from bitsperdim.evaluation.estimate import estimate
from bitsperdim.models import build
from bitsperdim.runtime.stage import peak_memory

N_IMAGES, BATCH = 10_000, 100
SOFTMAX = {"likelihood": "categorical", "n_mixtures": 1}
LOGISTICS = {"likelihood": "logistic", "n_mixtures": 10}
MODELS = {
    "pixelcnn, 4 blocks of 64, 2 levels": (
        "pixelcnn",
        {"n_filters": 64, "n_blocks": 4, "kernel_size": 21, **SOFTMAX},
        2,
    ),
    "gated_pixelcnn, 8 layers of 32, 2 levels": (
        "gated_pixelcnn",
        {"n_filters": 32, "n_layers": 8, "kernel_size": 21, "n_classes": None, **SOFTMAX},
        2,
    ),
    "gated_pixelcnn, 8 layers of 32, 256 levels": (
        "gated_pixelcnn",
        {"n_filters": 32, "n_layers": 8, "kernel_size": 7, "n_classes": None, **SOFTMAX},
        256,
    ),
    "pixelcnn_pp, 2 blocks of 40, 256 levels": (
        "pixelcnn_pp",
        {"n_filters": 40, "n_blocks": 2, "n_scales": 3, "dropout": 0.0, **LOGISTICS},
        256,
    ),
}


def run(name: str) -> None:
    family, params, n_levels = MODELS[name]
    model = build(family, params, (1, 28, 28), n_levels).eval()
    images = torch.randint(n_levels, (N_IMAGES, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    model.initialise(images[:1000])
    before = peak_memory()
    time = seconds(lambda: estimate(model, images, 1, chunk_size=1, batch_size=BATCH))
    print(f"| {name} | {time:.0f} | {N_IMAGES / time:.0f} | {peak_memory() / 2**20:.0f} | {before / 2**20:.0f} |")


def main() -> None:
    if len(sys.argv) > 1:
        run(sys.argv[1])
        return
    heading(f"Exact likelihoods of {N_IMAGES:,} images of 28x28, {BATCH} at a time")
    table(("model", "seconds", "images/s", "peak memory, MiB", "before, MiB"), [])
    for name in MODELS:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
