"""Yardsticks: what a number of bits per dimension has to be compared with before it means anything.

- ``entropy``: the mean over sub-pixels of the empirical entropy of the *test set* at that place. The
  best that any model of independent sub-pixels could do, had it been fitted to the test set itself.
  With few images it is too small by about ``entropy_bias``, which is given beside it.
- ``png``, ``webp``: the length of the test set as lossless files, all images side by side on one
  sheet, so that the header and the statistics are shared. A file is a real code, hence an upper
  bound on what a good model needs. The last row of the sheet is filled with black images.
- ``png_single``: each image a file of its own, headers included.
- ``uniform``: log2 L, every value equally likely.
"""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
from PIL import Image

from bitsperdim.units import n_dims, nats_to_bits

MAX_SIDE = 16_383  # pixels of a WebP file


def yardsticks(images: np.ndarray, n_levels: int) -> dict[str, float]:
    """Measure a set of images (N, C, H, W) uint8 in bits per dimension."""
    n_images, channels, height, width = images.shape
    n_total = n_images * n_dims((channels, height, width))
    sheet = contact_sheet(images)
    return {
        "uniform_bpd": math.log2(n_levels),
        "entropy_bpd": empirical_entropy(images),
        "entropy_bias_bpd": entropy_bias(images),
        "png_bpd": 8 * code_length(sheet, n_levels, "PNG") / n_total,
        "png_single_bpd": 8 * sum(code_length(image, n_levels, "PNG") for image in images) / n_total,
        "webp_bpd": 8 * code_length(sheet, n_levels, "WEBP") / n_total,
    }


def empirical_entropy(images: np.ndarray) -> float:
    r"""Return the mean over sub-pixels of the empirical entropy, in bits.

    .. math:: \frac1D \sum_d \Big( -\sum_v \hat p_d(v) \log_2 \hat p_d(v) \Big)

    It is the plug-in estimate, too small by about :func:`entropy_bias`.
    """
    flat = images.reshape(len(images), -1)  # (N, D)
    nats = 0.0
    for value in np.unique(flat):
        share = (flat == value).mean(axis=0)
        present = share[share > 0]
        nats -= float((present * np.log(present)).sum())
    return nats_to_bits(nats) / flat.shape[1]


def entropy_bias(images: np.ndarray) -> float:
    r"""Return the leading bias of :func:`empirical_entropy`, in bits per dimension, never positive.

    .. math:: -\frac1D \sum_d \frac{m_d - 1}{2 N \ln 2}

    with m_d the number of values seen at sub-pixel d (Miller 1955, "Note on the bias of information
    estimates"). With fewer images than levels it is too small itself: unseen values do not count.
    """
    flat = np.sort(images.reshape(len(images), -1), axis=0)  # (N, D)
    n_seen_beyond_one = (np.diff(flat, axis=0) != 0).sum(0)
    return -nats_to_bits(float(n_seen_beyond_one.mean()) / (2 * len(images)))


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
