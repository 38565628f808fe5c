"""Preparation of the images that the models see: split, quantize, binarize, and draw the evaluation noise.

- **Splits.** An official test or validation set is used unchanged. Otherwise a random share of the training images
  becomes the test set. A random share of the *remaining training images* then becomes the validation set. Both random
  choices follow from the seed.
- **Quantization** to b bits: x -> floor(x 2^b / L). For L = 256 this drops the lowest 8-b bits.
- **Binarization.** ``static``: the source publishes binarized images. ``threshold``: a sub-pixel is 1 if
  x / (L-1) >= 1/2. ``dynamic``: a sub-pixel is 1 with probability x / (L-1). This is drawn once for validation and
  test images, and again at each presentation of a training image; the training images are therefore stored grey.
- **Noise.** One value of dequantization noise u in [0, 1) is drawn for each validation and test sub-pixel, so that
  every density model is evaluated on the same draw.

Every random draw for every split comes from ``dataset.seed`` through its own stream. Noise or another validation set
therefore does not change the test set. Nothing is resized, padded, shuffled within a split or dropped.

Images are processed in chunks, from the files of the source to the files of the splits. Memory does not grow with the
number of images, except for one hash per image. A split is a folder of plain arrays:

- ``images.npy``; ``labels.npy`` if the source has labels; ``noise.npy`` for validation and test.
- For the test set also ``same_as.npy`` and ``in_train.npy`` (:mod:`.repeated`) and ``near_train.npy`` (:mod:`.near`).
- For test images from a known distribution also ``log_p_true.npy``; the protocol tag names the parameters of the
  distribution.

**The protocol tag** names everything that must be equal for numbers to be comparable: data set, treatment, shape,
levels, number of test images, and what the model is conditioned on. Treatments that give the same images share one tag:
``bits: 1`` with 256 levels is ``threshold``, and any binarization of two levels is ``none``.

Invariants (``tests/data/test_preparation.py``): the splits are a partition; quantization keeps the order and reaches
every level; both binarizations have the stated probability; one seed gives the same bytes for every chunk size.
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
    """Read the images of a source from the folder that ``download`` wrote, or draw them from a known distribution.

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
    """Split, quantize and binarize the images of a source, draw the evaluation noise, and write the results.

    Args:
        raw: images as published.
        dataset: seed, shares of the splits, and the name for the protocol tag.
        dequantize: number of bits and kind of binarization.
        raw_levels: number of levels L of the published images.
        folder: output folder for the splits; ``description.json`` is written last.

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
    if raw.are_independent:  # equal independent draws are not copies, so each image gets a unique digest
        digests = {split: [f"{split} {row}".encode() for row in range(len(rows))] for split, (_, rows) in index.items()}
        _write(folder / "test" / "log_p_true.npy", raw.log_p["test"])
    _write(folder / "test" / "same_as.npy", repeated.first_equal(digests["test"]))
    in_train = repeated.are_among(digests["test"], digests["train"])
    _write(folder / "test" / "in_train.npy", in_train)
    near_train = np.full(len(in_train), -1)
    if not raw.are_independent:
        train, test = (StoredArray(folder / split / "images.npy") for split in ("train", "test"))
        as_train = in_chunks(test)
        if dequantize.binarization == "dynamic":  # compare grey images, because the training images are stored grey
            part, rows = index["test"]
            as_train = _unbinarized(raw.images[part], rows, dequantize, raw_levels)
        first = np.unique(repeated.first_equal(digests["train"]))
        near_train = near.near_copies(as_train, train, first, in_train).of
    _write(folder / "test" / "near_train.npy", near_train)
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    treatment, n_levels = _treatment(dataset.name, dequantize, raw_levels)
    n_images = {split: len(rows) for split, (_, rows) in index.items()}
    name = "-".join(filter(None, (dataset.name, raw.tag)))
    size = f"{height}x{width}x{channels}"
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
    """Return the name of the treatment in a protocol tag, and L after the treatment.

    Treatments that give the same images have the same name.
    """
    quantized = _quantized(raw_levels, dequantize.bits)
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    n_levels = levels if dequantize.binarization == "none" else 2
    if dequantize.binarization == "static" or (dequantize.binarization == "dynamic" and levels > 2):
        return _binarized(name, dequantize.binarization, levels), n_levels
    # with two levels, dynamic binarization is not random
    treated = binarize_by_threshold(quantized, levels) if dequantize.binarization == "threshold" else quantized
    for bits in (None, *range(1, 8)):
        of_levels = raw_levels if bits is None else 2**bits
        coarser = _quantized(raw_levels, bits)
        if np.array_equal(treated, coarser):
            return "none", n_levels
        if np.array_equal(treated, binarize_by_threshold(coarser, of_levels)):
            return _binarized(name, "threshold", of_levels), n_levels
    raise AssertionError("the loop tries every possible treatment")


def _binarized(name: str, binarization: str, levels: int) -> str:
    """Return the name of a binarization in a tag; it names the levels if the images are coarser than the source's."""
    return binarization if levels == SOURCES[name].n_levels else f"{binarization}-of-L{levels}"


def _quantized(raw_levels: int, bits: int | None) -> np.ndarray:
    """Return the quantized value of each level, (raw_levels,) uint8."""
    raw = np.arange(raw_levels, dtype=np.uint8)
    return raw if bits is None else quantize(raw, raw_levels, bits)


def _treated(
    images: Rows, rows: np.ndarray, split: str, seed: int, dequantize: DequantizeSection, raw_levels: int
) -> tuple[list[bytes], Iterator[np.ndarray]]:
    """Return a list that fills with the hashes of the images of a split, and the images to store, chunk by chunk."""
    levels = raw_levels if dequantize.bits is None else 2**dequantize.bits
    draws = dequantize.binarization == "dynamic" and split != "train"  # training draws at each presentation
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
    """Return the images of a split before random binarization, chunk by chunk."""
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
    """Choose the published part and the rows of that part for each split.

    Args:
        sizes: number of images of each published part; ``train`` is always one of them.
        test_fraction: share of ``train`` that becomes the test set if no ``test`` is published.
        validation_fraction: share of the remaining images that becomes the validation set if no ``validation`` is
            published.
        seed: ``dataset.seed``.

    Returns:
        split -> (part, rows), the rows in increasing order.

    Raises:
        InputError: a split would be empty.
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
    """Set sub-pixels to 1 if x / (L-1) >= 1/2, else to 0; uint8."""
    return (2 * images.astype(np.int16) >= n_levels - 1).astype(np.uint8)


def binarize_by_chance(images: np.ndarray, n_levels: int, generator: np.random.Generator) -> np.ndarray:
    """Set sub-pixels to 1 with probability x / (L-1), else to 0; uint8."""
    return (generator.random(images.shape) * (n_levels - 1) < images).astype(np.uint8)


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, STREAMS.index(stream)])
