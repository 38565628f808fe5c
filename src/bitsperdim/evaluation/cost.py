"""Measurement of the memory and time that scoring needs, on a first share of the work. No result depends on it."""

from __future__ import annotations

import sys
import time

import torch

from bitsperdim.config.params import EvaluateSection
from bitsperdim.core.announcing import duration
from bitsperdim.core.randomness import stream
from bitsperdim.evaluation.estimate import estimated_rows, images_at_once, samples_of
from bitsperdim.evaluation.images import Data
from bitsperdim.evaluation.refined import is_refined, usual_gradients
from bitsperdim.models import DensityModel, check_labels
from bitsperdim.models.base import ImageModel
from bitsperdim.models.external.codes import seeded
from bitsperdim.runtime.memory import Growth

WORTH_MEASURING = 10  # fewest shares of work for which one extra share is scored first, to measure the cost


def announce_cost(model: ImageModel, data: Data, section: EvaluateSection, device: torch.device, name: str) -> None:
    """Score one extra share first and print the memory and time that scoring needs, if there is much work.

    The extra share has its own random numbers, and no result depends on it.
    """
    size = images_at_once(model, section.n_samples, section.batch_size)
    k = samples_of(model, section.n_samples)
    chunk = min(k, section.chunk_size)
    n_shares = -(-len(data.images) // size) * -(-k // chunk)
    if n_shares < WORTH_MEASURING:
        return
    check_labels(model, data.prepared.labels)
    model.to(device).eval()
    images, noise = (torch.from_numpy(array[:size]) for array in (data.images, data.prepared.noise["test"]))
    labels = None if data.labels is None else torch.from_numpy(data.labels[:size])
    memory, started = Growth(device), time.monotonic()
    with seeded(stream("evaluation", section.seed), device):  # the global generators keep their state
        estimated_rows(
            model,
            images,
            chunk,
            chunk_size=chunk,
            generator=stream("evaluation", section.seed, 2**31, device=device),
            labels=labels,
            noise=noise,
            noise_from="sequential" if isinstance(model, DensityModel) and model.is_triangular else "own",
        )
    grown, whole = memory.measured()
    seconds = (time.monotonic() - started) * n_shares
    if is_refined(model, section):  # a gradient takes about three passes
        seconds *= 1 + 3 * usual_gradients(section.refined) / k
    how_long = f"; at this rate, scoring all images takes about {duration(seconds)}" if seconds >= 1 else ""
    print(
        f"{name}: {size} images{f' with {chunk} samples each' if k > 1 else ''} needed {megabytes(grown)} of memory "
        f"({megabytes(whole)} including everything that is loaded){how_long}.",
        file=sys.stderr,
        flush=True,
    )


def bytes_of(module: torch.nn.Module) -> int:
    """Return the size of all weights and buffers of a module, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def megabytes(n_bytes: float) -> str:
    """Return a size in bytes as text in MB."""
    return f"{n_bytes / 1e6:,.{0 if n_bytes >= 1e7 else 1}f} MB"
