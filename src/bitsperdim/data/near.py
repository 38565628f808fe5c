"""The test images that are near copies of training images: shifted by a pixel, with noise or with another contrast.

A model that remembers a training image does well on its near copies too. Exact copies are found by :mod:`.repeated`.

**Candidates.** An image is averaged to at most 16 x 16 cells and gets a perceptual hash of up to 64 bits. Each bit
tells whether a low coefficient of the cosine transform is above its median over training images. The coefficients are
those of the mean of the channels and of the differences between channels. A test image has nine hashes, one for each
shift by up to a pixel (in images above 32 pixels: 1/32 of a side). Its candidates are the 16 training images with the
fewest different bits. If the nearest of them is less than half as far away as the eighth nearest, 128 candidates are
compared.

**Distance.** The distance is sqrt(1 - r), where r is the correlation between the cells of two images. The largest r
counts, over shifts and over crops by 1/32 of a side at each edge, in any combination of the two directions. Cells at
the border are left out, because a shift moves unknown pixels into them. Brightness and contrast do not change this
distance.

**Near.** How close *different* images are depends on the images: two straight strokes are nearly equal, two photographs
are not. The criterion is therefore a ratio: the distance to the nearest candidate, divided by the distance to the
eighth nearest. An image is near if its ratio is below 0.35, and below the limit that 1 of 1,000 independent images is
expected to fall below. If the neighbours of independent images fill m dimensions, the share of these images with a
ratio below q grows as q^m. The scale and m are estimated from training images, each compared with all the others. The
estimate uses the 10 % and 50 % quantiles, so copies among a few percent of the training images do not matter. With few
dimensions, as in tiny images, the limit is therefore small.

**Limits.** Exact copies are not counted as near; they are counted separately. The search does not find images that are
mirrored, rotated, or shifted or cropped by more than stated above, nor images with only one colour. It also misses an
image with more than seven different near copies in the training set. It finds nothing if more than a tenth of the
training images are near copies of each other, as in films: such pairs then look like different images. Of several
equal training images, only one is compared.

Detection rates, for artificial copies of training images from digits, MNIST, Fashion-MNIST and CIFAR-10: at least 95 %
with noise of 2 % of the range or with another brightness, contrast or gamma; 85 to 100 % when shifted by one pixel; 82
to 100 % with noise of 5 %. Of copies cropped by a pixel at each edge, the search finds all in CIFAR-10, 78 % in MNIST
and none in digits.

Invariants (``tests/data/test_near.py``): artificial copies are found, and almost no independent image is; a plain
computation over every pair gives the same result (``test_it_is_the_comparison_of_every_pair``); the size of the chunks
does not change the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

from bitsperdim.core.files import Rows, in_chunks

CELLS = 16  # largest number of cells along a side
N_BITS = 64  # largest number of bits in a hash
N_HASHED = 3  # shifts per direction that are hashed: none, and one each way
N_CANDIDATES, N_OF_SECOND_LOOK = 16, 128
REFERENCE = 8  # rank, by distance, of the candidate that the nearest is compared with
MARGIN = 1  # cells left out at each edge if images are shifted
SMALLEST_SHIFTED = 8  # pixels along a side; smaller images are compared without shifts or crops
STEP = 1 / 32  # crop, as a share of a side; also the shift in images of more than 32 pixels
LARGEST_RATIO, RATIO_OF_SECOND_LOOK = 0.35, 0.5
FALSE_SHARE = 1e-3  # expected share of independent images below the limit
QUANTILES = (0.1, 0.5)
N_CALIBRATED = 500  # largest number of training images that the limit is estimated from
N_OF_MEDIANS = 10_000  # largest number of training images that the medians are taken over
CHUNK_VALUES = 2**21  # sub-pixels of images in memory at a time
CONSTANT = 1e-5  # share of its largest value: an image that deviates less from its mean has only one colour


@dataclass(frozen=True)
class Near:
    """Test images that are near copies of training images.

    Attributes:
        of: index of the nearest training image for each test image, -1 if no training image is near, (N,) int64.
        limit: ratio of distances below which an image is near.
    """

    of: np.ndarray
    limit: float


def near_copies(test: Iterable[np.ndarray], train: Rows, rows: np.ndarray, is_copy: np.ndarray) -> Near:
    """Find the test images that are near copies of training images.

    Args:
        test: test images (N, C, H, W), chunk by chunk, in order.
        train: training images, read a few at a time.
        rows: indices of the training images to compare with, increasing; of several equal images only one.
        is_copy: whether each test image is an exact copy of a training image, (N,) bool.
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
    """Return the ratio below which an image is near.

    Args:
        ratios: ratios of training images, each compared with the other training images, (M,).
    """
    low, high = (float(value) for value in np.quantile(ratios, QUANTILES)) if len(ratios) else (math.inf, math.inf)
    if low == 0:
        return 0.0
    shrinking = math.log(FALSE_SHARE / QUANTILES[0]) / math.log(QUANTILES[1] / QUANTILES[0])
    return min(LARGEST_RATIO, low * (high / low) ** shrinking if high > low else low)


