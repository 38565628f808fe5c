"""From a source's images to what the models see: split, quantize, binarize, draw the evaluation noise.

- **Splits.** An official test or validation set is used as it is. Otherwise a seeded share of the
  training images becomes the test set, and then a seeded share *of what is left for training*
  becomes the validation set: validation images always come from the training part.
- **Quantization** to b bits: x -> floor(x 2^b / L). For L = 256 this drops the lowest 8-b bits.
- **Binarization.** ``static``: the images come binarized, once and for all. ``threshold``: 1 where
  x / (L-1) >= 1/2. ``dynamic``: 1 with probability
  x / (L-1), drawn once for validation and test, and anew at each presentation for training
  (the training images are therefore stored grey).
- **Noise.** One dequantization noise u in [0, 1) for each validation and test sub-pixel, so that
  every density model is evaluated on the same draw.

Every draw of every split comes from ``dataset.seed`` through a stream of its own, so that neither noise
nor another validation set moves the test set. Nothing is resized, padded, shuffled within a split or dropped.

Images go through in chunks, from the source's files to those of the splits: what is held in memory does
not grow with the number of images, but for a hash of each. A split is a folder of plain arrays, ``images.npy``,
``labels.npy`` where there are any, and ``noise.npy`` where it is evaluated; that of the test set holds ``same_as.npy``
and ``in_train.npy`` too (:mod:`.repeated`), ``near_train.npy`` (:mod:`.near`), and ``log_p_true.npy`` where the images
are drawn from a known distribution, of which the tag names the parameters.

**The protocol tag** names what must be equal for numbers to be comparable: data set, treatment, shape, levels, the
number of test images, what the model is given. Treatments that give the same images have one tag: ``bits: 1`` of 256
levels is ``threshold``, and any binarization of two levels is ``none``.

Invariants (``tests/data/test_preparation.py``): the splits are a partition; quantization keeps the
order and reaches every level; both binarizations have the stated probability; one seed gives one
set of bytes, whatever the size of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitsperdim.core.errors import InputError
from bitsperdim.core.files import (
    CHUNK_VALUES,
    Rows,
    StoredArray,
    in_chunks,
    sha256,
    write_json,
    write_npy,
)
from bitsperdim.data import near, repeated
from bitsperdim.data.prepared import ARRAYS, SPLITS, Description
from bitsperdim.sources import SOURCES, Drawn, RawImages

if TYPE_CHECKING:
    from bitsperdim.config.params import DatasetSection, DequantizeSection

STREAMS = (
    "split of test",
    "split of validation",
    "binarization of validation",
    "binarization of test",
    "noise of validation",
    "noise of test",
)


def read_source(dataset: DatasetSection, folder: Path) -> RawImages:
    """Read the images of a source from the folder that ``download`` wrote, or draw them.

    Raises:
        InputError: a file is missing or damaged.
    """
    source = SOURCES[dataset.name]
    if isinstance(source, Drawn):
        return source.draw(dataset.drawn, dataset.n_levels, dataset.seed)
    return source.read(folder)


def prepare(
    raw: RawImages, dataset: DatasetSection, dequantize: DequantizeSection, raw_levels: int, folder: Path
) -> Description:
    """Split, quantize and binarize the images of a source, draw the evaluation noise, and write it all.

    Args:
        raw: the images as published.
        dataset: the seed, the shares of the splits and the name in the protocol tag.
        dequantize: bits and binarization.
        raw_levels: L of the published images.
        folder: where the splits are written, and last of all ``description.json``.

    Raises:
        InputError: an image exceeds the stated levels, or a split would be empty.
    """
    for name, images in raw.images.items():
        _check_values(name, images, raw_levels)
    sizes = {name: len(images) for name, images in raw.images.items()}
    index = split_indices(sizes, dataset.test_fraction, dataset.validation_fraction, dataset.seed)
    for path in (folder / "description.json", *(folder / split / f"{name}.npy" for split in SPLITS for name in ARRAYS)):
        path.unlink(missing_ok=True)
    channels, height, width = image_shape = raw.images["train"].shape[1:]
    hashes, digests, labels = {}, {}, {}
    for split, (part, rows) in index.items():
        shape = (len(rows), *image_shape)
        digests[split], chunks = _treated(raw.images[part], rows, split, dataset.seed, dequantize, raw_levels)
        hashes[split] = write_npy(folder / split / "images.npy", shape, np.dtype(np.uint8), chunks)
        if raw.labels:
            labels[split] = raw.labels[part][rows]
            _write(folder / split / "labels.npy", labels[split])
        if split != "train":
            noise = _noise(shape, _generator(dataset.seed, f"noise of {split}"))
            write_npy(folder / split / "noise.npy", shape, np.dtype(np.float32), noise)
    if raw.are_independent:  # equal draws are no copies: each stands for itself
        digests = {split: [f"{split} {row}".encode() for row in range(len(rows))] for split, (_, rows) in index.items()}
        _write(folder / "test" / "log_p_true.npy", raw.log_p["test"])
    _write(folder / "test" / "same_as.npy", repeated.first_equal(digests["test"]))
    in_train = repeated.are_among(digests["test"], digests["train"])
    _write(folder / "test" / "in_train.npy", in_train)
    near_train = np.full(len(in_train), -1)
    if not raw.are_independent:
        train, test = (StoredArray(folder / split / "images.npy") for split in ("train", "test"))
        as_train = in_chunks(test)
        if dequantize.binarization == "dynamic":  # grey images are compared, as the training images are stored
            part, rows = index["test"]
            as_train = _unbinarized(raw.images[part], rows, dequantize, raw_levels)
        first = np.unique(repeated.first_equal(digests["train"]))
        near_train = near.near_copies(as_train, train, first, in_train).of
    _write(folder / "test" / "near_train.npy", near_train)
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    treatment, n_levels = _treatment(dataset.name, dequantize, raw_levels)
    n_images = {split: len(rows) for split, (_, rows) in index.items()}
    name, size = "-".join(filter(None, (dataset.name, raw.tag))), f"{height}x{width}x{channels}"
    description = Description(
        image_shape=(channels, height, width),
        n_levels=n_levels,
        train_levels=levels if dequantize.binarization == "dynamic" else n_levels,
        binarization=dequantize.binarization,
        n_images=n_images,
        test_sha256=hashes["test"],
        protocol=f"{name}/{treatment}/{size}/L{n_levels}/test{n_images['test']}/given-none",
        train_sha256=hashes["train"],
        validation_sha256=hashes["validation"],
        test_labels_sha256=sha256(labels["test"]) if labels else "",
        n_test_classes=len(np.unique(labels["test"])) if labels else 0,
        n_same={**repeated.counted(digests), "test_near_train": int((near_train >= 0).sum())},
    )
    write_json(folder / "description.json", asdict(description))
    return description


def _check_values(name: str, images: Rows, raw_levels: int) -> None:
    largest = max(int(chunk.max()) for chunk in in_chunks(images))
    if largest >= raw_levels:
        raise InputError(
            f"The {name} images hold the value {largest}, but dataset.n_levels = {raw_levels} allows 0 to "
            f"{raw_levels - 1}; raise dataset.n_levels."
        )


def _write(path: Path, array: np.ndarray) -> None:
    write_npy(path, array.shape, array.dtype, [array])


def _treatment(name: str, dequantize: DequantizeSection, raw_levels: int) -> tuple[str, int]:
    """Return how a protocol tag calls what is done to the images, the same for the same images, and L after it."""
    quantized = _quantized(raw_levels, dequantize.bits)
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    n_levels = levels if dequantize.binarization == "none" else 2
    if dequantize.binarization == "static" or (dequantize.binarization == "dynamic" and levels > 2):
        return _binarized(name, dequantize.binarization, levels), n_levels
    # of two levels nothing is left to chance
    treated = binarize_by_threshold(quantized, levels) if dequantize.binarization == "threshold" else quantized
    for bits in (None, *range(1, 8)):
        of_levels = raw_levels if bits is None else 2**bits
        coarser = _quantized(raw_levels, bits)
        if np.array_equal(treated, coarser):
            return "none", n_levels
        if np.array_equal(treated, binarize_by_threshold(coarser, of_levels)):
            return _binarized(name, "threshold", of_levels), n_levels
    raise AssertionError("a treatment is one of those that are tried")


def _binarized(name: str, binarization: str, levels: int) -> str:
    """Return a binarization's part of a tag: of images coarser than those of the source, it gives other images."""
    return binarization if levels == SOURCES[name].n_levels else f"{binarization}-of-L{levels}"


