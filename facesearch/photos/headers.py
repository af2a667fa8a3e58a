"""What a photo file says about itself, read without decoding a pixel and without any library.

`read_header` recognises the format by the file's first bytes (never by its name), judges width x
height, finds the EXIF orientation, and checks that everything the structure promises is there:
whole segments, chunks with the right checksum, blocks up to the end. So most truncation is found
here, whatever the decoder makes of it. Of JPEG, PNG and TIFF only what pixels depend on is passed
on: text, profiles, thumbnails, further pages, where decompression bombs hide, are never unpacked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from facesearch.errors import Reason
from facesearch.photos.formats import Format, Header, Refusal, check_size
from facesearch.photos.tiff import exif_orientation, read_tiff
from facesearch.settings import PhotoLimits

_NO_IMAGE = "not a JPEG, PNG, WebP, BMP, TIFF or GIF file"
_ENDS_EARLY = "the file ends before its picture does; fetch it again"

_JPEG_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
"""Bytes after 0xFF that begin no segment: stuffing, TEM, restarts, SOI (ITU-T T.81, table B.1)."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers (same table)."""
_JPEG_DECODED = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
"""Those that libjpeg-turbo decodes: baseline, extended and progressive; arithmetic coding too."""
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xCA))
_JPEG_DROPPED = frozenset((*range(0xE0, 0xEE), 0xEF, 0xFE))
"""Application segments and comments, but for Adobe's (0xEE), which tells how colours are coded."""
_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x02\0\0\x01\0\x01\0\0"
"""JFIF 1.2's segment, put in the place of any JFIF segment: it says that colours are YCbCr."""
_JPEG_MAX_SCANS = 100
"""Scans in one file. Progressive encoders make about 10; in a hostile file each costs a pass over
all pixels (0.6 s a gigapixel and channel, measured) for 30 bytes."""

_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_BMP_INFO_BYTES = frozenset((12, 40, 52, 56, 64, 108, 124))
"""Lengths of the info header, of OS/2 1.x to Windows 98."""
_BMP_RLE = frozenset((1, 2))


def read_header(data: bytes, limits: PhotoLimits) -> Header:
    """Read and check the header of a photo file.

    Args:
        data: the whole file.
        limits: `max_pixels` is compared as soon as width and height are known.

    Raises:
        Refusal: NOT_AN_IMAGE, UNSUPPORTED, TOO_MANY_PIXELS, TRUNCATED or CORRUPT.
    """
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                return read(data, limits)
            except (struct.error, IndexError) as err:  # a field beyond the end of the data
                raise Refusal(Reason.TRUNCATED, _ENDS_EARLY) from err
    for magic, at, name in _UNSUPPORTED:
        if data.startswith(magic, at):
            raise Refusal(
                Reason.UNSUPPORTED, f"{name} is not supported; convert it to JPEG, PNG or TIFF"
            )
    raise Refusal(Reason.NOT_AN_IMAGE, _NO_IMAGE)


def _jpeg(data: bytes, limits: PhotoLimits) -> Header:
    view = memoryview(data)
    kept, orientation, at = [view[:2]], 1, 2
    frame: tuple[int, int, int, int] | None = None
    while True:
        at = data.find(b"\xff", at)
        marker = 0xD9 if at < 0 else data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        elif marker == 0xD9:
            raise Refusal(Reason.TRUNCATED, _ENDS_EARLY)
        elif marker == 0xDA:
            break
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if marker in _JPEG_FRAMES and frame is None:
                frame = _jpeg_frame(data, at, limits)
            elif marker == 0xE1 and orientation == 1 and data.startswith(b"Exif\0\0", at + 4):
                orientation = exif_orientation(data[at + 4 : at + 2 + length])
            elif marker == 0xE0 and data.startswith(b"JFIF\0", at + 4):
                kept.append(memoryview(_JFIF))
            if marker not in _JPEG_DROPPED:
                kept.append(view[at : at + 2 + length])
            at += 2 + length
    if frame is None:
        raise Refusal(Reason.CORRUPT, "its picture data come before their header")
    if data.rfind(b"\xff\xd9") < at:
        raise Refusal(Reason.TRUNCATED, _ENDS_EARLY)
    width, height, process, channels = frame
    several_scans = process in _JPEG_PROGRESSIVE or data[at + 4] < channels
    if several_scans and data.count(b"\xff\xda", at) > _JPEG_MAX_SCANS:
        raise Refusal(Reason.CORRUPT, f"more than {_JPEG_MAX_SCANS} scans; not made by a camera")
    body = b"".join((*kept, view[at:]))
    return Header(Format.JPEG, width, height, body, orientation)


