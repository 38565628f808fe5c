r"""The study of density and mass: what a continuous density says about discrete images, and what it does not say.

It has five parts; the first four are compared with exact answers:

- :mod:`.hypotheses`: a ratio of densities is the limit of the ratio of probabilities of smaller and smaller intervals;
- :mod:`.collapse`: a density at whole numbers can be made arbitrarily large; a density of dequantized values cannot;
- :mod:`.bound`: dequantization gives a lower bound on a log-mass; its gap, its bias and its error bars;
- :mod:`.coding`: bits are the length of messages, and a wrong model costs the divergence in addition;
- :mod:`.dequantizing`: the cost of each way of dequantizing, for a flow on the real images.

The subject is that of Keng's essay "A Note on Using Log-Likelihood for Generative Models" and of Theis, van den Oord
and Bethge (2016, "A note on the evaluation of generative models"). Parts two and four use the levels of the training
images as if all sub-pixels were independent; the levels are counted over a bounded number of images. The study does not
use the models of ``params.yaml``.

Invariants (``tests/studies/test_density_and_mass.py``):

1. The same counts and parameters give the same bytes (``test_a_rerun_is_byte_identical``).
2. No more sub-pixels are read than allowed, spread over all images (``test_the_levels_are_counted_within_bounds``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitsperdim.core.files import StoredArray, in_chunks, reading, write_csv, write_json
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import nats_to_bits
from bitsperdim.data.prepared import load_prepared
from bitsperdim.studies.density_and_mass import bound, coding, collapse, hypotheses

if TYPE_CHECKING:
    from bitsperdim.config.params import DensityAndMassSection

__all__ = ["Levels", "count_levels", "study", "write"]

STREAMS = ("collapse", "coding")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Levels:
    """Counts of the levels.

    Attributes:
        counts: number of sub-pixels with each level, (L,) int64.
        n_images: number of images that were read.
        n_pixels: number of sub-pixels that were read, which is the sum of the counts.
    """

    counts: np.ndarray
    n_images: int
    n_pixels: int


def count_levels(folder: Path, max_pixels: int) -> Levels:
    """Count the levels of the training images as they are stored.

    Args:
        folder: folder written by ``dequantize``.
        max_pixels: maximum number of sub-pixels to read, from images that are evenly spread over the set; at least one
            image is read.

    Raises:
        InputError: the images are missing or damaged.
    """
    description = load_prepared(folder, ()).description
    path = folder / "train" / "images.npy"
    with reading(path, "dequantize"):
        images = StoredArray(path)
        n_images = min(len(images), max(1, max_pixels // math.prod(images.shape[1:])))
        rows = np.arange(n_images) * len(images) // n_images
        counts = np.zeros(description.train_levels, dtype=np.int64)
        for chosen in in_chunks(rows, max(1, 2**20 // math.prod(images.shape[1:]))):
            counts += np.bincount(images[chosen].ravel(), minlength=len(counts))
    return Levels(counts, n_images, int(counts.sum()))


def study(section: DensityAndMassSection, levels: Levels) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Run the four parts that have exact answers.

    Returns:
        The metrics, and the rows of each table by its name.
    """
    p = levels.counts / levels.counts.sum()
    h = nats_to_bits(collapse.entropy(p))
    generators = {name: np.random.default_rng([section.seed, index]) for index, name in enumerate(STREAMS)}
    fits = collapse.fit_both(p, section.n_steps, section.step_size, generators["collapse"])
    noise = stream("study_bound", section.seed)
    of_bound = bound.estimate_again_and_again(section.n_replicates, section.n_samples, noise)
    metrics = {
        "levels": {
            "n_levels": len(levels.counts),
            "n_occurring": int(np.count_nonzero(levels.counts)),
            "n_images": levels.n_images,
            "n_pixels": levels.n_pixels,
            "entropy_bits": h,
        },
        "hypotheses": hypotheses.summary(),
        "collapse": {
            "raw_kind": "density",
            "raw_bits": fits.rows[-1]["raw_bits"],
            "dequantized_bits": fits.rows[-1]["dequantized_bits"],
            "mass_bits": fits.mass_bits,
            "smallest_scale": fits.smallest_scale,
            "quadrature_error_bits": fits.quadrature_error,
        },
        "bound": of_bound.summary,
        "coding": coding.messages(levels.counts, section.n_symbols, generators["coding"]),
    }
    tables: dict[str, Rows] = {
        "hypotheses": hypotheses.curves(),
        "intervals": hypotheses.by_width(),
        "levels": [{"level": level, "probability": float(mass)} for level, mass in enumerate(p)],
        "collapse": fits.rows,
        "density": of_bound.curve,
        "bound_by_level": of_bound.by_level,
        "bound_against_k": of_bound.against_k,
        "blocks": coding.blocks(levels.counts[levels.counts > 0]),
    }
    return metrics, tables


def write(folder: Path, metrics: Mapping[str, Any], tables: Mapping[str, Rows]) -> None:
    """Write ``metrics.json`` and one CSV for each table into ``folder``."""
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", list(rows[0]), rows)
    write_json(folder / "metrics.json", metrics)
