"""TIFF's structure: built by hand, as writers and attackers vary it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facesearch.errors import PhotoError, Reason
from facesearch.photos.decode import decode
from facesearch.photos.tiff import exif_orientation
from facesearch.settings import PhotoLimits

WIDTH, HEIGHT = 40, 30
GREY = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
LIMITS = PhotoLimits(max_pixels=10_000)

Tags = dict[int, tuple[int, ...] | None]
BASE: Tags = {256: (WIDTH,), 257: (HEIGHT,), 258: (8,), 259: (1,), 262: (1,), 277: (1,)}


def tiff(blocks: list[bytes], tags: Tags, offsets: int = 273, order: str = "<") -> bytes:
    """A TIFF of these blocks (strips, or tiles where `offsets` is 324) and tags, all of type LONG.

    None leaves a tag out. The directory comes last.
    """
    body, starts = b"", []
    for block in blocks:
        starts.append(8 + len(body))
        body += block
    sizes = 279 if offsets == 273 else 325
    here: Tags = {**BASE, offsets: (*starts,), sizes: (*map(len, blocks),), **tags}
    entries = b""
    for tag, values in sorted(here.items()):
        if values is None:
            continue
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            packed, body = struct.pack(order + "I", 8 + len(body)), body + packed
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    start = struct.pack(order + "HI", 42, 8 + len(body))
    count = struct.pack(order + "H", len(entries) // 12)
    return {"<": b"II", ">": b"MM"}[order] + start + body + count + entries + bytes(4)


def grey(data: bytes) -> NDArray[Any]:
    pixels = decode(data, "", LIMITS).pixels
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


def refused(data: bytes) -> Reason:
    with pytest.raises(PhotoError) as caught:
        decode(data, "", LIMITS)
    return caught.value.reason


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows", [30, 8, 1, 1000])
def test_strips(order: str, rows: int) -> None:
    strips = [GREY[y : y + rows].tobytes() for y in range(0, HEIGHT, rows)]
    assert np.array_equal(grey(tiff(strips, {278: (rows,)}, order=order)), GREY)


def test_tiles() -> None:
    padded = np.zeros((32, 48), np.uint8)
    padded[:HEIGHT, :WIDTH] = GREY
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    data = tiff(tiles, {322: (16,), 323: (16,)}, offsets=324)
    assert np.array_equal(grey(data), GREY)
    assert refused(tiff(tiles[:-1], {322: (16,), 323: (16,)}, offsets=324)) is Reason.CORRUPT


def test_white_is_zero() -> None:
    assert np.array_equal(grey(tiff([GREY.tobytes()], {262: (0,)})), 255 - GREY)
    deep = GREY.astype(np.uint16) * 256 + 255
    data = tiff([deep.tobytes()], {262: (0,), 258: (16,)})
    assert np.array_equal(grey(data), 255 - GREY)


def test_12_bits() -> None:
    levels = (GREY.astype(int) << 4 | 0xF).reshape(-1, 2)
    packed = np.stack(
        [levels[:, 0] >> 4, (levels[:, 0] & 0xF) << 4 | levels[:, 1] >> 8, levels[:, 1] & 0xFF], 1
    )
    data = tiff([packed.astype(np.uint8).tobytes()], {258: (12,)}, order="<")
    assert np.array_equal(grey(data), GREY)


def test_separate_planes() -> None:
    colour = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
    planes = [np.ascontiguousarray(colour[:, :, i]).tobytes() for i in range(3)]
    tags: Tags = {258: (8, 8, 8), 262: (2,), 277: (3,), 284: (2,)}
    assert np.array_equal(decode(tiff(planes, tags), "", LIMITS).pixels[:, :, ::-1], colour)
    assert refused(tiff(planes[:2], tags)) is Reason.CORRUPT


def test_blocks_that_do_not_cover_the_picture() -> None:
    strips = [GREY[:10].tobytes(), GREY[10:20].tobytes()]
    assert refused(tiff(strips, {278: (10,)})) is Reason.CORRUPT


def test_blocks_outside_the_file() -> None:
    assert refused(tiff([GREY.tobytes()], {273: (5000,)})) is Reason.TRUNCATED
    assert refused(tiff([GREY.tobytes()], {279: (5000,)})) is Reason.TRUNCATED


def test_byte_counts_may_be_missing() -> None:
    assert np.array_equal(grey(tiff([GREY.tobytes()], {279: None})), GREY)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({256: None}, Reason.CORRUPT),
        ({257: (0,)}, Reason.CORRUPT),
        ({257: (HEIGHT, HEIGHT)}, Reason.CORRUPT),
        ({256: (1 << 31,), 257: (1 << 31,)}, Reason.TOO_MANY_PIXELS),
        ({322: (1 << 20,), 323: (1 << 20,), 273: None, 324: (8,)}, Reason.TOO_MANY_PIXELS),
        ({277: (200,)}, Reason.UNSUPPORTED),
        ({258: (32,)}, Reason.UNSUPPORTED),
        ({258: (32,), 339: (3,)}, Reason.UNSUPPORTED),
        ({258: (16,), 339: (2,)}, Reason.UNSUPPORTED),
        ({259: (12345,)}, Reason.UNSUPPORTED),
        ({254: (1,)}, Reason.UNSUPPORTED),
        ({50706: (0x01040000,)}, Reason.UNSUPPORTED),
    ],
)
def test_refused(tags: Tags, reason: Reason) -> None:
    assert refused(tiff([bytes(4 * WIDTH * HEIGHT)], tags)) is reason


def test_big_tiff_and_canon_raw() -> None:
    plain = tiff([GREY.tobytes()], {})
    assert refused(b"II+\0\x08\0\0\0" + plain[8:]) is Reason.UNSUPPORTED
    assert refused(plain[:8] + b"CR\x02\0" + plain[12:]) is Reason.UNSUPPORTED


def test_parts_beside_the_picture_are_not_read() -> None:
    """Profile, EXIF and unknown directories that lead nowhere do not spoil the picture."""
    nowhere = (0xFFFFFFF0,)
    data = tiff([GREY.tobytes()], {330: nowhere, 34665: nowhere, 34675: (1,) * 9, 65000: nowhere})
    assert np.array_equal(grey(data), GREY)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(order: str) -> None:
    for orientation in range(1, 9):
        exif = tiff([b""], {274: (orientation,)}, order=order)
        assert exif_orientation(exif) == orientation
        assert exif_orientation(b"Exif\0\0" + exif) == orientation
        assert exif_orientation(exif[:-20]) in (1, orientation)
    for wrong in (b"", b"II", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff"):
        assert exif_orientation(wrong) == 1
    assert exif_orientation(tiff([b""], {274: (9,)}, order=order)) == 1
    assert exif_orientation(tiff([b""], {274: (6, 6)}, order=order)) == 1
