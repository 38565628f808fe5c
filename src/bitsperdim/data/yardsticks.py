"""Yardsticks: what a number of bits per dimension has to be compared with before it means anything.

- ``entropy``: the mean over sub-pixels of the empirical entropy of the *test set* at that place. The
  best that any model of independent sub-pixels could do, had it been fitted to the test set itself.
  With few images it is too small by about ``entropy_bias``, which is given beside it.
- ``png``, ``webp``: the length of the test set as lossless files, the images side by side on one
  sheet, so that the header and the statistics are shared; on several where they have more than 2^25
  values, so that the memory is that of one sheet. A file is a real code, hence an upper bound on what a
  good model needs. The last row of a sheet is filled with black images.
- ``png_single``: each image a file of its own, headers included.
- ``uniform``: log2 L, every value equally likely.
- ``truth``: of images that were drawn from a known distribution, its own -log P(x), with the test-set error. Its mean
  is the entropy of the distribution, which no model goes below; on one test set it may, by chance.
"""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
from PIL import Image
from tqdm import tqdm

from bitsperdim.core.files import Rows, in_chunks
from bitsperdim.core.units import bits_per_dim, n_dims, nats_to_bits, nats_to_bits_per_dim

MAX_SIDE = 16_383  # pixels of a WebP file
PAGE_VALUES = 2**25  # sub-pixels on a sheet
COUNTED_AT_ONCE = 2**14  # sub-pixels whose values are counted in one pass over the images


def yardsticks(images: Rows, n_levels: int) -> dict[str, float]:
    """Measure a set of images (N, C, H, W) uint8 in bits per dimension, a part of them at a time."""
    n_images, channels, height, width = images.shape
    n_total = n_images * n_dims((channels, height, width))
    entropy, bias = empirical_entropy(images)
    n_bytes = {"png": 0, "png_single": 0, "webp": 0}
    with tqdm(total=n_images, desc="code lengths", unit="image", disable=None, mininterval=0.5) as bar:
        for page in in_chunks(images, PAGE_VALUES):
            for image in page:
                n_bytes["png_single"] += code_length(image, n_levels, "PNG")
                bar.update()
            sheet = contact_sheet(page)
            n_bytes["png"] += code_length(sheet, n_levels, "PNG")
            n_bytes["webp"] += code_length(sheet, n_levels, "WEBP")
    codes = {f"{name}_bpd": 8 * length / n_total for name, length in n_bytes.items()}
    return {"uniform_bpd": nats_to_bits(math.log(n_levels)), "entropy_bpd": entropy, "entropy_bias_bpd": bias, **codes}


def truth(log_p: np.ndarray, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """Return what the truth of images (N,), nats, is in bits per dimension, with its standard error."""
    error = float(log_p.std(ddof=1) / math.sqrt(len(log_p))) if len(log_p) > 1 else math.inf
    return {
        "truth_bpd": bits_per_dim(float(log_p.mean()), image_shape),
        "truth_bpd_standard_error": nats_to_bits_per_dim(error, image_shape),
    }


def empirical_entropy(images: Rows) -> tuple[float, float]:
    r"""Return the mean over sub-pixels of the empirical entropy, and its leading bias, in bits.

    .. math:: \frac1D \sum_d \Big( -\sum_v \hat p_d(v) \log_2 \hat p_d(v) \Big), \qquad
              -\frac1D \sum_d \frac{m_d - 1}{2 N \ln 2}

    with m_d the number of values seen at sub-pixel d (Miller 1955, "Note on the bias of information
    estimates"). The plug-in estimate is too small by about its bias, which is never positive; with fewer
    images than levels the bias is too small itself: unseen values do not count.
    """
    n_images, n_subpixels = len(images), math.prod(images.shape[1:])
    nats, n_seen_beyond_one = 0.0, 0
    for first in range(0, n_subpixels, COUNTED_AT_ONCE):
        places = slice(first, first + COUNTED_AT_ONCE)
        counts = level_counts(images, places)
        share = counts[counts > 0] / n_images
        nats -= float((share * np.log(share)).sum())
        n_seen_beyond_one += int((counts > 0).sum()) - len(counts)
    bias = -nats_to_bits(n_seen_beyond_one / (2 * n_images)) / n_subpixels
    return nats_to_bits(nats) / n_subpixels, bias


def level_counts(images: Rows, places: slice) -> np.ndarray:
    """Count the values at some sub-pixels: (places, 256)."""
    counts = np.zeros(0, dtype=np.int64)
    for chunk in in_chunks(images):
        flat = chunk.reshape(len(chunk), -1)[:, places]  # (n, places)
        index = np.arange(flat.shape[1], dtype=np.int64) * 256 + flat
        counts = np.zeros(flat.shape[1] * 256, dtype=np.int64) if not len(counts) else counts
        counts += np.bincount(index.ravel(), minlength=len(counts))
    return counts.reshape(-1, 256)


def contact_sheet(images: np.ndarray, n_columns: int | None = None) -> np.ndarray:
    """Lay images (N, C, H, W) side by side, row by row: (C, rows*H, columns*W), nearly square."""
    n_images, channels, height, width = images.shape
    columns = n_columns or min(n_images, math.ceil(math.sqrt(n_images * height / width)))
    rows = math.ceil(n_images / columns)
    sheet = np.zeros((rows * columns, channels, height, width), dtype=images.dtype)
    sheet[:n_images] = images
    sheet = sheet.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return sheet.reshape(channels, rows * height, columns * width)


def code_length(sheet: np.ndarray, n_levels: int, file_format: str) -> int:
    """Return the bytes of a sheet (C, H, W) as a lossless PNG or WebP.

    Two levels are written as a bilevel PNG; WebP knows colours only, and codes grey ones as such.
    A sheet of neither 1 nor 3 channels is coded one channel at a time, one that is larger than WebP
    allows as several files.
    """
    if max(sheet.shape[1:]) > MAX_SIDE:
        cuts = [range(0, side, MAX_SIDE) for side in sheet.shape[1:]]
        parts = [sheet[:, y : y + MAX_SIDE, x : x + MAX_SIDE] for y, x in itertools.product(*cuts)]
        return sum(code_length(part, n_levels, file_format) for part in parts)
    if sheet.shape[0] not in (1, 3):
        return sum(code_length(channel[None], n_levels, file_format) for channel in sheet)
    picture = Image.fromarray(sheet[0] if sheet.shape[0] == 1 else sheet.transpose(1, 2, 0))
    if n_levels == 2 and sheet.shape[0] == 1:
        picture = Image.fromarray((sheet[0] > 0) * np.uint8(255)).convert("1")
    buffer = io.BytesIO()
    if file_format == "PNG":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.convert("RGB").save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return len(buffer.getvalue())
