"""Measure a training step of the PixelCNN++ against a plain implementation (``plain_pixelcnn_pp.py``).

``plain`` uses float32, contiguous feature maps, torch's own operations and the default AdamW. ``ours`` is the model
with the settings of the trainer and ``precision: bfloat16``: feature maps with the channels last, bfloat16
convolutions, a float64 likelihood, its own activations and dropout, and a fused optimizer. Two more rows lie in
between: the plain network in bfloat16 with the channels last and a fused optimizer, which need one line of code each,
and our model in float32. All start from the same weights and get the same batches in turns, so that other load on the
machine affects all of them. A second plain training run, which differs only in its dropout, shows how much two loss
curves differ by chance. The table shows the best and the median speed of the steps; the first steps, which warm up, do
not count.

    python benchmarks/training_pixelcnn_pp.py            # both sizes, a few minutes on two cores
    python benchmarks/training_pixelcnn_pp.py small 60   # only one size, with 60 steps
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from measuring import coloured_digits, heading, matrix_product_peak, operations, table
from plain_pixelcnn_pp import PlainPixelCNNpp
from torch import Tensor

from bitsperdim.models import build
from bitsperdim.models.pixelcnn_pp import PixelCNNpp

SIZES = {"small": (2, 40, 16, 40), "full": (5, 160, 4, 8)}  # blocks, filters, batch, steps
N_MIXTURES, N_WARMUP, LEARNING_RATE = 10, 2, 1e-3
NATS_PER_BIT_AND_IMAGE = 3072 * 0.6931471805599453

Step = Callable[[Tensor], float]


def plain_step(model: PlainPixelCNNpp, seed: int, *, is_half: bool = False) -> Step:
    if is_half:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=is_half)

    def step(x: Tensor) -> float:
        torch.manual_seed(seed * 1_000_003 + step.count)  # type: ignore[attr-defined]
        step.count += 1  # type: ignore[attr-defined]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            loss = -model.log_likelihood(x).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step.count = 0  # type: ignore[attr-defined]
    return step


def fast_step(model: PixelCNNpp, *, is_half: bool = True) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step(x: Tensor) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            log_w = model.log_weights(x, generator=generator)
        loss = -log_w.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def run(name: str, n_steps: int) -> list[list[str]]:
    n_blocks, n_filters, batch, _ = SIZES[name]
    sizes = {"n_filters": n_filters, "n_blocks": n_blocks, "n_scales": 3, "dropout": 0.5}
    fast = build("pixelcnn_pp", {**sizes, "likelihood": "coupled_logistic", "n_mixtures": N_MIXTURES}, (3, 32, 32), 256)
    assert isinstance(fast, PixelCNNpp)
    images = coloured_digits(4096)
    fast.initialise(images)
    plains = [PlainPixelCNNpp(n_filters, n_blocks, N_MIXTURES, 256, 0.5) for _ in range(3)]
    for plain in plains:
        plain.take_weights(fast)
    steps = {
        "plain": plain_step(plains[0], 1),
        "plain again": plain_step(plains[1], 2),
        "plain, bfloat16": plain_step(plains[2], 3, is_half=True),
        "ours, float32": fast_step(copy.deepcopy(fast).train(), is_half=False),
        "ours": fast_step(fast.train()),
    }
    times: dict[str, list[float]] = {who: [] for who in steps}
    losses: dict[str, list[float]] = {who: [] for who in steps}
    rows = torch.randint(len(images), (n_steps, batch), generator=torch.Generator().manual_seed(0))
    for batch_rows in rows:
        for who, step in steps.items():
            started = time.perf_counter()
            losses[who].append(step(images[batch_rows]) / NATS_PER_BIT_AND_IMAGE)
            times[who].append(time.perf_counter() - started)
    flops = operations(lambda: steps["ours"](images[:batch]))
    half = n_steps // 2
    apart = {who: statistics.mean(losses[who][half:]) - statistics.mean(losses["plain"][half:]) for who in losses}
    result = []
    full, half_precision = matrix_product_peak(torch.float32), matrix_product_peak(torch.bfloat16)
    peaks = {"plain": full, "plain, bfloat16": half_precision, "ours, float32": full, "ours": half_precision}
    for who, peak in peaks.items():
        best, median = min(times[who][N_WARMUP:]), statistics.median(times[who][N_WARMUP:])
        plain_best, plain_median = min(times["plain"][N_WARMUP:]), statistics.median(times["plain"][N_WARMUP:])
        result.append(
            [
                f"{n_blocks} x {n_filters}, batch {batch}: {who}",
                f"{batch / median:.2f} ({batch / best:.2f})",
                f"{plain_median / median:.2f} ({plain_best / best:.2f})",
                f"{flops / median / 1e9:.0f} of {peak / 1e9:.0f} ({flops / median / peak:.0%})",
                f"{statistics.mean(losses[who][half:]):.3f}",
                "" if who == "plain" else f"{apart[who]:+.3f} (between two plain runs: {apart['plain again']:+.3f})",
            ]
        )
    return result


def main() -> None:
    names = sys.argv[1:2] or list(SIZES)
    heading("Training steps of pixelcnn_pp, 32x32 images in colour, 10 mixtures, dropout 0.5")
    rows = [row for name in names for row in run(name, int(sys.argv[2]) if len(sys.argv) > 2 else SIZES[name][3])]
    columns = (
        "size",
        "images/s, median (best)",
        "ratio",
        "GFLOP/s and share of the peak",
        "bits/dim, last half",
        "difference from plain",
    )
    table(columns, rows)


if __name__ == "__main__":
    main()
