"""Single picture files: each kind is read as every viewer shows it, or refused with the reason and a remedy.

The pixels of the readable kinds are written here, bit by bit or by Pillow without loss. The expected values are not
decoded from files.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from bitsperdim.core.errors import InputError
from bitsperdim.sources import SOURCES
from bitsperdim.sources.picture_file import is_srgb, read_picture, shape_of
from support.picture_files import (
    PALETTE,
    chunk,
    grey_profile,
    lossless,
    png,
    saved,
    srgb,
    swapped,
    turned,
    values,
)

FOLDER = SOURCES["folder"]

SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + struct.pack(
    ">5i", *(round(65_536 * x) for x in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
LINEAR_CURVE = b"curv\0\0\0\0\0\0\0\0"
GREY, COLOURS, BLOCKS = values(4, 6), values(4, 6, 3), np.kron([[0, 80, 30], [160, 240, 8]], np.ones((8, 8)))
BLOCKS = BLOCKS.astype(np.uint8)  # constant in each block, so that a JPEG keeps it exactly
FLAT = saved(BLOCKS, "JPEG", quality=100)
TRAILER = saved(np.zeros((9, 9), np.uint8), "PNG")
GAMMA, PRIMARIES = (
    struct.pack(">I", 45_455),
    struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000),
)
OF_P3 = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, -1)


READ: dict[str, tuple[bytes, np.ndarray]] = {  # name of the file -> content, displayed pixels
    "bilevel.png": (png(values(4, 11, below=2), 1), values(4, 11, below=2) * 255),
    "grey of 2 bits.png": (png(values(4, 11, below=4), 2), values(4, 11, below=4) * 85),
    "grey of 4 bits.png": (png(values(4, 11, below=16), 4), values(4, 11, below=16) * 17),
    "grey.png": (png(GREY), GREY),
    "colour.PNG": (png(COLOURS), COLOURS),
    "interlaced.png": (png(COLOURS, interlaced=1), COLOURS),
    "few bits interlaced.png": (png(values(13, 3, below=4), 2, interlaced=1), values(13, 3, below=4) * 85),
    "one pixel interlaced.png": (png(GREY[:1, :1], interlaced=1), GREY[:1, :1]),
    **{
        f"palette of {depth} bits.png": (png(index, depth, 3), PALETTE[index])
        for depth in (1, 2, 4, 8)
        for index in [values(4, 11, below=min(2**depth, 4))]
    },
    "grey in colour.png": (png(as_rgb(GREY)), as_rgb(GREY)),
    "sRGB.png": (png(COLOURS, 8, None, chunk(b"sRGB", b"\0"), chunk(b"gAMA", b"\0\1\0\0")), COLOURS),
    "sRGB in numbers.png": (png(GREY, 8, None, chunk(b"gAMA", GAMMA), chunk(b"cHRM", PRIMARIES)), GREY),
    "sRGB by a code.png": (png(COLOURS, 8, None, chunk(b"cICP", b"\1\x0d\0\1")), COLOURS),
    "with the profile of sRGB.png": (saved(COLOURS, "PNG", icc_profile=srgb()), COLOURS),
    "grey with that profile.png": (saved(GREY, "PNG", icc_profile=srgb()), GREY),
    "not turned.png": (saved(COLOURS, "PNG", exif=turned(1)), COLOURS),
    "with private chunks.png": (png(GREY, 8, None, chunk(b"prVt", b"?"), chunk(b"tEXt", b"a\0b")), GREY),
    "with zeros after it.png": (png(GREY) + bytes(100), GREY),
    "PNG named.jpg": (png(COLOURS), COLOURS),
    "PNG named.apng": (png(GREY), GREY),
    "grey.jpg": (FLAT, BLOCKS),
    "colour.jpeg": (saved(as_rgb(BLOCKS), "JPEG", quality=100, icc_profile=srgb()), as_rgb(BLOCKS)),
    "progressive.jfif": (saved(BLOCKS, "JPEG", quality=100, progressive=True), BLOCKS),
    "with restarts.jpe": (saved(BLOCKS, "JPEG", quality=100, restart_marker_blocks=1), BLOCKS),
    "filled up.jpg": (FLAT[:2] + b"\xff\xff" + FLAT[2:] + bytes(100), BLOCKS),
    "1.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(1)), BLOCKS),
    "2.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(2)), BLOCKS[:, ::-1]),
    "3.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(3)), BLOCKS[::-1, ::-1]),
    "4.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(4)), BLOCKS[::-1]),
    "5.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(5)), BLOCKS.T),
    "6.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(6)), np.rot90(BLOCKS, -1)),  # to the right
    "7.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(7)), BLOCKS[::-1, ::-1].T),
    "8.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(8)), np.rot90(BLOCKS)),
    "9.jpg": (saved(BLOCKS, "JPEG", quality=100, exif=turned(9)), BLOCKS),  # not a valid orientation
    "lossless.webp": (lossless(COLOURS), COLOURS),
    "with profile and EXIF.webp": (lossless(COLOURS, icc_profile=srgb(), exif=turned(1)), COLOURS),
}


def damaged_inside(content: bytes, n: int) -> bytes:
    """Replace bytes in the middle by zeros, and keep the rest."""
    middle = len(content) // 2
    return content[: middle - n // 2] + bytes(n) + content[middle - n // 2 + n :]


def cut(content: bytes) -> bytes:
    """Return half of a JPEG, with its end marker."""
    return content[: len(content) // 2] + b"\xff\xd9"


def without_a_piece(content: bytes) -> bytes:
    """Return a JPEG without half of the data between two of its restart markers."""
    start, end = content.index(b"\xff\xd0"), content.index(b"\xff\xd1")
    return content[: (start + end) // 2] + content[end:]


def longer_webp(content: bytes) -> bytes:
    return content[:4] + struct.pack("<I", len(content) - 6) + content[8:]


def with_chunk(content: bytes, kind: bytes, new: bytes) -> bytes:
    """Return a PNG with another content of a chunk."""
    start = content.index(kind) - 4
    (length,) = struct.unpack(">I", content[start : start + 4])
    return content[:start] + chunk(kind, new) + content[start + 12 + length :]


def with_size(content: bytes, width: int, height: int) -> bytes:
    return with_chunk(content, b"IHDR", struct.pack(">II", width, height) + content[24:29])


def frames(kind: str) -> bytes:
    first, *others = (Image.fromarray(frame) for frame in values(3, 4, 6, 3))
    return saved(first, kind, save_all=True, append_images=others)


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


ALPHA = "has transparency .*; save it without"
FRAMES = "; save the intended one as a separate file"
DEPTH = "has 16 bits a channel; save it with 8"
SPACE = "has colours other than sRGB.*; convert it to sRGB, or remove the profile"
EXIF = "has an EXIF orientation.*; rotate or flip its pixels"
MORE = "holds more data after the end of its picture.*; save it again without"
AGAIN = "; copy it again, save it again or remove it"
FORMAT = "not a PNG, JPEG or WebP picture by its content; convert it"
OPAQUE = np.dstack([COLOURS, np.full((4, 6), 255, np.uint8)])
BY_HEADER: dict[str, tuple[bytes, str]] = {  # name of the file -> content, reason and remedy
    "deep grey.png": (png(GREY.astype(np.uint16) * 257, 16), DEPTH),
    "deep colours.png": (png(COLOURS.astype(np.uint16) * 257, 16), DEPTH),
    "alpha.png": (saved(values(4, 6, 4), "PNG"), ALPHA),
    "opaque alpha.png": (saved(OPAQUE, "PNG"), ALPHA),
    "grey and alpha.png": (saved(Image.fromarray(GREY).convert("LA"), "PNG"), ALPHA),
    "colour key.png": (png(COLOURS, 8, None, chunk(b"tRNS", bytes(6))), ALPHA),
    "grey key.png": (png(GREY, 8, None, chunk(b"tRNS", bytes(2))), ALPHA),
    "palette with alpha.png": (png(values(4, 6, below=4), 8, 3, chunk(b"tRNS", b"\0\x80")), ALPHA),
    "alpha.webp": (lossless(values(4, 6, 4)), ALPHA),
    "lossy alpha.webp": (saved(values(16, 16, 4), "WEBP"), ALPHA),
    "frames.png": (frames("PNG"), FRAMES),
    "frames.webp": (frames("WEBP"), FRAMES),
    "frames.jpg": (frames("MPO"), FRAMES),
    "CMYK.jpg": (saved(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"), r"has 4 channels \(CMYK\); save it as grey"),
    "12 bits.jpg": (patched(FLAT, b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c"), "has 12 bits a channel; save it"),
    "arithmetic.jpg": (patched(FLAT, b"\xff\xc0", b"\xff\xc9"), "of a rare kind .*; save it as PNG"),
    "gamma.png": (png(GREY, 8, None, chunk(b"gAMA", struct.pack(">I", 100_000))), SPACE),
    "primaries.png": (png(COLOURS, 8, None, chunk(b"gAMA", GAMMA), chunk(b"cHRM", OF_P3)), SPACE),
    "code.png": (png(COLOURS, 8, None, chunk(b"sRGB", b"\0"), chunk(b"cICP", b"\x0c\x0d\0\1")), SPACE),
    "profile.png": (saved(COLOURS, "PNG", icc_profile=swapped()), SPACE),
    "profile.jpg": (saved(COLOURS, "JPEG", icc_profile=swapped()), SPACE),
    "profile.webp": (lossless(COLOURS, icc_profile=swapped()), SPACE),
    "damaged profile.png": (png(COLOURS, 8, None, chunk(b"iCCP", b"a\0\0junk")), SPACE),
    "turned.png": (saved(COLOURS, "PNG", exif=turned(6)), EXIF),
    "turned.webp": (lossless(COLOURS, exif=turned(3)), EXIF),
    "EXIF.jpg": (saved(BLOCKS, "JPEG", exif=b"Exif\0\0II*\0\xff"), "EXIF data that cannot be read; remove the EXIF"),
    "TIFF named.png": (saved(COLOURS, "TIFF"), FORMAT),
    "GIF named.jpg": (saved(GREY, "GIF"), FORMAT),
    "BMP named.webp": (saved(COLOURS, "BMP"), FORMAT),
    "page named.png": (b"<html></html>", FORMAT),
    "empty.png": (b"", "is empty; convert it to one of them, or move it elsewhere"),
    "length.webp": (longer_webp(lossless(COLOURS)), "its end is missing" + AGAIN),
    "no PNG.png": (b"\x89PNG\r\n\x1a\n cut", AGAIN),
    "other critical chunk.png": (png(GREY, 8, None, chunk(b"CgBI", bytes(4))), AGAIN),
    "no such depth.png": (png(COLOURS, 4), AGAIN),
    "no pixels.png": (png(GREY[:0]), AGAIN),
    "huge.png": (with_size(png(GREY), 10**5, 10**5), r"has 100,000 x 100,000 pixels.*; crop it"),
    ".hidden.png": (png(GREY), "is hidden, but a picture; name it like 'a.png'"),
    "copy.png.bak": (png(GREY), "is not named as a picture, but is one; name it like 'a.png'"),
    "photo.heif": (FLAT, "is not named as a picture, but is one; name it like 'a.png'"),
    "space.png ": (png(GREY), "is not named as a picture, but is one"),
    "no suffix": (png(GREY), "is not named as a picture, but is one"),
    "notes of a picture.txt": (png(GREY), "is not named as a picture, but is one"),
    "true.tif": (saved(COLOURS, "TIFF"), "would not be read; pictures are .*: convert it or move it elsewhere"),
    "archive.zip": (b"PK\3\4", "would not be read; pictures are"),
    "._a.png": (b"no AppleDouble file", "would not be read"),
}  # fmt: skip
NOISE = values(64, 64, 3)
KINDS_OF_JPEG: dict[str, dict[str, object]] = {
    "baseline": {},
    "with all colours": {"subsampling": 0},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True, "quality": 30},
    "with restarts": {"restart_marker_rows": 1},
    "with many restarts": {"restart_marker_blocks": 3, "progressive": True},
}
BY_CONTENT: dict[str, tuple[bytes, str]] = {
    "half.jpg": (saved(NOISE, "JPEG")[:2_000] + bytes(2_000), "its end is missing" + AGAIN),
    "lost.jpg": (damaged_inside(saved(NOISE, "JPEG"), 600), "holds 512 zeros in a row.*" + AGAIN),
    "lost.jpeg": (damaged_inside(saved(NOISE, "JPEG", restart_marker_rows=1), 600), "holds 512 zeros.*" + AGAIN),
    "a piece lost.jpg": (without_a_piece(saved(NOISE, "JPEG", restart_marker_rows=1)), "pixels are missing" + AGAIN),
    "lost.webp": (damaged_inside(lossless(NOISE), 600), "holds 512 zeros in a row.*" + AGAIN),
    "lost.png": (damaged_inside(png(NOISE), 600), "a checksum is wrong" + AGAIN),
    "two.png": (png(GREY) + TRAILER, MORE),
    "two.jpg": (FLAT + TRAILER, MORE),
    "two.webp": (lossless(COLOURS) + TRAILER, MORE),
    "two headers.jpg": (FLAT[:-2] + FLAT, "its coded data is broken" + AGAIN),
    "fewer rows.png": (with_size(png(GREY), 6, 5), "fewer or more pixels than its header says" + AGAIN),
    "more rows.png": (with_size(png(GREY), 6, 3), "fewer or more pixels than its header says" + AGAIN),
    "not packed.png": (with_chunk(png(GREY), b"IDAT", b"junk"), "cannot be decoded" + AGAIN),
    "fewer rows.jpg": (patched(FLAT, b"\0\x10\0\x18", b"\0\x20\0\x18"), "some of its pixels are missing" + AGAIN),
    **{
        f"half {name}.jpg": (cut(saved(NOISE, "JPEG", **options)), "some of its pixels are missing" + AGAIN)
        for name, options in KINDS_OF_JPEG.items()
    },
    "animated late.png": (png(GREY)[:-12] + chunk(b"acTL", bytes(8)) + chunk(b"IEND"), FRAMES),
    "transparent late.png": (png(GREY)[:-12] + chunk(b"tRNS", bytes(2)) + chunk(b"IEND"), ALPHA),
    "no such colour.png": (png(values(4, 6, below=4) + 1, 8, 3), "its size or colours differ from its header" + AGAIN),
}  # fmt: skip
NAMED: dict[str, bytes] = {
    **dict.fromkeys(("Thumbs.db", ".DS_Store", "desktop.ini", ".gitignore", "README", "LICENSE.txt"), b"x"),
    **dict.fromkeys(("labels.csv", "notes.md", "a.json", "a.png.dvc", "empty.txt"), b""),
    "._a.png": b"\0\5\x16\7" + bytes(80),
}


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", READ)
def test_a_picture_is_read_as_every_viewer_shows_it(name: str, tmp_path: Path) -> None:
    content, shown = READ[name]
    path = put(tmp_path / "own", name, content)
    expected = shown.reshape(*shown.shape[:2], -1).transpose(2, 0, 1)
    assert shape_of(path) == expected.shape
    FOLDER.check(str(tmp_path / "own"))
    assert FOLDER.facts(str(tmp_path / "own")) == (expected.shape, 0)
    FOLDER.download(tmp_path / "raw", str(tmp_path / "own"))
    (image,) = FOLDER.read(tmp_path / "raw").images["train"][:]
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("name", [*BY_HEADER, *BY_CONTENT])
def test_a_picture_is_refused_with_the_reason_and_the_cure(name: str, tmp_path: Path) -> None:
    """Preflight refuses it if the header is enough; tested beside a good picture of the same size, in both places."""
    content, sentence = (BY_HEADER | BY_CONTENT)[name]
    for subfolder in ("", "test"):
        top = tmp_path / f"own{subfolder}"
        put(top, "zz.png", png(COLOURS))
        path = put(top / subfolder, name, content)
        with pytest.raises(InputError, match=sentence) as caught:
            FOLDER.check(str(top)) if name in BY_HEADER else read_picture(path)
        assert str(path) in str(caught.value)
        assert name in BY_HEADER or shape_of(path)
        with pytest.raises(InputError):
            FOLDER.download(tmp_path / "raw", str(top))
        assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("name", NAMED)
def test_a_side_file_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "own", "a.png", png(GREY))
    put(tmp_path / "own" / "test", "a.png", png(GREY))
    put(tmp_path / "own" / "test", name, NAMED[name])
    FOLDER.download(tmp_path / "raw", str(tmp_path / "own"))
    assert capsys.readouterr().out.endswith(f"holds files that are not read: 'test/{name}'.\n")
    assert [len(images) for images in FOLDER.read(tmp_path / "raw").images.values()] == [1, 1]


def test_many_side_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "own", "a.png", png(GREY))
    FOLDER.download(tmp_path / "raw", str(tmp_path / "own"))
    assert not capsys.readouterr().out
    for i in range(30):
        put(tmp_path / "own", f"{i:02}.txt", b"a word about the picture")
    put(tmp_path / "own", "x.JSON", b"{}")
    FOLDER.download(tmp_path / "raw", str(tmp_path / "own"))
    line = capsys.readouterr().out
    assert line.endswith("'18.txt', '19.txt' and 11 more (.json, .txt).\n")
    assert line.count("\n") == 1


SMALL = {"png": png(GREY), "jpg": FLAT, "webp": lossless(COLOURS), "exif.jpg": READ["6.jpg"][0]}


@pytest.mark.parametrize("name", SMALL)
def test_no_beginning_of_a_picture_is_read(name: str, tmp_path: Path) -> None:
    for n_bytes in range(len(SMALL[name])):
        path = put(tmp_path, f"a.{name}", SMALL[name][:n_bytes])
        with pytest.raises(InputError, match=r"; copy it again|; convert it"):
            read_picture(path)


@pytest.mark.parametrize("name", SMALL)
def test_a_changed_byte_is_read_or_refused_and_always_refused_of_a_png(name: str, tmp_path: Path) -> None:
    content, refused = SMALL[name], 0
    for place in range(len(content)):
        path = put(tmp_path, f"a.{name}", content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        try:
            read_picture(path)
        except InputError:
            refused += 1
    assert 0 < refused <= len(content)
    assert (refused == len(content)) == (name == "png")


@pytest.mark.parametrize("name", KINDS_OF_JPEG)
def test_a_whole_jpeg_of_any_size_is_read(name: str, tmp_path: Path) -> None:
    """The pictures are noise or one colour, also with last blocks that lie partly outside of the picture."""
    for height, width in ((1, 1), (8, 8), (9, 17), (16, 33), (31, 5)):
        for array in (NOISE[:height, :width], NOISE[:height, :width, 0], np.full((height, width, 3), 255, np.uint8)):
            content = saved(array, "JPEG", **KINDS_OF_JPEG[name])
            image = read_picture(put(tmp_path, "a.jpg", content))
            assert np.array_equal(
                image.transpose(1, 2, 0).squeeze(), np.asarray(Image.open(io.BytesIO(content))).squeeze()
            )


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True}])
def test_zeros_that_are_pixels_are_read(options: dict[str, object], tmp_path: Path) -> None:
    """An empty page is coded only in zeros, like a lost part of a disk."""
    for shape in ((600, 600), (600, 600, 3)):
        content = saved(np.full(shape, 128, np.uint8), "JPEG", **options)
        assert bytes(512) in content
        assert np.array_equal(np.unique(read_picture(put(tmp_path, "a.jpg", content))), [128])


def test_zeros_in_one_scan_are_read_whatever_the_codes_of_the_others(tmp_path: Path) -> None:
    """In a page with a noisy edge, only the scans of the block means are zeros."""
    page = np.full((640, 640), 128, np.uint8)
    page[-16:] = values(16, 640)
    content = saved(page, "JPEG", progressive=True)
    assert bytes(512) in content
    assert np.all(read_picture(put(tmp_path, "a.jpg", content))[0, :-16] == 128)


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_zeros_that_no_code_makes_are_refused_beside_a_flat_area_too(
    options: dict[str, object], tmp_path: Path
) -> None:
    page = values(320, 320, 3)
    page[:160, :160] = 255
    content = saved(page, "JPEG", **options)
    assert read_picture(put(tmp_path, "a.jpg", content)).shape == (3, 320, 320)
    for place in range(2_000, len(content) - 2_000, 10_000):
        path = put(tmp_path, "a.jpg", content[:place] + bytes(1_024) + content[place + 1_024 :])
        with pytest.raises(InputError, match="holds 512 zeros in a row"):
            read_picture(path)


def test_a_flat_lossy_webp_file_is_read(tmp_path: Path) -> None:
    content = saved(Image.new("RGB", (400, 16_383), "white"), "WEBP")  # smaller ones have fewer zeros
    assert bytes(512) in content
    assert np.array_equal(np.unique(read_picture(put(tmp_path, "a.webp", content))), [255])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restarts", ["restart_marker_rows", "restart_marker_blocks"])
@pytest.mark.parametrize("sampling", ["grey", "4:4:4", "4:2:2", "4:2:0"])
def test_each_restart_of_a_jpeg_has_its_place(sampling: str, restarts: str, progressive: bool, tmp_path: Path) -> None:
    options: dict[str, object] = {restarts: 1, "progressive": progressive, "quality": 30}
    for shape in ((90, 70), (83, 101), (161, 50)):
        array, more = (values(*shape), {}) if sampling == "grey" else (values(*shape, 3), {"subsampling": sampling})
        content = saved(array, "JPEG", **options, **more)
        assert read_picture(put(tmp_path, "a.jpg", content)).shape[1:] == shape
    places = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", content)]
    first, second, third = places[2:5]
    for broken in (
        content[: places[0]] + b"\xff\xd9",
        content[: places[-3]] + b"\xff\xd9",
        content[:first] + content[second:],
        content[: places[0]] + content[places[8] :],
        content[:first] + content[second:third] + content[first:second] + content[third:],
    ):
        with pytest.raises(InputError, match="some of its pixels are missing"):
            read_picture(put(tmp_path, "a.jpg", broken))


@pytest.mark.parametrize("array", [NOISE, NOISE[..., 0]], ids=["colour", "grey"])
def test_no_scan_of_a_progressive_jpeg_may_be_missing(array: np.ndarray, tmp_path: Path) -> None:
    content = saved(array, "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(rb"\xff\xda", content)]
    for start in scans[1:]:  # with or without the tables of the next scan, the first scans are incomplete
        with pytest.raises(InputError, match="some of its pixels are missing"):
            read_picture(put(tmp_path, "a.jpg", content[:start] + b"\xff\xd9"))
    for start, end in itertools.pairwise(scans[1:]):
        with pytest.raises(InputError, match="missing"):
            read_picture(put(tmp_path, "a.jpg", content[:start] + content[end:]))


ROW, HEADER = zlib.compress(b"\0\x1b"), struct.pack(">II", 4, 1)
IHDR, IDAT, COLOURS_OF_4 = (b"IHDR", HEADER + b"\2\3\0\0\0"), (b"IDAT", ROW), (b"PLTE", PALETTE.tobytes())
ORDER, SIZE, METHOD = "repeated or out of order", "its palette is missing or has", "a method that PNG does not have"
CHUNKS: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "sound": ([IHDR, COLOURS_OF_4, IDAT], ""),
    "no palette": ([IHDR, IDAT], SIZE),
    "empty palette": ([IHDR, (b"PLTE", b""), IDAT], SIZE),
    "colours of two bytes": ([IHDR, (b"PLTE", bytes(8)), IDAT], SIZE),
    "more colours than indices": ([IHDR, (b"PLTE", bytes(15)), IDAT], SIZE),
    "late palette": ([IHDR, IDAT, COLOURS_OF_4], f"{ORDER}|{SIZE}"),
    "two palettes": ([IHDR, COLOURS_OF_4, COLOURS_OF_4, IDAT], ORDER),
    "two headers": ([IHDR, IHDR, COLOURS_OF_4, IDAT], ORDER),
    "late header": ([(b"tEXt", b"a\0b"), IHDR, COLOURS_OF_4, IDAT], ORDER),
    "packed": ([(b"IHDR", HEADER + b"\2\3\7\0\0"), COLOURS_OF_4, IDAT], METHOD),
    "filtered": ([(b"IHDR", HEADER + b"\2\3\0\5\0"), COLOURS_OF_4, IDAT], METHOD),
    "interlaced": ([(b"IHDR", HEADER + b"\2\3\0\0\2"), COLOURS_OF_4, IDAT], METHOD),
    "junk": ([IHDR, COLOURS_OF_4, (b"IDAT", ROW + b"junk")], "more data than those of its pixels"),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_the_chunks_of_a_png_are_in_order(name: str, tmp_path: Path) -> None:
    chunks, sentence = CHUNKS[name]
    path = put(tmp_path, "a.png", b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*chunks, (b"IEND", b"")]))
    if not sentence:
        assert np.array_equal(read_picture(path).transpose(1, 2, 0)[0], PALETTE)
        return
    with pytest.raises(InputError, match=sentence):
        read_picture(path)


def test_profiles_are_compared_by_what_they_show() -> None:
    assert is_srgb(srgb())
    assert is_srgb(grey_profile(SRGB_CURVE))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert not any(map(is_srgb, (swapped(), grey_profile(LINEAR_CURVE), lab, srgb()[:-300], b"", b"junk")))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", png(GREY))
    put(tmp_path, "b.png", png(GREY))
    original: Callable[..., object] = Path.open

    def opened(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "b.png":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    for read in (FOLDER.check, lambda path: shape_of(Path(path, "b.png"))):
        with pytest.raises(InputError, match=r"cannot be read.*Permission denied") as caught:
            read(str(tmp_path))
        assert str(tmp_path / "b.png") in str(caught.value)


def test_pillow_agrees_that_what_is_read_has_nothing_to_hide() -> None:
    """An independent check of the readable kinds: one frame, no transparency, a mode of 8 bits."""
    for name, (content, _) in READ.items():
        with Image.open(io.BytesIO(content)) as image:
            assert getattr(image, "n_frames", 1) == 1, name
            assert "transparency" not in image.info, name
            assert image.mode in ("1", "L", "P", "RGB"), name
            if isinstance(image, PngImagePlugin.PngImageFile):
                assert "16" not in str(image.tile), name