def _quantized(raw_levels: int, bits: int | None) -> np.ndarray:
    """Return what becomes of each level, (raw_levels,) uint8."""
    raw = np.arange(raw_levels, dtype=np.uint8)
    return raw if bits is None else quantize(raw, raw_levels, bits)


def _treated(
    images: Rows, rows: np.ndarray, split: str, seed: int, dequantize: DequantizeSection, raw_levels: int
) -> tuple[list[bytes], Iterator[np.ndarray]]:
    """Return the images of a split as they are stored, chunk by chunk, and a list that fills with their hashes."""
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    draws = dequantize.binarization == "dynamic" and split != "train"  # training images are drawn when presented
    generator = _generator(seed, f"binarization of {split}") if draws else None
    hashes: list[bytes] = []

    def chunks() -> Iterator[np.ndarray]:
        for chunk in _unbinarized(images, rows, dequantize, raw_levels):
            hashes.extend(repeated.digests(chunk))
            yield chunk if generator is None else binarize_by_chance(chunk, levels, generator)

    return hashes, chunks()


def _unbinarized(
    images: Rows, rows: np.ndarray, dequantize: DequantizeSection, raw_levels: int
) -> Iterator[np.ndarray]:
    """Return the images of a split, chunk by chunk, before they are binarized by chance."""
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    n_rows = max(1, CHUNK_VALUES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(rows), n_rows):
        chunk = images[rows[start : start + n_rows]]
        if dequantize.bits is not None:
            chunk = quantize(chunk, raw_levels, dequantize.bits)
        yield binarize_by_threshold(chunk, levels) if dequantize.binarization == "threshold" else chunk


