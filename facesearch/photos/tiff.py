"""TIFF structure, which EXIF shares: the orientation, and a TIFF's first page.

Tag numbers and types: TIFF 6.0 (Adobe, 1992), section 2 and appendix A; orientation: CIPA DC-008
(EXIF 2.32), section 4.6.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from facesearch.errors import Reason
from facesearch.photos.formats import Format, Header, Refusal, check_size
from facesearch.settings import PhotoLimits

_ORDERS = {b"II": "<", b"MM": ">"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I"}

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES = 273, 274, 277, 278, 279
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 284, 322, 323, 324, 325
_DNG_VERSION = 50706
_MAX_SAMPLES = 6  # as many as Pillow knows what to do with; beyond, it logs an error

_SCALARS = frozenset(
    {_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _STRIP_ROWS, _PLANAR, _TILE_WIDTH}
    | {_TILE_HEIGHT, 266, 292, 293, 317}  # fill order, fax options, predictor
)
_LISTS = frozenset(
    {_BITS, _STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES}
    | {320, 338, 339, 347, *range(512, 522), *range(529, 533)}  # colours, samples, JPEG, YCbCr
)
"""Together with `_SCALARS`, the tags that pixels depend on. The decoder sees no others: not the
profile, the EXIF directory, thumbnails or makers' notes, nor the orientation, applied later."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """The first image file directory: tag -> (type, count, where its values are)."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]]
    raw: dict[int, bytes]

    def many(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The integers of a tag; `default` if it is absent.

        Raises:
            Refusal: TRUNCATED if they lie beyond the file's end; CORRUPT if they are no integers.
        """
        if tag not in self.entries:
            return default
        kind, count, at = self.entries[tag]
        if kind not in _INTEGERS:
            raise Refusal(Reason.CORRUPT, f"TIFF tag {tag} is not a list of integers")
        if at + count * _TYPE_BYTES[kind] > len(self.data):
            raise Refusal(Reason.TRUNCATED, f"the file ends before the values of TIFF tag {tag}")
        return struct.unpack_from(f"{self.order}{count}{_INTEGERS[kind]}", self.data, at)

    def one(self, tag: int, default: int) -> int:
        """The single integer of a tag; `default` if it is absent.

        Raises:
            Refusal: as `many`, and CORRUPT if there are several.
        """
        values = self.many(tag, (default,))
        if len(values) != 1:
            raise Refusal(Reason.CORRUPT, f"TIFF tag {tag} has {len(values)} values instead of one")
        return values[0]


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 where it has none or is damaged.

    Args:
        exif: from its TIFF header ("II*" or "MM") on; a leading "Exif" marker is skipped.
    """
    try:
        orientation = _read_directory(exif.removeprefix(b"Exif\0\0")).one(_ORIENTATION, 1)
    except (Refusal, struct.error):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def read_tiff(data: bytes, limits: PhotoLimits) -> Header:
    """Check a TIFF's first page, and reduce the file to it.

    Raises:
        Refusal: TRUNCATED, CORRUPT, TOO_MANY_PIXELS, or UNSUPPORTED (BigTIFF, camera raw).
        struct.error: the file ends inside its header or directory.
    """
    if data[2:4] in (b"+\0", b"\0+"):
        raise Refusal(Reason.UNSUPPORTED, "BigTIFF is not supported; save it as classic TIFF")
    page = _read_directory(data)
    if _DNG_VERSION in page.raw or data[8:10] == b"CR" or page.one(_SUBFILE, 0) & 1:
        raise Refusal(Reason.UNSUPPORTED, "camera raw is not supported; develop it to JPEG or TIFF")
    if page.one(_SAMPLES, 1) > _MAX_SAMPLES:
        raise Refusal(Reason.UNSUPPORTED, f"more than {_MAX_SAMPLES} samples a pixel")
    width, height = page.one(_WIDTH, 0), page.one(_HEIGHT, 0)
    check_size(width, height, limits)
    _check_blocks(page, width, height, limits)
    bits = page.many(_BITS, (1,))
    orientation = page.one(_ORIENTATION, 1)
    return Header(
        Format.TIFF,
        width,
        height,
        _first_page(page),
        orientation if 1 <= orientation <= 8 else 1,
        max(bits, default=1),
        page.one(_PHOTOMETRIC, 0) == 0,
    )


def _read_directory(data: bytes) -> _Directory:
    order = _ORDERS.get(data[:2])
    if order is None:
        raise Refusal(Reason.CORRUPT, "its byte order is neither II nor MM")
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries: dict[int, tuple[int, int, int]] = {}
    raw: dict[int, bytes] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, items = struct.unpack_from(order + "HHI", data, at)
        if kind not in _TYPE_BYTES or items == 0 or tag in entries:
            continue
        where = at + 8
        if items * _TYPE_BYTES[kind] > 4:
            (where,) = struct.unpack_from(order + "I", data, where)
        entries[tag] = kind, items, where
        raw[tag] = data[at : at + 12]
    return _Directory(data, order, entries, raw)


def _check_blocks(page: _Directory, width: int, height: int, limits: PhotoLimits) -> None:
    """Refuse a page whose strips or tiles do not cover it, or do not lie inside the file."""
    planes = page.one(_SAMPLES, 1) if page.one(_PLANAR, 1) == 2 else 1
    if _TILE_OFFSETS in page.entries and _STRIP_OFFSETS not in page.entries:
        across, down = page.one(_TILE_WIDTH, 0), page.one(_TILE_HEIGHT, 0)
        check_size(across, down, limits)
        wanted = -(-width // across) * -(-height // down) * planes
        offsets, sizes = page.many(_TILE_OFFSETS), page.many(_TILE_BYTES)
    else:
        rows = min(page.one(_STRIP_ROWS, height), height)
        wanted = -(-height // max(rows, 1)) * planes
        offsets, sizes = page.many(_STRIP_OFFSETS), page.many(_STRIP_BYTES)
    if len(offsets) < wanted or (sizes and len(sizes) != len(offsets)):
        raise Refusal(
            Reason.CORRUPT, f"{len(offsets)} of the {wanted} blocks that make up its picture"
        )
    ends = map(sum, zip(offsets, sizes or (1,) * len(offsets), strict=True))
    if max(ends, default=0) > len(page.data):
        raise Refusal(Reason.TRUNCATED, "the file ends before its picture does; fetch it again")


def _first_page(page: _Directory) -> bytes:
    """The file with one directory of nothing but what pixels depend on."""
    for tag in _SCALARS & page.entries.keys():
        page.one(tag, 0)
    for tag in _LISTS & page.entries.keys():
        kind, count, at = page.entries[tag]
        if at + count * _TYPE_BYTES[kind] > len(page.data):
            raise Refusal(Reason.TRUNCATED, f"the file ends before the values of TIFF tag {tag}")
    tags = sorted((_SCALARS | _LISTS) & page.entries.keys())
    body = b"".join(page.raw[tag] for tag in tags)
    start = len(page.data) + len(page.data) % 2
    return b"".join(
        (
            page.data[:4],
            struct.pack(page.order + "I", start),
            memoryview(page.data)[8:],
            bytes(len(page.data) % 2),
            struct.pack(page.order + "H", len(tags)),
            body,
            bytes(4),
        )
    )
