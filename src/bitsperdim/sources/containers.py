"""Reader of the header and structure of a PNG, JPEG or WebP file, directly from its bytes.

Pillow hides some properties of a file. It reduces the 16 bits of a PNG in colour to 8, shows the first of several
frames, and fills missing pixels with grey or black. This reader therefore uses an allow-list: any structure that it
does not know is refused.

Contents that every viewer ignores (texts, times, private chunks) are ignored.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

PNG = b"\x89PNG\r\n\x1a\n"
PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
PNG_CHANNELS = {0: 1, 2: 3, 3: 3}  # colour type (grey, colour, palette) -> displayed channels
PNG_DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8)}
PNG_GAMMA = (45_000, 46_000)  # range around 1 / 2.2, the gamma in sRGB files
PNG_SRGB_PRIMARIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
PNG_SRGB_CODES = b"\x01\x0d\x00\x01"  # cICP: the primaries, curve, matrix and range of sRGB
JPEG_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, with Huffman codes
JPEG_OTHER_FRAMES = {*range(0xC0, 0xD0)} - JPEG_FRAMES - {0xC4}
PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
JPEG_NO_MORE = {*range(0, 0xF0, 0x10)}  # symbols that end a block, whose other coefficients are then all zero
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # in coded data, a byte 0xff that is no marker is followed by a zero
JPEG_STUFFING = b"\x55" * 64
LARGEST = 89_000_000  # largest number of pixels; Pillow warns slightly above
LARGEST_PROFILE = 2**22  # bytes
LOST = bytes(512)  # a lost sector of a disk, read as zeros

ZEROS = f"it holds {len(LOST)} zeros in a row in the place of pixels, as after a disk error"
SAVE_AGAIN = "copy it again, save it again or remove it"
NO_TRANSPARENCY = "save it without transparency, on a background of your choice"
OTHER_COLOURS = "has colours other than sRGB, so that viewers show other values than it holds"
TO_SRGB = "convert it to sRGB, or remove the profile if the stored values are the intended ones"
ONE_FRAME = "save the intended one as a separate file"


class Unfit(Exception):  # noqa: N818 - it is not a bug of the program
    """Raised for a picture that is not accepted; the message has two parts, the reason and the remedy."""

    def __init__(self, reason: str, cure: str) -> None:
        """Build the message from reason and remedy."""
        super().__init__(f"{reason}; {cure}")


@dataclass(frozen=True)
class Container:
    """Properties of a picture from the structure of its file.

    Attributes:
        kind: ``PNG``, ``JPEG`` or ``WEBP``, as in Pillow.
        channels: 1 for grey, 3 for colour.
        width, height: stored size in pixels.
        n_colours: number of colours in the palette, 0 if there is no palette.
        profile: ICC profile; None if there is no profile.
        exif: EXIF data; empty if there are no EXIF data.
        stuffed: for a JPEG that was read completely, the same file with additional coded data. The coded data of a JPEG
            have no length field, so this file has other pixels only if the original data are incomplete.
        has_zeros: whether the coded data contain :data:`LOST`, caused by a large flat area or by a damaged disk. A JPEG
            whose codes cannot be that many zeros is refused at once.
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
    """Return the format of a file, as in Pillow, from its first 12 bytes; empty for any other format."""
    if start.startswith(PNG):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else ""


