"""Functions that the benchmarks share: timing, the peak speed of the machine, seeded images, a table."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def matrix_product_peak(dtype: torch.dtype, size: int = 2048, n_tries: int = 10, device: torch.device = CPU) -> float:
    """Return the floating-point operations per second of the fastest of several square matrix products."""
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds(lambda: a @ a, device) for _ in range(n_tries))


def operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def coloured_digits(n_images: int, size: int = 32, seed: int = 0) -> Tensor:
    """Return scikit-learn's digits, enlarged, in seeded colours on seeded backgrounds, (N, 3, size, size) uint8."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, 1797, n_images)
    digits = torch.from_numpy(load_digits().images[chosen]).float()[:, None] / 16
    shade = F.interpolate(digits, size=(size, size), mode="bilinear", align_corners=False)
    front, ground = (torch.from_numpy(rng.uniform(0, 255, (n_images, 3, 1, 1))).float() for _ in range(2))
    noise = torch.from_numpy(rng.normal(0, 4, (n_images, 3, size, size))).float()
    return (ground + shade * (front - ground) + noise).round().clamp(0, 255).to(torch.uint8)


def heading(title: str, device: torch.device = CPU) -> None:
    threads = f"{torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {threads}"
    print(f"\n## {title}\n\n{name}, torch {torch.__version__}\n", flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
