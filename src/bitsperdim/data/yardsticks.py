"""Yardsticks: reference values of bits per dimension with which the number of a model is compared.

- ``entropy``: the empirical entropy of the *test set* at each sub-pixel, averaged over sub-pixels. No model with
  independent sub-pixels can do better, even one fitted to the test set itself. With few images this value is too small
  by about ``entropy_bias``, which is reported with it.
- ``png``, ``webp``: the length of the test set as lossless files. The images lie side by side on one sheet, so that
  they share the header and the statistics. Sets with more than 2^25 values use several sheets, so that only one sheet
  is in memory. A file is a real code, hence an upper bound on the bits that a good model needs. The last row of a
  sheet is filled with black images.
- ``png_single``: the length of the test set with one PNG file for each image, headers included.
- ``uniform``: log2 L, the code length if every value is equally likely.
- ``truth``: for images drawn from a known distribution, its own -log P(x), with the standard error from the test set.
  The expectation is the entropy of the distribution, and no model has a smaller expectation; on one test set, a model
  may be below the truth by chance.
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

MAX_SIDE = 16_383  # pixels: the largest side of a WebP file
PAGE_VALUES = 2**25  # sub-pixels on a sheet
COUNTED_AT_ONCE = 2**14  # sub-pixels whose values are counted in one pass over the images


def yardsticks(images: Rows, n_levels: int) -> dict[str, float]:
    """Return the yardsticks of images (N, C, H, W) uint8 in bits per dimension; the images are read in parts."""
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
    """Return the mean true code length in bits per dimension, with its standard error.

    Args:
        log_p: true log-probability of each image in nats, (N,).
        image_shape: (C, H, W).
    """
    error = float(log_p.std(ddof=1) / math.sqrt(len(log_p))) if len(log_p) > 1 else math.inf
    return {
        "truth_bpd": bits_per_dim(float(log_p.mean()), image_shape),
        "truth_bpd_standard_error": nats_to_bits_per_dim(error, image_shape),
    }


def empirical_entropy(images: Rows) -> tuple[float, float]:
    r"""Return the empirical entropy averaged over sub-pixels, and its leading bias, in bits.

    .. math:: \frac1D \sum_d \Big( -\sum_v \hat p_d(v) \log_2 \hat p_d(v) \Big), \qquad
              -\frac1D \sum_d \frac{m_d - 1}{2 N \ln 2}

    where m_d is the number of different values at sub-pixel d (Miller 1955, "Note on the bias of information
    estimates"). The plug-in estimate is too small by about its bias, which is never positive. With fewer images than
    levels, the bias itself is estimated too small, because values that do not occur are not counted.
    """
    n_images, n_subpixels = len(images), math.prod(images.shape[1:])
    nats = 0.0
    n_seen_beyond_one = 0
    for first in range(0, n_subpixels, COUNTED_AT_ONCE):
        places = slice(first, first + COUNTED_AT_ONCE)
        counts = level_counts(images, places)
        share = counts[counts > 0] / n_images
        nats -= float((share * np.log(share)).sum())
        n_seen_beyond_one += int((counts > 0).sum()) - len(counts)
    bias = -nats_to_bits(n_seen_beyond_one / (2 * n_images)) / n_subpixels
    return nats_to_bits(nats) / n_subpixels, bias


def level_counts(images: Rows, places: slice) -> np.ndarray:
    """Count how often each value occurs at the given sub-pixels, (places, 256)."""
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
    """Return the number of bytes of a sheet (C, H, W) as a lossless PNG or WebP file.

    A grey sheet with two levels is written as a bilevel PNG. WebP stores only colours, so a grey sheet is coded as a
    colour one. A sheet that has neither 1 nor 3 channels is coded one channel at a time. A sheet that is larger than
    WebP allows is cut into several files, for PNG as well.
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