def inspect(file: BinaryIO, *, whole: bool) -> Container:
    """Read the properties of a picture from the structure of its file.

    Args:
        file: binary file, opened at its start.
        whole: whether to read the file to its end, and verify checksums, lengths and the end marker. Otherwise a PNG or
            JPEG is read only up to its pixels.

    Raises:
        Unfit: the picture is not accepted, or the file is damaged.
    """
    reader = _Reader(file)
    kind = format_of(reader.peek(12))
    if not kind:
        raise Unfit("is not a PNG, JPEG or WebP file, whatever its name says", "convert it to PNG or move it elsewhere")
    return {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[kind](reader, whole)


class _Reader:
    """A reader of a file in parts, which refuses to read beyond its end."""

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
        """Return all bytes that were read so far."""
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
    """Refuse bytes after the end of a picture, except zeros."""
    if rest.strip(b"\0"):
        raise Unfit(
            "holds more data after the end of its picture, such as a film or another picture",
            "save it again without these data",
        )


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
        once = kind in {b"IHDR", b"PLTE"}
        if (not chunks) != (kind == b"IHDR") or (once and kind in chunks) or (kind == b"PLTE" and b"IDAT" in chunks):
            raise _damaged("a PNG chunk is repeated or out of order")
        coded += [content] if kind == b"IDAT" else []
        chunks.setdefault(kind, b"" if kind == b"IDAT" else content)
    if len(chunks.get(b"IHDR", b"")) != 13 or any(not kind[0] & 0x20 for kind in chunks.keys() - PNG_CRITICAL):
        raise _damaged("its PNG header is not the standard one")
    width, height, depth, colour, *methods, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    _refuse_size(width, height)
    if depth == 16:
        raise Unfit("has 16 bits a channel", "save it with 8")
    if colour in (4, 6):
        raise Unfit("has transparency (an alpha channel)", NO_TRANSPARENCY)
    if depth not in PNG_DEPTHS.get(colour, ()):
        raise _damaged(f"PNG has no colour type {colour} with {depth} bits")
    if any(methods) or interlaced > 1:
        raise _damaged("it is coded by a method that PNG does not have")
    n_colours, rest = divmod(len(chunks.get(b"PLTE", b"")), 3) if colour == 3 else (0, 0)
    if colour == 3 and (rest or not 1 <= n_colours <= 2**depth):
        raise _damaged("its palette is missing or has another size than PNG allows")
    if b"tRNS" in chunks:
        raise Unfit("has transparency (" + ("in its palette" if colour == 3 else "a colour key") + ")", NO_TRANSPARENCY)
    if b"acTL" in chunks:
        raise Unfit("is an animation of several frames", ONE_FRAME)
    if not _png_is_srgb(chunks):
        raise Unfit(OTHER_COLOURS, TO_SRGB)
    if whole:
        _verify_pixels(b"".join(coded), width, height, depth * (3 if colour == 2 else 1), bool(interlaced))
        _refuse_more(reader.take(reader.left))
    profile = None
    if b"iCCP" in chunks:
        packed = chunks[b"iCCP"].partition(b"\0")[2][1:]
        try:
            profile = zlib.decompressobj().decompress(packed, LARGEST_PROFILE)
        except zlib.error:
            profile = b""
    return Container("PNG", PNG_CHANNELS[colour], width, height, n_colours, profile, chunks.get(b"eXIf", b""))


def _verify_pixels(coded: bytes, width: int, height: int, bits: int, interlaced: bool) -> None:
    """Refuse coded data of a PNG whose length does not fit its pixels of ``bits`` bits in all passes."""
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
        raise _damaged("it has fewer or more pixels than its header says")
    if stream.unused_data:
        raise _damaged("it has more data than those of its pixels")


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
    frame = None
    exif = b""
    profile = {}
    segments: list[tuple[int, bytes]] = []
    while True:
        mark, code = reader.take(2)
        while mark == code == 0xFF:  # several bytes 0xff may precede a marker
            code = reader.take(1)[0]
        if mark != 0xFF or code < 0xC0 or 0xD0 <= code <= 0xD9:
            raise _damaged("its JPEG header is not the standard one")
        content = reader.take(max(0, reader.unpack(">H")[0] - 2))
        segments.append((code, content))
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
    stuffed, has_zeros = _verify_scans(segments, reader.before(), reader.take(reader.left)) if whole else (b"", False)
    joined = b"".join(part for _, part in sorted(profile.items())) if profile else None
    return Container("JPEG", channels, width, height, 0, joined, exif, stuffed, has_zeros)


class _Coding:
    """The coding of a JPEG according to its segments, up to the current scan.

    Attributes:
        n_restarts: number of restart markers in the scan.
        zeros_fit: whether the scan can hold many zeros in a row; they must then be complete codes without new values.
    """

    def __init__(self) -> None:
        self.progressive = False
        self.width = self.height = self.interval = self.n_restarts = 0
        self.sampling: dict[int, tuple[int, int]] = {}  # component -> horizontal and vertical factor
        self.shift: dict[int, list[int | None]] = {}  # component -> missing bits of each coefficient; None: all
        self.zero_codes: dict[int, int] = {}  # Huffman table -> symbol of its first code, which consists of zeros
        self.zeros_fit = False

    def add(self, code: int, content: bytes) -> None:
        if code in JPEG_FRAMES:
            self._add_frame(code, content)
        elif code == 0xC4:
            while content:
                end = 17 + sum(content[1:17])
                if len(content) < end:
                    raise _damaged("its coded data is broken")
                self.zero_codes[content[0]] = content[17] if end > 17 else -1
                content = content[end:]
        elif code == 0xDD:
            self.interval = int.from_bytes(content, "big")
        elif code == 0xDA:
            self._add_scan(content)

    def is_complete(self) -> bool:
        """Return whether the scans so far contain every bit of every coefficient."""
        return all(shift == 0 for shifts in self.shift.values() for shift in shifts)

    def _add_frame(self, code: int, content: bytes) -> None:
        self.progressive = code == 0xC2
        self.height, self.width, n = struct.unpack(">HHB", content[1:6])
        self.sampling = {name: divmod(factors, 16) for name, factors in zip(content[6::3], content[7::3], strict=False)}
        self.shift = {name: [None] * 64 for name in self.sampling}
        is_sound = all(1 <= factor <= 4 for factors in self.sampling.values() for factor in factors)
        if len(content) != 6 + 3 * n or len(self.sampling) != n or not is_sound:
            raise _damaged("its JPEG header is not the standard one")

    def _add_scan(self, content: bytes) -> None:
        names, tables = content[1:-3:2], content[2:-3:2]
        if not names or len(content) != 4 + 2 * content[0] or not self.sampling.keys() >= {*names}:
            raise _damaged("its coded data is broken")
        start, stop, (high, low) = (content[-3], content[-2], divmod(content[-1], 16))
        if not self.progressive:
            start, stop, high, low = 0, 63, 0, 0
        for name in names:
            if not start <= stop <= 63 or {*self.shift[name][start : stop + 1]} != {high or None}:
                raise _damaged("a part of its coded data is missing or out of order")
            self.shift[name][start : stop + 1] = [low] * (stop + 1 - start)
        most = [max(factors) for factors in zip(*self.sampling.values(), strict=True)]
        own = self.sampling[names[0]] if len(names) == 1 else (1, 1)  # one component: no padding blocks
        n_columns, n_rows = (
            -(-size * factor // (8 * largest))
            for size, factor, largest in zip((self.width, self.height), own, most, strict=True)
        )
        self.n_restarts = -(-n_columns * n_rows // self.interval) - 1 if self.interval else 0
        same_dc = all(self.zero_codes.get(table >> 4) == 0 for table in tables)
        no_ac = all(self.zero_codes.get(0x10 | table & 15) in JPEG_NO_MORE for table in tables)
        if self.progressive:
            self.zeros_fit = no_ac if start else same_dc or high > 0  # refinement bits have no Huffman code
        else:
            self.zeros_fit = same_dc and no_ac


def _verify_scans(segments: list[tuple[int, bytes]], header: bytes, coded: bytes) -> tuple[bytes, bool]:
    """Verify the coded data of a JPEG, from the first scan to the end marker, after which nothing may follow.

    Args:
        segments: codes and contents of the segments up to the first scan.
        header: bytes of the file up to the first scan.
        coded: bytes after the header.

    Returns:
        ``stuffed`` and ``has_zeros`` of a :class:`Container`.

    Raises:
        Unfit: the data are damaged or incomplete, or something follows the end marker.
    """
    coding = _Coding()
    for segment in segments:
        coding.add(*segment)
    end = 0
    is_scan = True
    n_restarts = 0
    stuffed = header
    has_zeros = False
    while found := JPEG_MARKER.search(coded, end):
        piece, code = coded[end : found.start()], found[1][0]
        stuffed += piece + JPEG_STUFFING * is_scan
        if LOST in piece:
            has_zeros = True
            if not coding.zeros_fit:
                raise _damaged(ZEROS)
        is_restart = 0xD0 <= code <= 0xD7
        is_next = code == 0xD0 + n_restarts % 8 if is_restart else n_restarts == coding.n_restarts
        if (is_scan and not is_next) or (code == 0xD9 and not coding.is_complete()):
            raise _damaged("some of its pixels are missing")
        if code == 0xD9:
            _refuse_more(coded[found.end() :])
            return stuffed + found[0], has_zeros
        is_other = code < 0xC0 or code == 0xD8 or code in JPEG_FRAMES | JPEG_OTHER_FRAMES
        if is_other or ((piece or is_restart) and not is_scan):
            raise _damaged("its coded data is broken")
        end = found.end()
        if is_restart:
            n_restarts += 1
        else:
            end += int.from_bytes(coded[end : end + 2], "big")
            coding.add(code, coded[found.end() + 2 : end])
            is_scan = code == 0xDA
            n_restarts = 0
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
        _refuse_more(reader.take(reader.left))
    has_zeros = whole and LOST in (lossless or lossy)
    return Container("WEBP", 3, width, height, 0, chunks.get(b"ICCP"), chunks.get(b"EXIF", b""), has_zeros=has_zeros)
