"""Measure a training step of the VAE 784-200-200-50 against a plain implementation.

``plain`` uses torch's own layers, binary cross-entropy, gradient clipping, AdamW and an average of the weights, in
float32 and eager mode, in about 60 lines of code. ``ours`` is the trainer's step. Both binarize 28x28 images again at
each presentation, start from the same weights, and get the same batches in turns, so that other load on the machine
affects both. Times are medians of the steps; the first steps, which warm up, do not count. The peak is the speed of
square matrix products of the same number type; one product is timed after each step. The losses, means over the last
half of the steps, differ only by chance.

    python benchmarks/training_vae.py          # k = 1, 5 and 50, two minutes
    python benchmarks/training_vae.py 50       # only k = 50
"""

from __future__ import annotations

import copy
import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
from measuring import coloured_digits, heading, matrix_product_peak, operations, table
from torch import Tensor, nn
from torch.nn import functional as F

from bitsperdim.config.families.base import TrainSection
from bitsperdim.core.randomness import stream
from bitsperdim.models import build
from bitsperdim.models.vae import VAE
from bitsperdim.runtime.distributed import share
from bitsperdim.training.batches import Presentation
from bitsperdim.training.step import DTYPES, Optimization

SIZES = {1: (1_000, 80), 5: (500, 60), 50: (100, 40)}  # k: batch, steps
RATE, DECAY, CLIP, N_WARMUP = 0.002, 0.9995, 100.0, 5
Step = Callable[[Tensor], Tensor]  # maps the row numbers of a batch to its loss


class PlainVAE(nn.Module):
    """A VAE with two hidden layers of 200 units in encoder and decoder, 50 latent variables and Bernoulli pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh())
        self.to_mean, self.to_log_scale = nn.Linear(200, 50), nn.Linear(200, 50)
        self.decoder = nn.Sequential(nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784))

    def loss(self, x: Tensor, k: int) -> Tensor:
        hidden = self.encoder(2 * x - 1)
        mean, log_scale = self.to_mean(hidden), self.to_log_scale(hidden)
        noise = torch.randn(k, *mean.shape)
        z = mean + log_scale.exp() * noise
        logits = self.decoder(z)
        log_p_x = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_p_z = -0.5 * (z.square() + math.log(math.tau)).sum(-1)
        log_q_z = -(0.5 * (noise.square() + math.log(math.tau)) + log_scale).sum(-1)
        return -(torch.logsumexp(log_p_x + log_p_z - log_q_z, 0) - math.log(k)).mean()


def plain(images: Tensor, k: int) -> Step:
    torch.manual_seed(0)
    model = PlainVAE()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    probabilities = images.flatten(1).float() / 255

    def step(index: Tensor) -> Tensor:
        loss = model.loss(torch.bernoulli(probabilities[index]), k)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - DECAY)
        return loss.detach()

    return step


def ours(images: Tensor, k: int, precision: str) -> Step:
    sizes = {"latent_size": 50, "hidden_sizes": [200, 200], "deeper": [], "doubly_reparameterized": False}
    model = build("vae", {**sizes, "likelihood": "bernoulli", "n_mixtures": 1}, (1, 28, 28), 2)
    assert isinstance(model, VAE)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter, start in zip(model.parameters(), PlainVAE().parameters(), strict=True):
            parameter.copy_(start)
    settings = TrainSection.model_validate(
        {"learning_rate": RATE, "warmup_steps": 0, "schedule": "constant", "gradient_clip": CLIP}
        | {"average_decay": DECAY, "precision": precision}
    )
    generator = stream("training", 0)
    presentation = Presentation(images, None, 256, dynamic=True, n_samples=k)
    optimization = Optimization(model.train(), settings, 1_000_000, generator)
    number = iter(range(1_000_000))

    def step(index: Tensor) -> Tensor:
        x, labels, noise = presentation.batch(index, generator)
        return optimization.take_step(next(number), x, labels, noise, k, share(len(index)))

    return step


def compare(k: int) -> None:
    batch_size, n_steps = SIZES[k]
    images = coloured_digits(4 * batch_size, size=28)[:, :1]
    steps = {
        ("plain", "float32"): plain(images, k),
        **{("ours", precision): ours(images, k, precision) for precision in DTYPES},
    }
    order = [torch.randperm(len(images), generator=stream("training", 1))[:batch_size] for _ in range(n_steps)]
    flops = operations(lambda: steps["plain", "float32"](order[0]))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    peaks: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    losses: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for index in order:
        for key, step in steps.items():
            started = time.perf_counter()
            loss = step(index)
            times[key].append(time.perf_counter() - started)
            losses[key].append(float(loss))
            peaks[key].append(matrix_product_peak(DTYPES[key[1]], 1024, 1))
    base = statistics.median(times["plain", "float32"][N_WARMUP:])
    for key in steps:
        median, peak = statistics.median(times[key][N_WARMUP:]), statistics.median(peaks[key][N_WARMUP:])
        cells = [f"{k}", f"{batch_size:,}", *key, f"{batch_size / median:,.0f}", f"{base / median:.2f}"]
        cells.append(f"{flops / median / peak:.0%} of {peak / 1e9:,.0f} GFLOP/s")
        print(f"| {' | '.join([*cells, f'{statistics.mean(losses[key][n_steps // 2 :]):.1f}'])} |", flush=True)


def main() -> None:
    heading("A training step of the VAE 784-200-200-50")
    columns = ("k", "batch", "code", "precision", "images/s", "speed, plain = 1", "share of the peak", "loss, nats")
    table(columns, [])
    for k in [int(each) for each in sys.argv[1:2]] or SIZES:
        compare(k)


if __name__ == "__main__":
    main()