def _jpeg_frame(data: bytes, at: int, limits: PhotoLimits) -> tuple[int, int, int, int]:
    """Width, height, marker and channels of the frame header whose marker is at `at`."""
    marker, bits, height, width, channels = struct.unpack_from(">xB2xBHHB", data, at)
    check_size(width, height, limits)
    if marker not in _JPEG_DECODED or bits != 8 or channels not in (1, 3, 4):
        raise Refusal(
            Reason.UNSUPPORTED,
            f"JPEG process {marker - 0xC0}, {bits} bits, {channels} channels is not supported; "
            "convert it to plain JPEG",
        )
    return width, height, marker, channels


def _png(data: bytes, limits: PhotoLimits) -> Header:
    view = memoryview(data)
    kept, orientation, at, kind = [view[:8]], 1, 8, b""
    if data[12:16] != b"IHDR":
        raise Refusal(Reason.CORRUPT, "its first PNG chunk is not a header")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    check_size(width, height, limits)
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise Refusal(Reason.TRUNCATED, _ENDS_EARLY)
        if kind in _PNG_KEPT:
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
                raise Refusal(Reason.CORRUPT, f"its {kind.decode()} chunk has a wrong checksum")
            kept.append(view[at:end])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end - 4])
        at = end
    return Header(Format.PNG, width, height, b"".join(kept), orientation, bits)


def _webp(data: bytes, limits: PhotoLimits) -> Header:
    if data[8:12] != b"WEBP":
        raise Refusal(Reason.NOT_AN_IMAGE, _NO_IMAGE)
    kind, orientation = data[12:16], 1
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise Refusal(Reason.CORRUPT, "its WebP frame has no start code")
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8X":
        low, packed = struct.unpack_from("<IH", data, 24)
        width, height = 1 + (low & 0xFFFFFF), 1 + (low >> 24 | packed << 8)
    else:
        raise Refusal(Reason.CORRUPT, "its first WebP chunk is no picture")
    check_size(width, height, limits)
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise Refusal(Reason.TRUNCATED, _ENDS_EARLY)
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            orientation = exif_orientation(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return Header(Format.WEBP, width, height, data, orientation)


def _bmp(data: bytes, limits: PhotoLimits) -> Header:
    start, info = struct.unpack_from("<II", data, 10)
    if info not in _BMP_INFO_BYTES:
        raise Refusal(Reason.NOT_AN_IMAGE, _NO_IMAGE)
    if info == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)
    check_size(width, height, limits)
    if compression in _BMP_RLE:  # never used for photos; Pillow decodes it in Python, a byte a time
        raise Refusal(Reason.UNSUPPORTED, "run-length BMP is not supported; convert it to PNG")
    if start + (width * bits + 31) // 32 * 4 * height > len(data):
        raise Refusal(Reason.TRUNCATED, _ENDS_EARLY)
    return Header(Format.BMP, width, height, data)


def _gif(data: bytes, limits: PhotoLimits) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check_size(width, height, limits)
    at = 13 + _gif_palette(flags)
    while data[at] == 0x21:  # extensions
        at = _gif_skip(data, at + 2)
    if data[at] != 0x2C:
        raise Refusal(Reason.CORRUPT, "it holds no picture")
    left, top, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
    if left + across > width or top + down > height:
        raise Refusal(Reason.CORRUPT, "its first frame reaches outside the picture")
    end = _gif_skip(data, at + 11 + _gif_palette(flags))
    return Header(Format.GIF, width, height, data[:end] + b";")


def _gif_palette(flags: int) -> int:
    """Bytes of the palette that a descriptor with these flags announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_skip(data: bytes, at: int) -> int:
    """The offset behind a chain of data sub-blocks."""
    while length := data[at]:
        at += 1 + length
    return at + 1


_READERS: tuple[tuple[bytes, Callable[[bytes, PhotoLimits], Header]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"II*\0", read_tiff),
    (b"MM\0*", read_tiff),
    (b"II+\0", read_tiff),
    (b"MM\0+", read_tiff),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
)
_UNSUPPORTED: tuple[tuple[bytes, int, str], ...] = (
    (b"ftypavi", 4, "AVIF"),
    (b"ftyp", 4, "AVIF or a video"),
    (b"\0\0\0\x0cjP  ", 0, "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", 0, "JPEG XL"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"8BPS", 0, "Photoshop's PSD"),
    (b"%PDF", 0, "PDF"),
)
