"""Reader of a single picture file.

A picture is read completely and as every viewer shows it. Otherwise it is refused with the reason and a remedy.

- A grey picture of 1, 2 or 4 bits is scaled to 0..255. A palette is read as its colours, always RGB.
- The EXIF orientation of a JPEG is applied. For PNG and WebP, viewers differ, so any orientation but the normal one is
  refused.
- An ICC profile is accepted if it equals sRGB up to a few levels, so that the stored values are the displayed values.
- Every picture that can be transparent is refused, even if it is opaque, because the header alone shows this before any
  work.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from bitsperdim.core.errors import InputError
from bitsperdim.sources.containers import OTHER_COLOURS, SAVE_AGAIN, TO_SRGB, ZEROS, Container, Unfit, inspect

TOLERANCE = 3  # levels of 256 by which profiles for sRGB may differ
FLAT = 2**14  # pixels of one value: if 512 zeros in a JPEG or WebP file are intended, they code more than these
MODES = {1: ("1", "L"), 3: ("P", "RGB")}  # channels -> allowed modes of Pillow; the picture is converted to the last
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def shape_of(path: Path) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of a picture from its header, without reading its pixels.

    Raises:
        InputError: the file is not an accepted picture.
    """
    try:
        with path.open("rb") as file:
            return _verified(inspect(file, whole=False))[1]
    except (OSError, Unfit) as error:
        raise _refused(path, error) from error


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as (C, H, W) uint8, with C = 1 for a grey picture and C = 3 for one in colour.

    Raises:
        InputError: the file is not an accepted picture, or is damaged.
    """
    try:
        content = path.read_bytes()
        found = inspect(io.BytesIO(content), whole=True)
        turned, shape = _verified(found)
        pixels = _decoded(content, found)
        if found.stuffed and not np.array_equal(pixels, _decoded(found.stuffed, found)):
            raise Unfit("is not a readable picture: some of its pixels are missing", SAVE_AGAIN)
        if found.has_zeros and _largest_area(pixels) < FLAT:
            raise Unfit(f"is not a readable picture: {ZEROS}", SAVE_AGAIN)
    except (OSError, Unfit) as error:
        raise _refused(path, error) from error
    if turned in TURNED:
        pixels = np.asarray(Image.fromarray(pixels).transpose(TURNED[turned]))
    return pixels.reshape(*shape[1:], shape[0]).transpose(2, 0, 1)


def _refused(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError):
        return InputError(f"{path} cannot be read ({error.strerror or error}); make it readable or remove it.")
    return InputError(f"{path} {error}.")


def _verified(found: Container) -> tuple[int, tuple[int, int, int]]:
    """Return the EXIF orientation of a picture, and its shape (C, H, W) after this orientation is applied."""
    if found.profile is not None and not is_srgb(found.profile):
        raise Unfit(OTHER_COLOURS, TO_SRGB)
    turned = _orientation(found.exif) if found.exif else 1
    if turned not in TURNED:
        turned = 1
    elif found.kind != "JPEG":
        raise Unfit(
            "has an EXIF orientation, which not every viewer applies to a PNG or WebP file",
            "rotate or flip its pixels instead, or remove the EXIF data",
        )
    height, width = (found.height, found.width) if turned < 5 else (found.width, found.height)
    return turned, (found.channels, height, width)


def _orientation(exif: bytes) -> object:
    read = Image.Exif()
    try:
        with warnings.catch_warnings(action="error"):
            read.load(exif)
            return read.get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # damaged data can raise almost any exception
        raise Unfit("has EXIF data that cannot be read", "remove the EXIF data") from error


def _decoded(content: bytes, found: Container) -> np.ndarray:
    """Return the stored pixels, before the orientation is applied, (H, W) or (H, W, 3) uint8."""
    modes = MODES[found.channels]
    try:
        with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(content), formats=[found.kind]) as picture:
            picture.load()
            fits = picture.mode in modes and picture.size == (found.width, found.height)
            fits = fits and not (found.n_colours and np.asarray(picture).max() >= found.n_colours)
            pixels = np.asarray(picture.convert(modes[-1]))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise almost any exception
        raise Unfit("is not a readable picture: its pixels cannot be decoded", SAVE_AGAIN) from error
    if not fits:
        raise Unfit("is not a readable picture: its size or colours differ from its header", SAVE_AGAIN)
    return pixels


def _largest_area(pixels: np.ndarray) -> int:
    """Return the number of pixels that have the most frequent value, for pixels (H, W) or (H, W, 3)."""
    channels = pixels.reshape(-1, pixels.shape[-1] if pixels.ndim == 3 else 1).astype(np.int64)
    return int(np.unique(channels @ 256 ** np.arange(channels.shape[1]), return_counts=True)[1].max())


@lru_cache(maxsize=8)
def is_srgb(profile: bytes) -> bool:
    """Return whether an ICC profile for RGB or grey shows the same colours as sRGB, up to :data:`TOLERANCE`."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB ": "RGB", "GRAY": "L"}[opened.profile.xcolor_space]
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        steps = np.arange(0, 256, 15, dtype=np.uint8)  # includes black and white
        stored = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
        shown = ImageCms.applyTransform(Image.fromarray(stored), transform)
    except Exception:  # a damaged profile can raise almost any exception
        return False
    stored = stored.reshape(*stored.shape[:2], -1)  # grey values are compared with each displayed channel
    return bool(np.abs(np.asarray(shown).astype(int) - stored).max() <= TOLERANCE)
