"""Grids of images as PNG files: samples, reconstructions, test images.

Levels are stretched to 0..255 and pixels are enlarged without smoothing, so the file shows the values that the model
sees.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from bitsperdim.core.files import Rows, write_bytes
from bitsperdim.data.yardsticks import contact_sheet

TARGET_WIDTH = 640
GREY = 128
N_PAIRS = 48
OWN, NOT_SEEN, LATER = (230, 120, 20), (40, 90, 200), (245, 222, 196)


def evenly_spaced(images: Rows, n_images: int) -> np.ndarray:
    """Return at most ``n_images`` images, evenly spaced, so that a set sorted by class shows all classes."""
    n_shown = min(n_images, len(images))
    return images[np.arange(n_shown) * len(images) // n_shown]


def as_grey(images: np.ndarray, n_levels: int) -> np.ndarray:
    """Return levels 0..L-1 as 0..255, uint8."""
    grey: np.ndarray = np.rint(images.astype(np.float64) * 255 / (n_levels - 1)).astype(np.uint8)
    return grey


def write_grid(path: Path, images: np.ndarray, n_levels: int, n_columns: int | None = None) -> None:
    """Write images (N, C, H, W) uint8 with L levels as one PNG, row by row.

    The grid has nearly as many rows as columns unless ``n_columns`` is given. The empty places of the last row are
    grey. Only one or three channels can be drawn; for any other number of channels, only the first one is.
    """
    n_columns = n_columns or math.ceil(math.sqrt(len(images)))
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    grey = as_grey(images, n_levels)
    n_missing = -len(images) % n_columns
    padded = np.pad(grey, ((0, n_missing), (0, 0), (1, 0), (1, 0)), constant_values=GREY)  # a hairline between images
    sheet = contact_sheet(padded, n_columns)
    scale = max(1, TARGET_WIDTH // sheet.shape[2])
    sheet = sheet[:, 1:, 1:].repeat(scale, axis=1).repeat(scale, axis=2)
    picture = Image.fromarray(sheet[0] if sheet.shape[0] == 1 else sheet.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def write_near_copies(path: Path, train: Rows, test: Rows, near_train: np.ndarray, n_levels: tuple[int, int]) -> None:
    """Write up to 48 test images beside the training images that they nearly copy, as one PNG.

    If no test image is near a training image, no file is written, and an older one is removed.

    Args:
        path: path of the PNG.
        train: training images (M, C, H, W).
        test: test images (N, C, H, W).
        near_train: index of the near training image for each test image, -1 if there is no such image, (N,).
        n_levels: L of the training images and L of the test images.
    """
    path.unlink(missing_ok=True)
    chosen = evenly_spaced(np.flatnonzero(near_train >= 0), N_PAIRS)
    if not len(chosen):
        return
    sides = (test[chosen], n_levels[1]), (train[near_train[chosen]], n_levels[0])
    pairs = np.stack([as_grey(images, levels) for images, levels in sides], axis=1)
    write_grid(path, pairs.reshape(-1, *pairs.shape[2:]), 256, 2 * min(4, len(chosen)))


def write_receptive_field(path: Path, seen: np.ndarray, row: int, column: int) -> None:
    """Draw the receptive field of one pixel as a PNG.

    The pixel itself is orange, later pixels are pale, and earlier pixels that it does not depend on are blue.

    Args:
        path: path of the PNG.
        seen: how much the pixel depends on each pixel, (H, W). Zero means that it does not depend on it. The other
            values are drawn from dark grey to white by their logarithm: the larger, the brighter.
        row: row of the pixel.
        column: column of the pixel.
    """
    height, width = seen.shape
    is_later = np.arange(height * width).reshape(height, width) > row * width + column
    logarithm = np.log(np.where(seen > 0, seen, 1.0))
    known = (seen > 0) & ~is_later
    low, high = (float(f(logarithm[known])) if known.any() else 0.0 for f in (np.min, np.max))
    shade = np.rint(40 + 215 * (logarithm - low) / max(high - low, 1e-9))
    colours = np.repeat(np.where(known, shade, 0)[..., None], 3, -1)
    colours[~known & ~is_later] = NOT_SEEN
    colours[is_later] = LATER
    colours[row, column] = OWN
    write_grid(path, colours.transpose(2, 0, 1)[None].astype(np.uint8), 256, 1)
