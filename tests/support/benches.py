"""Images on which mistakes are made, and the models that are trained on them: once for all tests of a process."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bitsperdim
from bitsperdim.config.known import MistakesSection
from bitsperdim.config.params import DatasetSection, DequantizeSection
from bitsperdim.data import preparation
from bitsperdim.sources.base import RawImages
from bitsperdim.studies.known.mistakes import MISTAKES
from bitsperdim.studies.known.mistakes.bench import Bench, Images
from bitsperdim.studies.known.mistakes.mistake import Mistake, row_of

SMALL = MistakesSection(n_images=12, n_train=60, size=4, n_steps=3, n_samples=16, n_asked=64)
EVERY: Mapping[str, Mistake] = {mistake.name: mistake for mistakes in MISTAKES.values() for mistake in mistakes}


@functools.cache
def digits() -> Bench:
    """The digits with the parameters of the study."""
    section, data = MistakesSection(), bitsperdim.load_data("digits")
    assert data.train is not None
    assert data.validation is not None
    arrays = {"train": data.train, "validation": data.validation, "test": data.images}
    limits = {"train": section.n_train, "validation": section.n_images, "test": section.n_images}
    splits, labels = {}, {}
    for split, array in arrays.items():
        rows = np.arange(min(len(array), limits[split])) * len(array) // min(len(array), limits[split])
        splits[split] = torch.from_numpy(array[rows].astype(np.int64))
        labels[split] = data.prepared.labels[split][rows]
    return Bench(Images(splits, labels, data.n_levels, "digits/none", is_cut=False), section, 0)


@functools.cache
def row(name: str) -> dict[str, Any]:
    """The row of a mistake on digits."""
    return row_of(EVERY[name], "a group", digits())


def prepare(folder: Path, shape: tuple[int, int, int], n_levels: int, binarization: str = "none") -> None:
    """Write 150 images of blobs as ``dequantize`` does, with labels."""
    rng = np.random.default_rng(0)
    level = rng.random((150, 1, 1, 1)) * np.linspace(0.2, 1, shape[2]) + 0.1 * rng.standard_normal((150, *shape))
    images = (level.clip(0, 0.999) * n_levels).astype(np.uint8)
    labels = rng.integers(3, size=150)
    dataset = DatasetSection(name="digits", path="-", n_levels=None, validation_fraction=0.1, test_fraction=0.2, seed=0)
    dequantize = DequantizeSection(bits=None, binarization=binarization)  # type: ignore[arg-type]
    preparation.prepare(RawImages({"train": images}, {"train": labels}), dataset, dequantize, n_levels, folder)
