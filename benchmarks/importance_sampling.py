"""Measure the estimation of log P(x) of a VAE (784-200-200-50, Bernoulli), against pythae's ``get_nll``.

Both use the same weights, the same few images and the same K. The unit of work is one evaluation of the decoder, for
one image and one sample. Our code works in one batch, with one encoder pass per image, and includes all statistics
(errors, bias, jackknife, k-hat). pythae's code is unchanged: it works image by image, with the fastest number of
samples at a time, which is searched first. The two take turns, so that other load on the machine affects both. The
table shows medians of 20 turns. The peak of float32 matrix products is measured in the same process; the last column is
the speed of the decoder's own multiplications as a share of it. Memory is measured in a separate process for each K.

pythae is not a dependency of this project; without it, only our code is measured.

With a GPU, one more table shows how long 10,000 images with K = 5,000 take on it, with all statistics. The target is
5 s on a card like an H200. ``--gpu`` measures only this; without a GPU, it uses the CPU and a few images.

    pip install --no-deps pythae
    python benchmarks/importance_sampling.py
    python benchmarks/importance_sampling.py --gpu
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import subprocess
import sys
from typing import Any

import torch
from measuring import heading, matrix_product_peak, seconds, table
from torch import Tensor

from bitsperdim.evaluation.estimate import Estimate, estimate
from bitsperdim.models import build
from bitsperdim.models.vae import VAE
from bitsperdim.runtime.device import set_up_device
from bitsperdim.runtime.stage import peak_memory

SIZES = {"latent_size": 50, "hidden_sizes": [200, 200], "deeper": []}
N_TURNS, N_SAMPLES, N_IMAGES = 20, 5_000, 40
CHUNK = 250
FLOPS = 2 * (50 * 200 + 200 * 200 + 200 * 784)  # floating-point operations of one evaluation of the decoder
BATCH_SIZES = (100, 250, 500, 1_000, 2_500, 5_000)


def model_and_images(n_images: int) -> tuple[VAE, Tensor]:
    """Return a VAE, with initial weights that are scaled so that its latent code matters, and binary images."""
    model = build("vae", {**SIZES, "likelihood": "bernoulli", "n_mixtures": 1, "doubly_reparameterized": False},
                  (1, 28, 28), 2)  # fmt: skip
    assert isinstance(model.eval(), VAE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.to_outputs.weight.mul_(3)
        model.encoders[0].to_log_scale.bias.fill_(-0.5)
        images = model.sample(n_images, generator=generator)
    return model, images


def ours(model: VAE, images: Tensor, n_samples: int = N_SAMPLES) -> Estimate:
    return estimate(
        model, images, n_samples, chunk_size=CHUNK, batch_size=100, generator=torch.Generator().manual_seed(1)
    )


def as_pythae(model: VAE) -> Any:  # noqa: ANN401
    """Return pythae's VAE with the same weights."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def forward(self, x: Tensor) -> ModelOutput:
            normal = model.encoders[0](2 * x.flatten(1) - 1 - model.centre)
            return ModelOutput(embedding=normal.mean, log_covariance=2 * normal.log_scale)

    class Decoder(BaseDecoder):
        def forward(self, z: Tensor) -> ModelOutput:
            logits = model.to_outputs(model.decoder(z))
            return ModelOutput(reconstruction=torch.sigmoid(logits).reshape(-1, 1, 28, 28))

    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=50, reconstruction_loss="bce")
    return models.VAE(config, Encoder(), Decoder()).eval()