class Maps:
    """Linear maps from images of one shape to cells, to the cells of shifts and crops, and to hash coefficients.

    Attributes:
        image_shape: (C, H, W).
        size: number of cells along each side, (h, w).
    """

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        """Build the matrices of the maps."""
        channels, height, width = self.image_shape = image_shape
        is_shifted = min(height, width) >= SMALLEST_SHIFTED
        self._down, self._right = (_averages(side, is_shifted) for side in (height, width))
        self.size = self._down.shape[1], self._right.shape[1]
        self._inner = slice(MARGIN, -MARGIN) if is_shifted else slice(None)
        self._cosines = _lowest_cosines(channels, *self.size)

    def cells(self, images: np.ndarray) -> np.ndarray:
        """Return the cells (N, C, h, w) of images (N, C, H, W)."""
        return self._down[0] @ images.astype(np.float32) @ self._right[0].T

    def moved(self, images: np.ndarray) -> np.ndarray:
        """Return the cells of all shifts and crops of images, (N, S, S, C, h, w), with S of them per direction."""
        channels, height, width = self.image_shape
        cells = self._down.reshape(-1, height) @ images.astype(np.float32) @ self._right.reshape(-1, width).T
        n_ways = len(self._down)
        cells = cells.reshape(len(images), channels, n_ways, self.size[0], n_ways, self.size[1])
        return cells.transpose(0, 2, 4, 1, 3, 5)

    def coefficients(self, cells: np.ndarray) -> np.ndarray:
        """Return the coefficients (..., B) of cells (..., C, h, w); each bit of a hash compares one with its median."""
        return cells.reshape(*cells.shape[:-3], -1) @ self._cosines

    def directions(self, cells: np.ndarray) -> np.ndarray:
        """Return cells (..., C, h, w) minus their mean as vectors (..., P) of length 1; zeros for one colour."""
        inner = cells[..., self._inner, self._inner]
        inner = inner.reshape(*inner.shape[:-3], -1)
        brightest = np.abs(inner).max(-1, keepdims=True)
        inner = inner - inner.mean(-1, keepdims=True)
        length = np.linalg.norm(inner, axis=-1, keepdims=True)
        has_contrast = length > CONSTANT * brightest * math.sqrt(inner.shape[-1])
        return np.divide(inner, length, out=np.zeros_like(inner), where=has_contrast)


def _averages(side: int, is_shifted: bool) -> np.ndarray:
    """Return matrices (S, cells, side) from pixels to cells: unchanged, shifted, and cropped."""
    edges = np.linspace(0, side, min(side, CELLS) + 1)
    pixels = np.arange(side)
    shift, crop = max(1, round(side * STEP)), side * STEP
    moves = ((0.0, 0.0), (-shift, -shift), (shift, shift), (crop, -crop), (-crop, crop))  # pixels, for both ends
    found = []
    for first, last in moves if is_shifted else moves[:1]:
        moved = first + edges * (side + last - first) / side
        low, high = np.clip(moved[:-1], 0, side - 1)[:, None], np.clip(moved[1:], 1, side)[:, None]
        overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
        found.append(overlap / overlap.sum(1, keepdims=True))
    return np.stack(found).astype(np.float32)


def _lowest_cosines(channels: int, height: int, width: int) -> np.ndarray:
    """Return the lowest basis functions of the cosine transform, without the mean of the whole image, (C h w, B)."""
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
    """A search for near copies among training images; only the hash of each training image stays in memory.

    Attributes:
        maps: maps for images of this shape.
        hashes: hashes of the training images that are compared, (M,) uint64.
    """

    def __init__(self, train: Rows, rows: np.ndarray) -> None:
        """Hash the training images.

        Args:
            train: training images (N, C, H, W).
            rows: indices of the training images to compare with, (M,), increasing.
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
        """Return how much nearer the nearest training image is than different images, and its index.

        Args:
            images: (N, C, H, W).
            n_candidates: number of training images that each image is compared with.
            without: for each image, one position in ``rows`` that is left out, (N,); None: nothing is left out.

        Returns:
            The ratios of distances, (N,), and the indices of the nearest training images, (N,) int64.
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
        n_lacking = max(0, REFERENCE - distances.shape[1])  # missing candidates count as uncorrelated: distance 1
        further = np.pad(distances, ((0, 0), (0, n_lacking)), constant_values=1.0)[:, REFERENCE - 1]
        ratios = np.divide(distances[:, 0], further, out=np.ones(len(images)), where=further > 0)
        return ratios, self._rows[nearest]


def _spaced(n_all: int, n: int) -> np.ndarray:
    n = min(n, n_all)
    return np.arange(n) * n_all // max(n, 1)


def _packed(bits: np.ndarray) -> np.ndarray:
    """Pack at most 64 bits (..., B) into one number each, (...) uint64."""
    whole = np.zeros((*bits.shape[:-1], 64), dtype=bool)
    whole[..., : bits.shape[-1]] = bits
    packed: np.ndarray = np.packbits(whole, axis=-1).view(np.uint64)[..., 0]
    return packed


def _fewest_different(hashes: np.ndarray, others: np.ndarray, n: int, without: np.ndarray | None) -> np.ndarray:
    """Find the n hashes with the fewest different bits, for each image.

    Args:
        hashes: S hashes for each image, (N, S) uint64.
        others: hashes to compare with, (M,) uint64.
        n: number of positions to return for each image; fewer if there are not as many hashes.
        without: position in ``others`` that is left out, for each image, (N,); None: nothing is left out.

    Returns:
        Positions in ``others``, (N, n) int64.
    """
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
        low, high = 0, N_BITS  # search for the smallest number of bits in which at least n hashes differ at most
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if np.count_nonzero(fewest <= middle) >= n else (middle + 1, high)
        fewer = np.flatnonzero(fewest < low)
        found[image] = np.concatenate([fewer, np.flatnonzero(fewest == low)[: n - len(fewer)]])
    return found
