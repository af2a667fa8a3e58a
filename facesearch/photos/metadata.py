"""What a photo file carries beside its pixels: EXIF time and position, and its XMP packet.

Read from the bytes alone. Nothing here refuses a photo: metadata that are missing, damaged or of
absurd size are taken for absent. Only what is needed is touched, with bounds on every step.
"""

from __future__ import annotations

import struct
import zlib
from datetime import datetime

from facesearch.photos.heif import heif_blocks, is_heif

MOST_XMP = 1024 * 1024
"""Longest XMP packet that is looked at, bytes."""
_TIFF_LIKE = (b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
"""TIFF, and so DNG and most camera RAW; Olympus's and Panasonic's own."""
_FUJI, _CANON = b"FUJIFILMCCD-RAW", b"ftypcrx "
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 13: 4}
_MOST_ENTRIES = 1000
_XMP_TAG, _EXIF_TAG, _GPS_TAG = 700, 0x8769, 0x8825
_TIME, _ORIGINAL, _DIGITISED = 0x0132, 0x9003, 0x9004


def blocks(data: bytes) -> tuple[bytes, bytes]:
    """The EXIF block, from its TIFF header on, and the XMP packet of a photo; b"" if absent."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG"):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in _TIFF_LIKE:
            return data, _Directory(data).bytes(_XMP_TAG)[:MOST_XMP]
        if is_heif(data):
            exif, xmp = heif_blocks(data)
            return exif, xmp[:MOST_XMP]
        if data.startswith(_FUJI):  # a JPEG lies in it, of the camera's own
            at, length = struct.unpack_from(">II", data, 84)
            return _jpeg(data[at : at + length])
        if data[4:12] == _CANON:
            return _canon(data), b""
    except (struct.error, IndexError, zlib.error, ValueError):
        pass
    return b"", b""


def taken_at(exif: bytes) -> datetime | None:
    """When the photo was taken, by the camera's clock, whose zone is unknown.

    Args:
        exif: as `blocks` gives it.
    """
    try:
        top = _Directory(exif)
        within = top.follow(_EXIF_TAG)
        texts = (within.bytes(_ORIGINAL), within.bytes(_DIGITISED), top.bytes(_TIME))
    except (struct.error, IndexError, ValueError):
        return None
    for text in texts:
        try:
            return datetime.strptime(text[:19].decode("ascii"), "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
    return None


def position(exif: bytes) -> tuple[float, float] | None:
    """(latitude, longitude) in degrees, south and west negative.

    Args:
        exif: as `blocks` gives it.
    """
    try:
        gps = _Directory(exif).follow(_GPS_TAG)
        latitude, longitude = _degrees(gps, 1, b"S"), _degrees(gps, 3, b"W")
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return None
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def _degrees(gps: _Directory, tag: int, negative: bytes) -> float:
    numbers = struct.unpack(f"{gps.order}6I", gps.bytes(tag + 1)[:24])
    d, m, s = (numbers[i] / numbers[i + 1] for i in (0, 2, 4))
    return float((d + m / 60 + s / 3600) * (-1 if gps.bytes(tag)[:1] == negative else 1))


class _Directory:
    """An image file directory of a TIFF structure (TIFF 6.0, section 2).

    Raises:
        ValueError, struct.error, IndexError: it is damaged.
    """

    def __init__(self, data: bytes, at: int | None = None) -> None:
        self._data = data
        self.order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        if not self.order:
            raise ValueError("no TIFF header")
        if at is None:
            (at,) = struct.unpack_from(f"{self.order}I", data, 4)
        (count,) = struct.unpack_from(f"{self.order}H", data, at)
        self._entries: dict[int, tuple[int, int, int]] = {}
        for i in range(min(count, _MOST_ENTRIES)):
            place = at + 2 + 12 * i
            tag, kind, length = struct.unpack_from(f"{self.order}HHI", data, place)
            self._entries[tag] = kind, length, place + 8

    def bytes(self, tag: int) -> bytes:
        """The value of a tag, as it is stored; b"" if it is absent."""
        if tag not in self._entries:
            return b""
        kind, count, place = self._entries[tag]
        length = _SIZES.get(kind, 0) * count
        if length > 4:
            (place,) = struct.unpack_from(f"{self.order}I", self._data, place)
        return self._data[place : place + length]

    def follow(self, tag: int) -> _Directory:
        """The directory that a tag points to; an empty one if it points to none."""
        value = self.bytes(tag)
        if len(value) != 4:
            return _Directory(self._data[:2] + struct.pack(f"{self.order}HIH", 42, 8, 0))
        return _Directory(self._data, struct.unpack(f"{self.order}I", value)[0])


def _jpeg(data: bytes) -> tuple[bytes, bytes]:
    exif, xmp, at = b"", b"", 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length] if data[at + 1] == 0xE1 else b""
        if body.startswith(b"Exif\0\0"):
            exif = exif or body[6:]
        elif body.startswith(_JPEG_XMP):
            xmp = xmp or body[len(_JPEG_XMP) :]
        at += 2 + max(length, 2)
    return exif, xmp


def _canon(data: bytes) -> bytes:
    """The first of the TIFF structures of a CR3, which has no place: that is in another."""
    at = data.find(b"CMT1", 0, 65536)
    (length,) = struct.unpack_from(">I", data, at - 4) if at >= 4 else (0,)
    return data[at + 4 : at - 4 + length]


def _png(data: bytes) -> tuple[bytes, bytes]:
    exif, xmp, at = b"", b"", 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            exif = data[at + 8 : at + 8 + length]
        elif kind == b"iTXt" and data.startswith(_PNG_XMP, at + 8) and length < MOST_XMP:
            body = data[at + 8 + len(_PNG_XMP) : at + 8 + length]
            text = body[2:].split(b"\0", 2)[-1]  # behind the language and the translated keyword
            xmp = zlib.decompressobj().decompress(text, MOST_XMP) if body[0] else text
        at += 12 + length
    return exif, xmp


def _webp(data: bytes) -> tuple[bytes, bytes]:
    exif, xmp, at = b"", b"", 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
        elif kind == b"XMP " and length < MOST_XMP:
            xmp = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return exif, xmp
