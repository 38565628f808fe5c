"""Measure a training step of each family in milliseconds: plain, compiled, and on a GPU also as one CUDA graph.

The networks have the sizes of params.yaml or of a recipe; the images are arbitrary. The three variants are timed in
turns, so that other load on the machine affects all of them; each time is a median. The table also shows the largest
relative difference of the losses from those of the plain step. The time of large networks is limited by their matrix
products, that of small ones by kernel launches.

    python benchmarks/steps.py              # 200 steps of each variant on a GPU, 10 on a CPU
    python benchmarks/steps.py vae          # only models whose names contain this text
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import heading, table, wait_for
from torch import Tensor

from bitsperdim.config.families.base import FamilySection, TrainSection
from bitsperdim.config.params import model_section, read_params
from bitsperdim.core.errors import InputError
from bitsperdim.core.randomness import stream
from bitsperdim.models import build
from bitsperdim.runtime.device import set_up_device
from bitsperdim.runtime.distributed import share
from bitsperdim.training.batches import Presentation
from bitsperdim.training.captured import CapturedSteps
from bitsperdim.training.step import Optimization

ROOT = Path(__file__).resolve().parents[1]
DIGITS, MNIST, COLOUR = ((1, 8, 8), 17), ((1, 28, 28), 2), ((3, 32, 32), 256)
BURDA = {"family": "vae", "latent_size": 50, "hidden_sizes": [200, 200], "likelihood": "bernoulli"}
PUBLISHED: dict[str, tuple[tuple[tuple[int, int, int], int], dict[str, Any], int]] = {  # images, section, batch
    "vae 784-200-200-50, k = 1": (MNIST, BURDA | {"train_samples": 1}, 1_000),
    "vae 784-200-200-50, k = 50": (MNIST, BURDA | {"train_samples": 50}, 500),
    "gated_pixelcnn 8 x 32": (
        MNIST,
        {"family": "gated_pixelcnn", "n_filters": 32, "n_layers": 8, "kernel_size": 21},
        64,
    ),
    "pixelcnn_pp 2 x 40": (
        COLOUR,
        {"family": "pixelcnn_pp", "n_filters": 40, "n_blocks": 2, "likelihood": "coupled_logistic", "n_mixtures": 5},
        32,
    ),
}
WAYS: dict[str, dict[str, bool]] = {"plain": {}, "compiled": {"compile": True}, "captured": {"capture": True}}


def stepper(
    section: FamilySection, settings: TrainSection, images: Tensor, n_levels: int, device: torch.device
) -> Callable[[], Tensor]:
    """Return a function that takes the next step of a new training run."""
    model = build(section.family, section.hyperparameters, tuple(images.shape[1:]), n_levels, seed=0).to(device)  # type: ignore[arg-type]
    generator = stream("training", 0, device=device)
    presentation = Presentation(images, None, n_levels, dynamic=False, n_samples=section.n_train_samples)
    model.initialise(images)
    optimization = Optimization(model.train(), settings, 1_000_000, generator)
    captured = CapturedSteps(optimization, presentation, generator, section.family) if settings.capture else None
    index = torch.arange(settings.batch_size, device=device)
    number = iter(range(1_000_000))

    def step() -> Tensor:
        if captured is not None:
            return captured.take_step(next(number), index, section.n_train_samples)
        x, labels, noise = presentation.batch(index, generator)
        return optimization.take_step(next(number), x, labels, noise, section.n_train_samples, share(len(index)))

    return step


def row(name: str, section: FamilySection, settings: TrainSection, shape: tuple[int, int, int], n_levels: int) -> None:
    device = set_up_device()
    is_gpu = device.type == "cuda"
    images = torch.arange(settings.batch_size * shape[0] * shape[1] * shape[2], device=device) % n_levels
    images = images.reshape(settings.batch_size, *shape).to(torch.uint8)
    n_turns, n_steps = (10, 20) if is_gpu else (5, 2)
    ways = {way: keys for way, keys in WAYS.items() if is_gpu or way != "captured"}
    steps, times, losses, failed = {}, {way: [] for way in ways}, {way: [] for way in ways}, {}  # type: ignore[var-annotated]
    for way, keys in ways.items():
        try:
            steps[way] = stepper(section, settings.model_copy(update=keys), images, n_levels, device)
            losses[way] += [steps[way]() for _ in range(5)]  # warm up
        except (InputError, RuntimeError) as error:  # show the error in the table and continue with the other variants
            failed[way] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
            steps.pop(way, None)
    for _ in range(n_turns):
        for way, step in steps.items():
            wait_for(device)
            started = time.perf_counter()
            losses[way] += [step() for _ in range(n_steps)]
            wait_for(device)
            times[way].append((time.perf_counter() - started) / n_steps)
    cells = [name, f"{settings.batch_size}"]
    plain = torch.stack(losses["plain"])
    for way in WAYS:
        if way not in steps:
            cells.append(failed.get(way, "needs a GPU"))
            continue
        off = float(((torch.stack(losses[way]) - plain) / plain).abs().max())
        cells.append(f"{1_000 * statistics.median(times[way]):.3g} ms" + ("" if way == "plain" else f" ({off:.0e})"))
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    params = read_params(ROOT / "params.yaml")
    asked = sys.argv[1:2]
    heading("A training step: milliseconds, and the relative difference of its losses", set_up_device())
    table(("model", "batch", *WAYS), [])
    for name in params.models:
        section = params.section(name)
        settings = section.settings(params.train).model_copy(update={"average_decay": 0.999})
        is_trained = name not in ("histogram", "gaussian") and getattr(section, "dequantization", "") != "uniform_fixed"
        if is_trained and all(word in name for word in asked):
            row(name, section, settings, *DIGITS)
    for name, ((shape, n_levels), content, batch_size) in PUBLISHED.items():
        if all(word in name for word in asked):
            section = model_section("model", content)
            settings = params.train.model_copy(update={"average_decay": 0.999, "batch_size": batch_size})
            row(name, section, section.settings(settings), shape, n_levels)


if __name__ == "__main__":
    main()
