"""What a PNG, JPEG or WebP file says of itself, read from its bytes.

Pillow hides some of it: it makes 8 bits of the 16 of a PNG in colour, shows the first frame of many, and fills up with
grey or black what a file lacks of its pixels. So an allow-list is read here: what is not understood is refused.

What a file adds that every viewer ignores (texts, times, private chunks) is ignored.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

PNG = b"\x89PNG\r\n\x1a\n"
PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
PNG_CHANNELS = {0: 1, 2: 3, 3: 3}  # colour type -> channels as they are shown: grey, colour, palette
PNG_DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8)}
PNG_GAMMA = (45_000, 46_000)  # 1 / 2.2, which sRGB files say
PNG_SRGB_PRIMARIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
PNG_SRGB_CODES = b"\x01\x0d\x00\x01"  # cICP: the primaries, curve, matrix and range of sRGB
JPEG_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, with Huffman codes
JPEG_OTHER_FRAMES = {*range(0xC0, 0xD0)} - JPEG_FRAMES - {0xC4}
PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # in coded data, where 0xff itself is followed by a zero
JPEG_STUFFING = b"\x55" * 64
LARGEST = 89_000_000  # pixels; Pillow warns soon above
LARGEST_PROFILE = 2**22  # bytes
LOST = bytes(512)  # a sector of a disk

ZEROS = f"it holds {len(LOST)} zeros in a row in the place of pixels, as damaged disks leave them"
SAVE_AGAIN = "copy it again, save it again or remove it"
NO_TRANSPARENCY = "save it without transparency, on the background that you mean"
OTHER_COLOURS = "has colours other than sRGB, so that viewers show other values than it holds"
TO_SRGB = "convert it to sRGB, or remove the profile if you mean the values as they stand"
ONE_FRAME = "save the one that you mean as a file of its own"


class Unfit(Exception):  # noqa: N818 - it is not a bug of the program
    """A picture that is not taken: what it is, and what to do about it, as two parts of a sentence."""

    def __init__(self, reason: str, cure: str) -> None:
        """Take the two parts."""
        super().__init__(f"{reason}; {cure}")


@dataclass(frozen=True)
class Container:
    """What a file says of its picture.

    Attributes:
        kind: ``PNG``, ``JPEG`` or ``WEBP``, as Pillow calls it.
        channels: 1 for grey, 3 for colour.
        width, height: in pixels, as stored.
        n_colours: of the palette, 0 where there is none.
        profile: the ICC profile; None where there is none.
        exif: the EXIF data; empty where there are none.
        stuffed: of a JPEG that was read whole, the same one with more coded data than it has, which shows other
            pixels only where its data are not enough: they carry no length of their own.
        has_zeros: whether its coded data hold :data:`LOST`, which a large flat area makes, or a damaged disk.
    """

    kind: str
    channels: int
    width: int
    height: int
    n_colours: int = 0
    profile: bytes | None = None
    exif: bytes = b""
    stuffed: bytes = b""
    has_zeros: bool = False


def format_of(start: bytes) -> str:
    """Return the format that a file's first 12 bytes tell, as Pillow calls it; empty for any but the three."""
    if start.startswith(PNG):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else ""


