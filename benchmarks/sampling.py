"""Measure the drawing of images, with cached values of earlier pixels and by one full pass for each pixel.

The naive loop with full passes is timed on a few pixels and extrapolated to all of them, as the table says. The weights
are the initial ones, which do not matter for the time.

    python benchmarks/sampling.py                        # all models, 16 images of 32x32 in colour
"""

from __future__ import annotations

import torch
from measuring import coloured_digits, heading, operations, seconds, table

from bitsperdim.models import AutoregressiveModel, build
from bitsperdim.models.autoregressive import ancestral_sample, outputs_at

N_IMAGES, SHAPE, N_NAIVE = 16, (3, 32, 32), 3
COUPLED = {"likelihood": "coupled_logistic", "n_mixtures": 10}
PLUS = {"n_scales": 3, "dropout": 0.5, **COUPLED}
MODELS = {
    "pixelcnn, 7 blocks of 128, softmax": (
        "pixelcnn",
        {"n_filters": 128, "n_blocks": 7, "kernel_size": 7, "likelihood": "categorical", "n_mixtures": 1},
    ),
    "gated_pixelcnn, 12 layers of 96": (
        "gated_pixelcnn",
        {"n_filters": 96, "n_layers": 12, "kernel_size": 7, "n_classes": None, **COUPLED},
    ),
    "pixelcnn_pp, 2 blocks of 40": ("pixelcnn_pp", {"n_filters": 40, "n_blocks": 2, **PLUS}),
    "pixelcnn_pp, 5 blocks of 160": ("pixelcnn_pp", {"n_filters": 160, "n_blocks": 5, **PLUS}),
}


@torch.no_grad()
def run(name: str, family: str, params: dict) -> list[str]:
    model = build(family, params, SHAPE, 256).eval()
    assert isinstance(model, AutoregressiveModel)
    model.initialise(coloured_digits(64))
    x = torch.zeros(N_IMAGES, *SHAPE, dtype=torch.uint8)
    one_pass = operations(lambda: model.outputs(x))
    n_passes = SHAPE[1] * SHAPE[2] * model.head.n_groups
    places = [(row, row) for row in range(N_NAIVE)]
    naive = sum(
        seconds(lambda row=row, column=column: outputs_at(model, x, row, column, None, None)) for row, column in places
    )
    generator = torch.Generator().manual_seed(0)
    cached = seconds(lambda: ancestral_sample(model, N_IMAGES, generator=generator))
    work = operations(lambda: ancestral_sample(model, N_IMAGES, generator=generator))
    total = naive / N_NAIVE * n_passes
    return [name, f"{cached:.1f}", f"{total:,.0f}", f"{total / cached:,.0f}", f"{n_passes * one_pass / work:,.0f}"]


def main() -> None:
    heading(f"Drawing {N_IMAGES} images of 32x32 in colour")
    columns = (
        "model",
        "seconds",
        f"naive, extrapolated from {N_NAIVE} passes",
        "times faster",
        "times fewer operations",
    )
    table(columns, [run(name, *model) for name, model in MODELS.items()])


if __name__ == "__main__":
    main()