def _noise(shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw uniform noise chunk by chunk."""
    n_rows = max(1, CHUNK_VALUES // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], n_rows):
        yield generator.random((min(n_rows, shape[0] - start), *shape[1:]), dtype=np.float32)


def split_indices(
    sizes: Mapping[str, int], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """Say from which published part, and which rows of it, each split comes.

    Args:
        sizes: the number of images of each published part; ``train`` is one of them.
        test_fraction: the share of ``train`` set aside where no ``test`` is published.
        validation_fraction: the share of the rest set aside where no ``validation`` is published.
        seed: ``dataset.seed``.

    Returns:
        split -> (part, rows), the rows in increasing order.
    """
    rows = np.arange(sizes["train"])
    index = {}
    for split, share in (("test", test_fraction), ("validation", validation_fraction)):
        if split in sizes:
            index[split] = (split, np.arange(sizes[split]))
            continue
        n_aside = round(share * len(rows))
        if n_aside == 0 or n_aside == len(rows):
            raise InputError(
                f"params.yaml: dataset.{split}_fraction = {share} of {len(rows)} images would leave "
                f"the {'training' if n_aside else split} set empty."
            )
        order = _generator(seed, f"split of {split}").permutation(len(rows))
        index[split] = ("train", np.sort(rows[order[:n_aside]]))
        rows = np.sort(rows[order[n_aside:]])
    index["train"] = ("train", rows)
    return index


def quantize(images: np.ndarray, n_levels: int, bits: int) -> np.ndarray:
    """Reduce images of ``n_levels`` levels to 2^bits levels: floor(x 2^bits / L), uint8 to uint8."""
    table = (np.arange(n_levels) * 2**bits // n_levels).astype(np.uint8)
    return table[images]


def binarize_by_threshold(images: np.ndarray, n_levels: int) -> np.ndarray:
    """Return 1 where x / (L-1) >= 1/2, else 0; uint8."""
    return (2 * images.astype(np.int16) >= n_levels - 1).astype(np.uint8)


def binarize_by_chance(images: np.ndarray, n_levels: int, generator: np.random.Generator) -> np.ndarray:
    """Return 1 with probability x / (L-1), else 0; uint8."""
    return (generator.random(images.shape) * (n_levels - 1) < images).astype(np.uint8)


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, STREAMS.index(stream)])
