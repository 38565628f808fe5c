"""Which test images are nearly training images: shifted by a pixel, with noise or of another contrast.

They stand beside the exact copies of :mod:`.repeated`: a model that remembers a training image does well on these too.

**Candidates.** An image is averaged to at most 16 x 16 cells. Its perceptual hash has up to 64 bits: whether each of
the lowest coefficients of the cosine transform, of the mean of the channels and of their differences, is above its
median over training images. A test image has nine hashes, with every shift by up to a pixel (of larger images, 1/32 of
a side). The training images with the fewest different bits are its candidates: 16, and 128 where the nearest of these
is less than half as far away as the eighth nearest.

**Distance.** sqrt(1 - r), where r is the correlation of the cells of two images, the largest over shifts and over
crops of 1/32 of a side at each edge, in any combination of the two directions. Cells at the border are left out, since
a shift brings in what is not known there. Brightness and contrast do not change this distance.

**Near.** How near *different* images come depends on the images: two straight strokes are nearly equal, two photographs
are not. So a distance is compared with others of the same image: the ratio to the distance of the eighth nearest
candidate is what counts. It must be below 0.35, and below what 1 of 1,000 independent images is expected to reach. Of
independent images whose neighbours fill m dimensions, a share that grows as q^m has a ratio below q. Scale and m are
read off training images, each among all the others: from their 10 % and 50 % quantiles, so that copies among a few
percent of the training images do not matter. Few dimensions, as in tiny images, thus make the limit small.

**What is not near.** An exact copy, which is counted as such. What is not found: images that are mirrored, turned, or
shifted or cropped by more; images of one colour; an image with more than seven different near copies in the training
set, and all images where more than a tenth of the training images are near copies of each other, as in films: there
such pairs are what different images are like. Of equal training images one is looked at.

Of copies that were made of training images of digits, MNIST, Fashion-MNIST and CIFAR-10 at least 95 % are found with
noise of 2 % of the range or another brightness, contrast or gamma. Moved by one pixel 85 to 100 % are, with noise of
5 % 82 to 100 %; cut by a pixel at each edge, all of CIFAR-10, 78 % of MNIST and none of digits.

Invariants (``tests/data/test_near.py``): copies that were made are found, and of independent images almost none is; a
plain computation of every pair gives the same (``test_it_is_the_comparison_of_every_pair``); chunks change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

from bitsperdim.core.files import Rows, in_chunks

CELLS = 16  # of a side, at most
N_BITS = 64  # of a hash, at most
N_HASHED = 3  # maps of each direction whose images are hashed: no shift, and one each way
N_CANDIDATES, N_OF_SECOND_LOOK = 16, 128
REFERENCE = 8  # the place of the candidate, by distance, that the nearest is compared with
MARGIN = 1  # cells that are left out at each edge, where images are shifted
SMALLEST_SHIFTED = 8  # pixels of a side; smaller images are compared as they are
STEP = 1 / 32  # of a side, of a crop and of the shift of an image of more than 32 pixels
LARGEST_RATIO, RATIO_OF_SECOND_LOOK = 0.35, 0.5
FALSE_SHARE = 1e-3  # of independent images that are expected below the limit
QUANTILES = (0.1, 0.5)
N_CALIBRATED = 500  # training images, at most, that the limit is read off
N_OF_MEDIANS = 10_000  # training images, at most, that medians are taken over
CHUNK_VALUES = 2**21  # of images that are held at a time
CONSTANT = 1e-5  # of its largest value: an image that deviates by less from its mean has one colour


@dataclass(frozen=True)
class Near:
    """Near copies among training images.

    Attributes:
        of: (N,) int64, for each test image the number of the nearest training image, -1 where none is near.
        limit: the ratio of distances below which an image is near.
    """

    of: np.ndarray
    limit: float


def near_copies(test: Iterable[np.ndarray], train: Rows, rows: np.ndarray, is_copy: np.ndarray) -> Near:
    """Find the test images that are nearly training images.

    Args:
        test: (N, C, H, W), chunk by chunk, in order.
        train: the training images; some are read at a time.
        rows: numbers of the training images to look at, one of equal ones, increasing.
        is_copy: (N,) bool, the test images that are exact copies.
    """
    search = Search(train, rows)
    limit = search.limit()
    found = [np.zeros(0, dtype=np.int64)]
    for chunk in test:
        ratios, _ = search.ratios(chunk)
        nearest = np.full(len(chunk), -1, dtype=np.int64)
        again = np.flatnonzero(ratios < RATIO_OF_SECOND_LOOK)
        ratios, numbers = search.ratios(chunk[again], N_OF_SECOND_LOOK)
        nearest[again] = np.where(ratios < limit, numbers, -1)
        found.append(nearest)
    return Near(np.where(is_copy, -1, np.concatenate(found)), limit)


def limit_of(ratios: np.ndarray) -> float:
    """Return the ratio below which an image is near, by the ratios of training images among the others, (M,)."""
    low, high = (float(value) for value in np.quantile(ratios, QUANTILES)) if len(ratios) else (math.inf, math.inf)
    if low == 0:
        return 0.0
    shrinking = math.log(FALSE_SHARE / QUANTILES[0]) / math.log(QUANTILES[1] / QUANTILES[0])
    return min(LARGEST_RATIO, low * (high / low) ** shrinking if high > low else low)


class Maps:
    """What is made of images of one shape: their cells, those of their shifts and crops, and bits.

    Attributes:
        image_shape: (C, H, W).
        size: (h, w), of the cells.
    """

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        """Build the matrices."""
        channels, height, width = self.image_shape = image_shape
        is_shifted = min(height, width) >= SMALLEST_SHIFTED
        self._down, self._right = (_averages(side, is_shifted) for side in (height, width))
        self.size = self._down.shape[1], self._right.shape[1]
        self._inner = slice(MARGIN, -MARGIN) if is_shifted else slice(None)
        self._cosines = _lowest_cosines(channels, *self.size)

    def cells(self, images: np.ndarray) -> np.ndarray:
        """Return the cells of images (N, C, H, W), (N, C, h, w)."""
        return self._down[0] @ images.astype(np.float32) @ self._right[0].T

    def moved(self, images: np.ndarray) -> np.ndarray:
        """Return the cells of all shifts and crops of images, (N, S, S, C, h, w) for S in each direction."""
        channels, height, width = self.image_shape
        cells = self._down.reshape(-1, height) @ images.astype(np.float32) @ self._right.reshape(-1, width).T
        n_ways = len(self._down)
        cells = cells.reshape(len(images), channels, n_ways, self.size[0], n_ways, self.size[1])
        return cells.transpose(0, 2, 4, 1, 3, 5)

    def coefficients(self, cells: np.ndarray) -> np.ndarray:
        """Return what the bits of cells (..., C, h, w) are told by, (..., B)."""
        return cells.reshape(*cells.shape[:-3], -1) @ self._cosines

    def directions(self, cells: np.ndarray) -> np.ndarray:
        """Return cells (..., C, h, w) less their mean as vectors (..., P) of length 1; 0 for one colour."""
        inner = cells[..., self._inner, self._inner]
        inner = inner.reshape(*inner.shape[:-3], -1)
        brightest = np.abs(inner).max(-1, keepdims=True)
        inner = inner - inner.mean(-1, keepdims=True)
        length = np.linalg.norm(inner, axis=-1, keepdims=True)
        has_contrast = length > CONSTANT * brightest * math.sqrt(inner.shape[-1])
        return np.divide(inner, length, out=np.zeros_like(inner), where=has_contrast)


def _averages(side: int, is_shifted: bool) -> np.ndarray:
    """Return matrices (S, cells, side), each from pixels to cells: as they are, shifted, and cropped."""
    edges, pixels = np.linspace(0, side, min(side, CELLS) + 1), np.arange(side)
    shift, crop = max(1, round(side * STEP)), side * STEP
    moves = ((0.0, 0.0), (-shift, -shift), (shift, shift), (crop, -crop), (-crop, crop))  # of both ends, in pixels
    found = []
    for first, last in moves if is_shifted else moves[:1]:
        moved = first + edges * (side + last - first) / side
        low, high = np.clip(moved[:-1], 0, side - 1)[:, None], np.clip(moved[1:], 1, side)[:, None]
        overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
        found.append(overlap / overlap.sum(1, keepdims=True))
    return np.stack(found).astype(np.float32)


def _lowest_cosines(channels: int, height: int, width: int) -> np.ndarray:
    """Return the lowest functions of the cosine transform, but for the mean of the whole image, (C h w, B)."""
    down, right = (dct(np.eye(n), axis=0, norm="ortho") for n in (height, width))
    functions = np.einsum("iy,jx->ijyx", down, right).reshape(-1, height * width)
    frequency = np.add.outer((np.arange(height) / height) ** 2, (np.arange(width) / width) ** 2).ravel()
    functions = functions[np.argsort(frequency, kind="stable")]
    n_of_mean = N_BITS if channels == 1 else N_BITS // 2
    found = [np.kron(np.ones((1, channels)), functions[1 : 1 + n_of_mean])]
    for difference in np.diff(np.eye(channels), axis=0):
        found.append(np.kron(difference[None], functions[: (N_BITS - n_of_mean) // (channels - 1)]))
    return np.concatenate(found)[:N_BITS].T.astype(np.float32)


class Search:
    """Training images among which near copies are looked for; what is held of each is its hash.

    Attributes:
        maps: of their shape.
        hashes: (M,) uint64, of those that are looked at.
    """

    def __init__(self, train: Rows, rows: np.ndarray) -> None:
        """Hash training images.

        Args:
            train: (N, C, H, W).
            rows: (M,) numbers of those to look at, increasing.
        """
        self._train, self._rows = train, rows
        self.maps = Maps(train.shape[1:])
        self._n_held = max(1, CHUNK_VALUES // math.prod(train.shape[1:]))
        some = self._coefficients(rows[_spaced(len(rows), N_OF_MEDIANS)])
        self._medians = np.median(some, axis=0)
        self.hashes = np.concatenate([self._hashed(part) for part in in_chunks(rows, N_OF_MEDIANS)])

    def _coefficients(self, rows: np.ndarray) -> np.ndarray:
        parts = in_chunks(rows, self._n_held)
        return np.concatenate([self.maps.coefficients(self.maps.cells(self._train[part])) for part in parts])

    def _hashed(self, rows: np.ndarray) -> np.ndarray:
        return _packed(self._coefficients(rows) > self._medians)

    def limit(self) -> float:
        """Return the ratio below which an image is near."""
        chosen = _spaced(len(self._rows), N_CALIBRATED) if len(self._rows) > 1 else np.zeros(0, dtype=np.int64)
        parts = in_chunks(chosen, self._n_held)
        ratios = [self.ratios(self._train[self._rows[part]], N_OF_SECOND_LOOK, part)[0] for part in parts]
        return limit_of(np.concatenate([np.zeros(0), *ratios]))

    def ratios(
        self, images: np.ndarray, n_candidates: int = N_CANDIDATES, without: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how much nearer the nearest training image is than different ones, and its number.

        Args:
            images: (N, C, H, W).
            n_candidates: training images that each is compared with.
            without: (N,) for each a place in ``rows`` that is not looked at; None: all are.

        Returns:
            (N,) ratios of distances, and (N,) int64 numbers.
        """
        ratios, nearest = np.ones(len(images)), np.zeros(len(images), dtype=np.int64)
        step = max(1, self._n_held // n_candidates)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            excluded = None if without is None else without[part]
            ratios[part], nearest[part] = self._ratios(images[part], n_candidates, excluded)
        return ratios, nearest

    def _ratios(
        self, images: np.ndarray, n_candidates: int, without: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        cells = self.maps.moved(images)
        hashed = _packed(self.maps.coefficients(cells[:, :N_HASHED, :N_HASHED]) > self._medians)
        candidates = _fewest_different(hashed.reshape(len(images), -1), self.hashes, n_candidates, without)
        needed, places = np.unique(candidates, return_inverse=True)
        theirs = self.maps.directions(self.maps.cells(self._train[self._rows[needed]]))[places.ravel()]
        theirs = theirs.reshape(*candidates.shape, -1)
        mine = self.maps.directions(cells).reshape(len(images), -1, theirs.shape[-1])
        correlations = (mine @ theirs.transpose(0, 2, 1)).max(1)
        distances = np.sqrt(np.clip(1 - correlations.astype(np.float64), 0, None))
        nearest = candidates[np.arange(len(images)), distances.argmin(1)]
        distances.sort(axis=1)
        n_lacking = max(0, REFERENCE - distances.shape[1])  # for these stand images that have nothing in common: 1
        further = np.pad(distances, ((0, 0), (0, n_lacking)), constant_values=1.0)[:, REFERENCE - 1]
        ratios = np.divide(distances[:, 0], further, out=np.ones(len(images)), where=further > 0)
        return ratios, self._rows[nearest]


def _spaced(n_all: int, n: int) -> np.ndarray:
    n = min(n, n_all)
    return np.arange(n) * n_all // max(n, 1)


def _packed(bits: np.ndarray) -> np.ndarray:
    """Return bits (..., B), at most 64, as one number each, (...) uint64."""
    whole = np.zeros((*bits.shape[:-1], 64), dtype=bool)
    whole[..., : bits.shape[-1]] = bits
    packed: np.ndarray = np.packbits(whole, axis=-1).view(np.uint64)[..., 0]
    return packed


def _fewest_different(hashes: np.ndarray, others: np.ndarray, n: int, without: np.ndarray | None) -> np.ndarray:
    """Return for each image (N, S), of S hashes, the places of the n others (M,) that differ in the fewest bits."""
    n = min(n, len(others) - (without is not None))
    found = np.empty((len(hashes), n), dtype=np.int64)
    differing, count = np.empty(len(others), dtype=np.uint64), np.empty(len(others), dtype=np.uint8)
    fewest = np.empty(len(others), dtype=np.uint8)
    for image, of_shifts in enumerate(hashes):
        fewest.fill(N_BITS)
        for each in of_shifts:
            np.bitwise_count(np.bitwise_xor(others, each, out=differing), out=count)
            np.minimum(fewest, count, out=fewest)
        if without is not None:
            fewest[without[image]] = N_BITS + 1
        low, high = 0, N_BITS  # the smallest number of bits in which n differ at most
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if np.count_nonzero(fewest <= middle) >= n else (middle + 1, high)
        fewer = np.flatnonzero(fewest < low)
        found[image] = np.concatenate([fewer, np.flatnonzero(fewest == low)[: n - len(fewer)]])
    return found