def inspect(file: BinaryIO, *, whole: bool) -> Container:
    """Read what a file says of its picture.

    Args:
        file: opened at its start.
        whole: read it to its end, and verify what it carries for that: checksums, lengths, the mark of its end.
            Otherwise no more of a PNG or JPEG is read than what stands before the pixels.

    Raises:
        Unfit: it is not a picture that is taken, or is damaged.
    """
    reader = _Reader(file)
    kind = format_of(reader.peek(12))
    if not kind:
        raise Unfit("is not a PNG, JPEG or WebP file, whatever its name says", "convert it to PNG or move it elsewhere")
    return {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[kind](reader, whole)


class _Reader:
    """Reads a file in parts, and no more than there is of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = file.seek(0, 2)  # bytes
        file.seek(0)

    def take(self, n: int) -> bytes:
        if n > self.left:
            raise _damaged("its end is missing")
        self.left -= n
        return self.file.read(n)

    def peek(self, n: int) -> bytes:
        start = self.file.read(n)
        self.file.seek(-len(start), 1)
        return start

    def before(self) -> bytes:
        """Return what was read so far."""
        n_bytes = self.file.tell()
        self.file.seek(0)
        return self.file.read(n_bytes)

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))


def _damaged(what: str) -> Unfit:
    return Unfit(f"is not a readable picture: {what}", SAVE_AGAIN)


def _refuse_size(width: int, height: int) -> None:
    if not width or not height:
        raise _damaged("it has no pixels")
    if width * height > LARGEST:
        raise Unfit(f"has {width:,} x {height:,} pixels, more than {LARGEST:,}", "crop it or scale it down")


def _refuse_more(rest: bytes) -> None:
    """Refuse what follows the end of a picture, zeros excepted."""
    if rest.strip(b"\0"):
        raise Unfit("goes on after the end of its picture, as with a film or another picture", "save it again without")


def _png(reader: _Reader, whole: bool) -> Container:
    reader.take(len(PNG))
    chunks: dict[bytes, bytes] = {}
    coded: list[bytes] = []
    while b"IEND" not in chunks:
        (length,), kind = reader.unpack(">I"), reader.take(4)
        if kind == b"IDAT" and not whole:
            break
        content = reader.take(length)
        if (zlib.crc32(kind + content),) != reader.unpack(">I"):
            raise _damaged("a checksum is wrong")
        coded += [content] if kind == b"IDAT" else []
        chunks.setdefault(kind, b"" if kind == b"IDAT" else content)
    if len(chunks.get(b"IHDR", b"")) != 13 or any(not kind[0] & 0x20 for kind in chunks.keys() - PNG_CRITICAL):
        raise _damaged("its PNG header is not the standard one")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    _refuse_size(width, height)
    if depth == 16:
        raise Unfit("has 16 bits a channel", "save it with 8")
    if colour in (4, 6):
        raise Unfit("has transparency (an alpha channel)", NO_TRANSPARENCY)
    if depth not in PNG_DEPTHS.get(colour, ()):
        raise _damaged(f"PNG has no colour type {colour} with {depth} bits")
    if b"tRNS" in chunks:
        raise Unfit("has transparency (" + ("in its palette" if colour == 3 else "a colour key") + ")", NO_TRANSPARENCY)
    if b"acTL" in chunks:
        raise Unfit("is an animation of several frames", ONE_FRAME)
    if not _png_is_srgb(chunks):
        raise Unfit(OTHER_COLOURS, TO_SRGB)
    if whole:
        _verify_pixels(b"".join(coded), width, height, depth * (3 if colour == 2 else 1), bool(interlaced))
        _refuse_more(reader.take(reader.left))
    n_colours = len(chunks.get(b"PLTE", b"")) // 3 if colour == 3 else 0
    profile = None
    if b"iCCP" in chunks:
        packed = chunks[b"iCCP"].partition(b"\0")[2][1:]
        try:
            profile = zlib.decompressobj().decompress(packed, LARGEST_PROFILE)
        except zlib.error:
            profile = b""
    return Container("PNG", PNG_CHANNELS[colour], width, height, n_colours, profile, chunks.get(b"eXIf", b""))


def _verify_pixels(coded: bytes, width: int, height: int, bits: int, interlaced: bool) -> None:
    """Refuse coded data of a PNG that are not as long as its pixels of ``bits`` bits, of all passes, make them."""
    expected = 0
    for left, top, step_x, step_y in PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        n_columns, n_rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if n_columns > 0:
            expected += max(0, n_rows) * (1 + -(-n_columns * bits // 8))
    stream = zlib.decompressobj()
    try:
        n_bytes = len(stream.decompress(coded, expected + 1))
    except zlib.error as error:
        raise _damaged("its pixels cannot be decoded") from error
    if n_bytes != expected or not stream.eof:
        raise _damaged("it has fewer or more pixels than it says")


def _png_is_srgb(chunks: dict[bytes, bytes]) -> bool:
    """Whether the chunks that speak of colours, by decreasing precedence, say sRGB; a profile is another matter."""
    if b"cICP" in chunks:
        return chunks[b"cICP"] == PNG_SRGB_CODES
    if b"iCCP" in chunks or b"sRGB" in chunks:
        return True
    gamma, primaries = chunks.get(b"gAMA"), chunks.get(b"cHRM")
    if gamma is not None and not (len(gamma) == 4 and PNG_GAMMA[0] <= int.from_bytes(gamma, "big") <= PNG_GAMMA[1]):
        return False
    if primaries is None:
        return True
    return len(primaries) == 32 and all(
        abs(value - expected) <= 100
        for value, expected in zip(struct.unpack(">8I", primaries), PNG_SRGB_PRIMARIES, strict=True)
    )


def _jpeg(reader: _Reader, whole: bool) -> Container:
    reader.take(2)
    frame, exif, profile = None, b"", {}
    while True:
        mark, code = reader.take(2)
        while mark == code == 0xFF:  # a marker may be filled up
            code = reader.take(1)[0]
        if mark != 0xFF or code < 0xC0 or 0xD0 <= code <= 0xD9:
            raise _damaged("its JPEG header is not the standard one")
        content = reader.take(max(0, reader.unpack(">H")[0] - 2))
        if code == 0xDA:
            break
        if code in JPEG_OTHER_FRAMES:
            raise Unfit("is a JPEG of a rare kind that not every viewer shows", "save it as PNG")
        if code in JPEG_FRAMES:
            if frame or len(content) < 6:
                raise _damaged("its JPEG header is not the standard one")
            frame = struct.unpack(">BHHB", content[:6])
        elif code == 0xE1 and content.startswith(b"Exif\0\0"):
            exif = exif or content
        elif code == 0xE2 and content.startswith(b"MPF\0"):
            raise Unfit("holds several pictures (MPF)", ONE_FRAME)
        elif code == 0xE2 and content.startswith(b"ICC_PROFILE\0"):
            profile[content[12:13]] = content[14:]
    if frame is None:
        raise _damaged("it has no JPEG header")
    bits, height, width, channels = frame
    if bits != 8:
        raise Unfit(f"has {bits} bits a channel", "save it with 8")
    if channels not in (1, 3):
        raise Unfit(f"has {channels} channels" + " (CMYK)" * (channels == 4), "save it as grey or RGB")
    _refuse_size(width, height)
    stuffed, has_zeros = _verify_scans(reader.before(), reader.take(reader.left)) if whole else (b"", False)
    joined = b"".join(part for _, part in sorted(profile.items())) if profile else None
    return Container("JPEG", channels, width, height, 0, joined, exif, stuffed, has_zeros)


def _verify_scans(header: bytes, coded: bytes) -> tuple[bytes, bool]:
    """Go through the coded data of a JPEG, from the first scan to the mark of the end, after which nothing follows.

    Returns:
        ``stuffed`` and ``has_zeros`` of a :class:`Container`.
    """
    end, is_scan, stuffed, has_zeros = 0, True, header, False
    while found := JPEG_MARKER.search(coded, end):
        piece, code = coded[end : found.start()], found[1][0]
        stuffed += piece + JPEG_STUFFING * is_scan
        has_zeros |= LOST in piece
        if code == 0xD9:
            _refuse_more(coded[found.end() :])
            return stuffed + found[0], has_zeros
        is_restart = 0xD0 <= code <= 0xD7
        if code < 0xC0 or code == 0xD8 or code in JPEG_FRAMES | JPEG_OTHER_FRAMES or (piece and not is_scan):
            raise _damaged("its coded data is broken")
        end = found.end() + (0 if is_restart else int.from_bytes(coded[found.end() : found.end() + 2], "big"))
        is_scan = is_restart or code == 0xDA
        stuffed += coded[found.start() : end]
    raise _damaged("its end is missing")


def _webp(reader: _Reader, whole: bool) -> Container:
    reader.take(4)
    (length,) = reader.unpack("<I")
    if length + length % 2 > reader.left:
        raise _damaged("its end is missing")
    after = reader.left - length - length % 2
    reader.take(4)
    chunks: dict[bytes, bytes] = {}
    while reader.left - after >= 8:
        kind, (size,) = reader.take(4), reader.unpack("<I")
        content = reader.take(size + size % 2)
        chunks.setdefault(kind, content)
    if chunks.keys() & {b"ANIM", b"ANMF"}:
        raise Unfit("is an animation of several frames", ONE_FRAME)
    lossy, lossless = chunks.get(b"VP8 ", b""), chunks.get(b"VP8L", b"")
    if lossless:
        (bits,) = struct.unpack("<I", lossless[1:5].ljust(4, b"\0"))
        width, height, has_alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    else:
        width, height = (size & 0x3FFF for size in struct.unpack("<HH", lossy[6:10].ljust(4, b"\0")))
        has_alpha = b"ALPH" in chunks
    if has_alpha or chunks.get(b"VP8X", b"\0")[0] & 0x10:
        raise Unfit("has transparency (an alpha channel)", NO_TRANSPARENCY)
    _refuse_size(width, height)
    if whole:
        if LOST in lossy + lossless:
            raise _damaged(ZEROS)
        _refuse_more(reader.take(reader.left))
    return Container("WEBP", 3, width, height, 0, chunks.get(b"ICCP"), chunks.get(b"EXIF", b""))