@torch.no_grad()
def compare() -> None:
    model, images = model_and_images(N_IMAGES)
    n_evaluations = N_IMAGES * N_SAMPLES
    theirs = as_pythae(model) if importlib.util.find_spec("pythae") else None
    x = images.float()
    works: dict[str, Any] = {"ours": lambda: ours(model, images)}
    if theirs is not None:
        speeds = {
            size: min(seconds(lambda size=size: theirs.get_nll(x[:10], N_SAMPLES, size)) for _ in range(3))
            for size in BATCH_SIZES
        }
        best = min(speeds, key=speeds.__getitem__)
        works[f"pythae, batches of {best:,}"] = lambda: theirs.get_nll(x, N_SAMPLES, best)
    times: dict[str, list[float]] = {name: [] for name in works}
    peaks = []
    for _ in range(N_TURNS):
        for name, work in works.items():
            times[name].append(seconds(work))
        peaks.append(matrix_product_peak(torch.float32, 1024, 1))
    peak = statistics.median(peaks)
    rows = []
    for name, found in times.items():
        speed = n_evaluations / statistics.median(found)
        ratio = statistics.median(b / a for a, b in zip(times["ours"], found, strict=True))
        rows.append(
            [name, f"{speed:,.0f}", f"{1 / ratio:.2f}", f"{speed * FLOPS / peak:.0%} of {peak / 1e9:.0f} GFLOP/s"]
        )
    heading(f"Importance sampling of a VAE, 784-200-200-50, K = {N_SAMPLES:,}")
    table(("code", "decoder evaluations/s", "speed, ours = 1", "decoder's share of the peak"), rows)
    if theirs is not None:
        result = ours(model, images)
        nll = float(theirs.get_nll(x, N_SAMPLES, best))
        error = math.sqrt(2 * float(result.standard_error.square().sum())) / N_IMAGES
        print(f"\nBoth numbers agree: ours {float(result.log_p.mean()):.4f}, pythae's {nll:.4f} nats; the difference "
              f"is {abs(float(result.log_p.mean()) - nll) / error:.1f} standard errors.")  # fmt: skip


def whole_test_set() -> None:
    """Estimate a whole test set on the available device; a first run warms up, and the second one is measured."""
    device = set_up_device()
    is_gpu = device.type == "cuda"
    n_images, batch, chunk, n_warm_up = (10_000, 200, 1_250, 400) if is_gpu else (4, 2, CHUNK, 2)
    model, images = model_and_images(n_images)
    model, images = model.to(device), images.to(device)
    generator = torch.Generator(device).manual_seed(1)

    def work(n: int) -> None:
        estimate(model, images[:n], N_SAMPLES, chunk_size=chunk, batch_size=batch, generator=generator)

    work(n_warm_up)
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = seconds(lambda: work(n_images), device)
    peak = matrix_product_peak(torch.float32, 8192 if is_gpu else 1024, 3, device)
    n_evaluations = n_images * N_SAMPLES
    used = torch.cuda.max_memory_allocated() if is_gpu else peak_memory()
    heading(f"Importance sampling of a whole test set, 784-200-200-50, K = {N_SAMPLES:,}", device)
    table(
        ("images", "seconds", "decoder evaluations/s", "decoder's share of the peak", "memory, MiB"),
        [
            [
                f"{n_images:,}",
                f"{taken:.2f}",
                f"{n_evaluations / taken:,.0f}",
                f"{n_evaluations * FLOPS / taken / peak:.0%} of {peak / 1e9:,.0f} GFLOP/s",
                f"{used / 2**20:,.0f}",
            ]
        ],
    )
    if is_gpu:
        print(f"\nThe target of 5 s is {'met' if taken <= 5 else 'not met'}.")


def memory(n_samples: int) -> None:
    model, images = model_and_images(20)
    before = peak_memory()
    ours(model, images, n_samples)
    print(f"| {n_samples:,} | {peak_memory() / 2**20:.0f} | {before / 2**20:.0f} |")


def main() -> None:
    if sys.argv[1:] == ["--gpu"]:
        whole_test_set()
        return
    if len(sys.argv) > 1:
        memory(int(sys.argv[1]))
        return
    compare()
    heading("Memory of an evaluation of 20 images")
    table(("K", "peak, MiB", "before, MiB"), [])
    for n_samples in (100, 1_000, 5_000):
        subprocess.run([sys.executable, __file__, str(n_samples)], check=True)
    if torch.cuda.is_available():
        whole_test_set()


if __name__ == "__main__":
    main()
