"""Pictures of a model: its samples, reconstructions, completions, and the receptive field of one pixel.

Invariants (``tests/evaluation/test_evaluation.py``): pictures show the model of the first seed, and are drawn with
their own random numbers; a model that is conditioned on the class draws one class in each column.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from bitsperdim.config.params import EvaluateSection
from bitsperdim.core.randomness import stream
from bitsperdim.data.pictures import as_grey, evenly_spaced, write_grid, write_receptive_field
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.models import AutoregressiveModel, ImageModel, LatentModel
from bitsperdim.models.autoregressive import completed
from bitsperdim.models.look_ahead import N_CHECKED, receptive_field

N_COMPLETIONS = 3  # completions for each test image


def some_test_images(
    prepared: PreparedImages, n_images: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return at most ``n_images`` test images, evenly spaced, and their labels if there are any."""
    labels = prepared.labels.get("test")
    x = torch.from_numpy(evenly_spaced(prepared.images["test"], n_images)).to(device)
    return x, None if labels is None else torch.from_numpy(evenly_spaced(labels, n_images)).to(device)


@torch.no_grad()
def draw_pictures(
    folder: Path, model: ImageModel, prepared: PreparedImages, section: EvaluateSection, device: torch.device
) -> None:
    """Write the pictures of a model to a folder.

    If the model can be sampled, ``samples.png`` shows samples; models that are conditioned on the class draw one class
    in each column. For models with a latent code, ``reconstructions.png`` shows each test image above the mean of
    p(x given z) at the mean of its code. For autoregressive models with weights, ``completions.png`` shows a row of
    test images, and below it rows in which the upper half is kept and the rest is drawn. ``receptive_field.png`` shows
    what one pixel depends on.
    """
    model = model.to(device).eval()
    generator = stream("pictures", section.seed, device=device)
    folder.mkdir(parents=True, exist_ok=True)  # the folder is an output of the stage, even if it stays empty
    if model.can_sample:
        draw_samples(folder / "samples.png", model, section, generator)
    if isinstance(model, LatentModel) and model.has_derivatives:
        draw_reconstructions(folder / "reconstructions.png", model, prepared, section, device)
    if isinstance(model, AutoregressiveModel) and any(True for _ in model.parameters()):  # a histogram has none
        draw_completions(folder / "completions.png", model, prepared, section, generator)
        draw_receptive_field(folder / "receptive_field.png", model, prepared, generator)


def draw_samples(path: Path, model: ImageModel, section: EvaluateSection, generator: torch.Generator) -> None:
    """Write samples from the model; if it is conditioned on the class, each column shows one class."""
    n_columns = None if model.n_classes is None else min(model.n_classes, section.n_pictures)
    classes = None if n_columns is None else torch.arange(section.n_pictures, device=generator.device) % n_columns
    batches = []
    for start in range(0, section.n_pictures, section.batch_size):
        n_images = min(section.batch_size, section.n_pictures - start)
        given = None if classes is None else classes[start : start + n_images]
        batches.append(model.sample(n_images, labels=given, generator=generator).cpu().numpy())
    write_grid(path, np.concatenate(batches), model.n_levels, n_columns)


def draw_reconstructions(
    path: Path, model: LatentModel, prepared: PreparedImages, section: EvaluateSection, device: torch.device
) -> None:
    """Write test images, each above its reconstruction, in full rows."""
    test = prepared.images["test"]
    n_columns = min(len(test), max(1, math.isqrt(section.n_pictures)))
    n_rows = min(len(test) // n_columns, max(1, n_columns // 2))
    x, _ = some_test_images(prepared, n_columns * n_rows, device)
    pairs = torch.stack([x.double(), model.reconstruct(x).double()]).cpu().numpy()  # (2, B, C, H, W)
    grey = as_grey(pairs, model.n_levels)
    rows = [grey[:, start : start + n_columns] for start in range(0, len(x), n_columns)]
    interleaved = np.concatenate([row.reshape(-1, *model.image_shape) for row in rows])
    write_grid(path, interleaved, 256, n_columns)


def draw_completions(
    path: Path,
    model: AutoregressiveModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    generator: torch.Generator,
) -> None:
    """Write a row of test images, and rows of completions of their upper halves."""
    x, labels = some_test_images(prepared, max(1, math.isqrt(section.n_pictures)), generator.device)
    n_kept = model.image_shape[1] // 2
    repeated = None if labels is None else labels.repeat(N_COMPLETIONS)
    drawn = completed(model, x.repeat(N_COMPLETIONS, 1, 1, 1), n_kept, labels=repeated, generator=generator)
    write_grid(path, torch.cat([x, drawn]).cpu().numpy(), model.n_levels, len(x))


def draw_receptive_field(
    path: Path, model: AutoregressiveModel, prepared: PreparedImages, generator: torch.Generator
) -> None:
    """Write what a pixel near the left end of the last row depends on; a blind spot would be largest there."""
    x, labels = some_test_images(prepared, N_CHECKED, generator.device)
    _, height, width = model.image_shape
    row, column = height - 1, width // 4
    seen = receptive_field(model, x, row, column, labels=labels, generator=generator)
    write_receptive_field(path, seen.double().cpu().numpy(), row, column)
