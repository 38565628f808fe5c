"""Measure the speed of the trainer and the evaluator, and the share of the machine's peak that they use, on CPU or GPU.

Training is ``bitsperdim.training.trainer.train`` on one epoch of a few steps, each of which is timed (the data do not
matter). Evaluation is ``bitsperdim.evaluation.estimate.estimate``. torch counts the floating-point operations in one
more step, forward and backward, or in one more evaluation; it counts matrix products and convolutions, but not look-ups
or additions. The peak is the speed of square matrix products of the same number type in the same process. One product
is timed between any two steps, so that other load on the machine affects both. The table shows medians; the first step
warms up and does not count.

Each row runs in a separate process and shows the peak memory: on a CPU, resident memory above the value after the
imports; on a GPU, the memory that torch allocated during a step.

    python benchmarks/throughput.py                  # all rows, about five minutes on two cores
    python benchmarks/throughput.py 'k = 50'         # only rows whose names contain this text
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from importance_sampling import N_SAMPLES, SIZES, model_and_images
from measuring import coloured_digits, heading, matrix_product_peak, operations, seconds, table, wait_for

from bitsperdim.config.families.base import TrainSection
from bitsperdim.config.loading import load_yaml
from bitsperdim.config.params import model_section
from bitsperdim.data.prepared import Description, PreparedImages
from bitsperdim.evaluation.estimate import estimate
from bitsperdim.models import ImageModel, build
from bitsperdim.runtime.device import set_up_device
from bitsperdim.runtime.stage import peak_memory
from bitsperdim.training import trainer

PIXELCNN_PP = {
    "family": "pixelcnn_pp",
    "n_filters": 160,
    "n_blocks": 5,
    "n_scales": 3,
    "dropout": 0.5,
    "likelihood": "coupled_logistic",
    "n_mixtures": 10,
}
VAE = {
    "family": "vae",
    **SIZES,
    "likelihood": "bernoulli",
    "n_mixtures": 1,
    "doubly_reparameterized": False,
    "finetune": None,
}
COLUMNS = ("work", "per second", "FLOP counted in a step", "GFLOP/s", "share of the peak speed", "memory, MiB")


class Meter:
    """Times pieces of work, and after each one the peak speed of the device; records the peak memory of a GPU."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.times: list[float] = []
        self.peaks: list[float] = []
        self.memory = 0
        self.before = peak_memory()

    def measure(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Execute a piece of work, time it, and return its result."""
        results: list[Any] = []
        is_gpu = self.device.type == "cuda"
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        self.times.append(seconds(lambda: results.append(work()), self.device))
        if is_gpu:
            self.memory = max(self.memory, torch.cuda.max_memory_allocated(self.device))
        self.peaks.append(matrix_product_peak(self.dtype, 8192 if is_gpu else 1024, 1, self.device))
        return results[0]

    def row(self, name: str, n_units: int, unit: str, flops: int) -> list[str]:
        """Return the cells of the table, from medians without the first time and the first peak, which warm up."""
        time, peak = statistics.median(self.times[1:]), statistics.median(self.peaks[1:])
        used = self.memory if self.device.type == "cuda" else peak_memory() - self.before
        rate = flops / time
        return [
            name,
            f"{n_units / time:,.3g} {unit}" if n_units / time < 100 else f"{n_units / time:,.0f} {unit}",
            f"{flops:.3g}",
            f"{rate / 1e9:,.0f}",
            f"{rate / peak:.0%} of {peak / 1e9:,.0f} ({str(self.dtype).removeprefix('torch.')})",
            f"{used / 2**20:,.0f}",
        ]


def prepared(images: np.ndarray, n_levels: int, n_validation: int) -> PreparedImages:
    """Return images (N, C, H, W) in the form that ``dequantize`` writes; the first ones are for validation."""
    parts = {"train": images[n_validation:], "validation": images[:n_validation]}
    shape = tuple(images.shape[1:])
    noise = np.zeros((n_validation, *shape), dtype=np.float32)
    n_images = {split: len(rows) for split, rows in parts.items()}
    description = Description(shape, n_levels, n_levels, "none", n_images, "", "")
    return PreparedImages(description, parts, {}, {"validation": noise})


def measure_training(name: str, content: dict[str, Any], changes: dict[str, Any], images: np.ndarray) -> list[str]:
    """Train one epoch and time its steps; all images except the first batch, for validation, are presented."""
    device = set_up_device()
    params: Any = load_yaml(Path(__file__).parents[1] / "params.yaml")
    settings = TrainSection.model_validate({**params["train"], "epochs": 1, "validation_samples": 1, **changes})
    section = model_section("model", content)
    meter = Meter(device, trainer.DTYPES[settings.precision])
    take_step = trainer._Trainer.take_step
    flops: list[int] = []

    def metered(self: Any, *batch: Any) -> Any:  # noqa: ANN401
        if len(meter.times) < self.n_steps - 1:
            return meter.measure(lambda: take_step(self, *batch))
        results: list[Any] = []  # in the last step, operations are counted instead
        flops.append(operations(lambda: results.append(take_step(self, *batch))))
        return results[0]

    trainer._Trainer.take_step = metered  # type: ignore[method-assign]
    n_levels = 2 if content["likelihood"] == "bernoulli" else 256
    trainer.train("model", section, settings, prepared(images, n_levels, settings.batch_size), seed=0, device=device)
    return meter.row(name, settings.batch_size, "images", flops[0])


def train_pixelcnn_pp(name: str, is_gpu: bool) -> list[str]:
    batch, n_steps = (64, 20) if is_gpu else (4, 3)
    images = coloured_digits(batch * (n_steps + 2)).numpy()
    return measure_training(name, PIXELCNN_PP, {"batch_size": batch, "precision": "bfloat16"}, images)


def train_vae(name: str, is_gpu: bool) -> list[str]:
    n_samples = int(name.rsplit(" ", 1)[1])
    batch, n_steps = (1_000 if is_gpu else 100), (60 if n_samples == 1 else 20)
    images = np.random.default_rng(0).integers(2, size=(batch * (n_steps + 2), 1, 28, 28), dtype=np.uint8)
    return measure_training(name, VAE | {"train_samples": n_samples}, {"batch_size": batch}, images)


def measure_evaluation(
    name: str,
    model: ImageModel,
    images: torch.Tensor,
    n_samples: int,
    unit: str,
    **sizes: int,
) -> list[str]:
    device = set_up_device()
    meter = Meter(device, torch.float32)
    model, images = model.to(device).eval(), images.to(device)

    def work() -> object:
        return estimate(model, images, n_samples, generator=torch.Generator(device).manual_seed(1), **sizes)

    for _ in range(4):
        meter.measure(work)
    flops = operations(work)
    wait_for(device)
    return meter.row(name, len(images) * n_samples, unit, flops)


def evaluate_pixelcnn_pp(name: str, is_gpu: bool) -> list[str]:
    content = {key: value for key, value in PIXELCNN_PP.items() if key != "family"}
    batch = 100 if is_gpu else 4
    model = build("pixelcnn_pp", content, (3, 32, 32), 256)
    images = coloured_digits(batch)
    model.initialise(images)
    return measure_evaluation(name, model, images, 1, "images", chunk_size=1, batch_size=batch)


def evaluate_vae(name: str, is_gpu: bool) -> list[str]:
    model, images = model_and_images(1_000 if is_gpu else 40)
    sizes = {"chunk_size": 1_250, "batch_size": 200} if is_gpu else {"chunk_size": 250, "batch_size": 100}
    return measure_evaluation(name, model, images, N_SAMPLES, "samples", **sizes)


ROWS: dict[str, Callable[[str, bool], list[str]]] = {
    "training of pixelcnn_pp, 5 x 160, 3x32x32": train_pixelcnn_pp,
    "training of the VAE, 784-200-200-50, k = 1": train_vae,
    "training of the VAE, 784-200-200-50, k = 50": train_vae,
    "exact evaluation of pixelcnn_pp": evaluate_pixelcnn_pp,
    f"importance sampling of the VAE, K = {N_SAMPLES:,}": evaluate_vae,
}


def main() -> None:
    if sys.argv[1:2] == ["--row"]:
        cells = ROWS[sys.argv[2]](sys.argv[2], set_up_device().type == "cuda")
        print(f"| {' | '.join(cells)} |", flush=True)
        return
    heading("Throughput of the trainer and the evaluator", set_up_device())
    table(COLUMNS, [])
    for name in ROWS:
        if all(word in name for word in sys.argv[1:2]):
            subprocess.run([sys.executable, __file__, "--row", name], check=True)


if __name__ == "__main__":
    main()
