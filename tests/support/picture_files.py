"""Files of pictures, written bit by bit or by Pillow without loss."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

ORIENTATION = 0x0112
PALETTE = np.array([[0, 0, 0], [255, 0, 9], [1, 200, 3], [90, 90, 90]], dtype=np.uint8)
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def values(*shape: int, below: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(below, size=shape, dtype=np.uint8)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(stored: np.ndarray, depth: int = 8, colour: int | None = None, *chunks: bytes, interlaced: int = 0) -> bytes:
    """Write a PNG by hand: (H, W) or (H, W, C) values of ``depth`` bits, ``chunks`` before the pixels."""
    height, width, *_ = stored.shape
    colour = {2: 0, 3: 2}[stored.ndim] if colour is None else colour
    passes = [stored[y::down, x::right] for x, y, right, down in (ADAM7 if interlaced else [(0, 0, 1, 1)])]
    rows = [row[None] for part in passes if part.shape[1] for row in part]
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        packed = [np.packbits(np.unpackbits(row.reshape(-1, 1), axis=1)[:, 8 - depth :]).tobytes() for row in rows]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = [chunk(b"PLTE", PALETTE[: 2**depth].tobytes())] if colour == 3 else []
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed)))
    return b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *palette, *chunks, pixels, chunk(b"IEND")))


def saved(array: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lossless(array: np.ndarray, **options: object) -> bytes:
    return saved(array, "WEBP", lossless=True, exact=True, **options)


def turned(orientation: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """The profile of a screen whose red is blue."""
    return srgb().replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ").replace(b"____", b"bXYZ")


def grey_profile(curve: bytes) -> bytes:
    d50 = struct.pack(">3i", 63_190, 65_536, 54_061)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + d50, b"kTRC": curve}
    content, table, start = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    fields = struct.pack(">I4xI4s4s4s", start + len(content), 0x04200000, b"mntr", b"GRAY", b"XYZ ")
    return (fields.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + d50.ljust(60, b"\0") + table + content
