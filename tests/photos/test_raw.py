"""Camera RAW: DNG files made here, developed by LibRaw, or with a picture of the camera's own."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facesearch import Engine
from facesearch.errors import PhotoError, Reason
from facesearch.photos import raw
from facesearch.photos.decode import decode, read_photo
from facesearch.photos.raw import is_raw
from facesearch.settings import PhotoLimits
from facesearch.values import Pixels

LIMITS = PhotoLimits()
COLOURS = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)
Entries = list[tuple[int, int, list[int] | bytes]]


def directory(entries: Entries, at: int) -> bytes:
    """An image file directory at an offset, its values behind it."""
    head, values = struct.pack("<H", len(entries)), b""
    behind = at + 2 + 12 * len(entries) + 4
    for tag, kind, value in sorted(entries, key=lambda entry: entry[0]):
        if isinstance(value, bytes):
            packed, count = value + b"\0", len(value) + 1
        else:
            form = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i"}[kind]
            packed = struct.pack(f"<{len(value)}{form}", *value)
            count = len(value) // (2 if kind in {5, 10} else 1)
        if len(packed) > 4:
            place = struct.pack("<I", behind + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        head += struct.pack("<HHI", tag, kind, count) + place
    return head + struct.pack("<I", 0) + values


def dng(picture: Pixels, orientation: int = 1, preview: Pixels | None = None) -> bytes:
    """A DNG of a sensor that saw a picture; in it a JPEG of the camera, of another, or none."""
    height, width = picture.shape[:2]
    linear: NDArray[np.float64] = np.asarray((picture / 255.0) ** 2.2 * 60000, np.float64)
    cells = linear[..., 1].copy()
    cells[0::2, 0::2] = linear[0::2, 0::2, 2]
    cells[1::2, 1::2] = linear[1::2, 1::2, 0]
    data = cells.astype("<u2").tobytes()
    about: Entries = [
        (271, 2, b"Facesearch"),
        (272, 2, b"Test"),
        (274, 3, [orientation]),
        (50706, 1, [1, 4, 0, 0]),
        (50708, 2, b"Facesearch Test"),
        (50721, 10, [n for c in COLOURS for n in (round(c * 10000), 10000)]),
        (50728, 5, [1, 1, 1, 1, 1, 1]),
        (50778, 3, [21]),
    ]

    def sensor(at: int) -> Entries:
        return [
            *((254, 4, [0]), (256, 4, [width]), (257, 4, [height]), (258, 3, [16])),
            *((259, 3, [1]), (262, 3, [32803]), (273, 4, [at]), (277, 3, [1])),
            *((278, 4, [height]), (279, 4, [len(data)]), (284, 3, [1])),
            *((33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2]), (50714, 4, [0]), (50717, 4, [60000])),
        ]

    start = b"II*\0" + struct.pack("<I", 8)
    if preview is None:
        length = len(directory(about + sensor(0), 8))
        return start + directory(about + sensor(8 + length), 8) + data
    jpeg = cv2.imencode(".jpg", preview)[1].tobytes()
    jpeg += b"\0" * (len(jpeg) % 2)

    def top(below: int, at: int) -> Entries:
        tall, wide = preview.shape[:2]
        return [
            *((254, 4, [1]), (256, 4, [wide]), (257, 4, [tall]), (258, 3, [8, 8, 8])),
            *((259, 3, [7]), (262, 3, [6]), (273, 4, [at]), (277, 3, [3]), (278, 4, [tall])),
            *((279, 4, [len(jpeg)]), (330, 4, [below])),
        ]

    below = 8 + len(directory(about + top(0, 0), 8))
    at = below + len(directory(sensor(0), below))
    pages = directory(about + top(below, at), 8) + directory(sensor(at + len(jpeg)), below)
    return start + pages + jpeg + data


@pytest.fixture(scope="module")
def picture(demo_photos: Path) -> Pixels:
    pixels = read_photo(next((demo_photos / "people").rglob("*.jpg"))).pixels
    factor = 600 / max(pixels.shape)
    small = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[: len(small) // 2 * 2, : small.shape[1] // 2 * 2], np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_developed_and_upright(picture: Pixels, orientation: int) -> None:
    turn = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    upright = cv2.rotate(picture, turn[orientation]) if orientation > 1 else picture
    photo = decode(dng(picture, orientation), "x.dng", LIMITS)
    assert photo.original_size == upright.shape[1::-1]
    assert photo.pixels.shape == upright.shape
    grey = [cv2.cvtColor(np.asarray(p, np.uint8), 6).ravel() for p in (photo.pixels, upright)]
    assert np.asarray(np.corrcoef(np.stack(grey)))[0, 1] > 0.98
    reds = photo.pixels[..., 2].mean() / photo.pixels[..., 0].mean()
    assert reds == pytest.approx(upright[..., 2].mean() / upright[..., 0].mean(), rel=0.2)
    half = decode(dng(picture, orientation), "x.dng", LIMITS, wanted=200)
    assert max(half.pixels.shape) == max(picture.shape) // 2
    assert half.original_size == photo.original_size


def test_the_cameras_own_picture_where_it_will_do(picture: Pixels) -> None:
    mark = cv2.resize(255 - picture, None, fx=0.5, fy=0.5)
    marked = np.asarray(mark, np.uint8)
    data = dng(picture, 6, marked)
    preview = decode(data, "x.nef", LIMITS, wanted=max(marked.shape)).pixels
    assert (
        np.abs(cv2.rotate(preview, cv2.ROTATE_90_COUNTERCLOCKWISE) - marked.astype(int)).mean() < 3
    )
    whole = decode(data, "x.nef", LIMITS)  # more than the preview has: developed
    assert max(whole.pixels.shape) == max(picture.shape)
    cut = dng(picture, 1, marked[: len(marked) // 2])  # shows something else
    assert decode(cut, "x.nef", LIMITS, wanted=100).pixels.shape[0] == picture.shape[0] // 2


def test_what_is_no_good(picture: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dng(picture)
    rng = np.random.default_rng(0)

    def reason(data: bytes, limits: PhotoLimits = LIMITS) -> Reason | None:
        try:
            decode(data, "x.dng", limits)
        except PhotoError as err:
            return err.reason
        return None

    assert all(reason(whole[:end]) for end in rng.integers(1, len(whole), 50))
    assert reason(whole[:-1000]) is Reason.TRUNCATED
    assert reason(whole, PhotoLimits(max_pixels=10_000)) is Reason.TOO_MANY_PIXELS
    for _ in range(50):
        damaged = bytearray(whole)
        for at in rng.integers(0, 600, 4):
            damaged[at] = int(rng.integers(256))
        reason(bytes(damaged))  # a photo or a reason, nothing else
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(PhotoError, match=r"facesearch\[raw\]"):
        decode(whole, "x.dng", LIMITS)


def test_other_files_are_not_raw(picture: Pixels) -> None:
    for suffix in (".tif", ".jpg", ".png"):
        assert not is_raw(cv2.imencode(suffix, picture)[1].tobytes())
    assert is_raw(b"FUJIFILMCCD-RAW 0201")
    assert is_raw(b"\0\0\0\x18ftypcrx " + bytes(8))
    assert not is_raw(b"II*\0\xff\xff\xff\xff")
    assert set(raw.SUFFIXES) >= {".cr2", ".nef", ".arw", ".dng"}


def test_an_ingestion(picture: Pixels, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / "a.dng").write_bytes(dng(picture))
    (album / "b.NEF").write_bytes(dng(picture, 6)[:-5000])
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        report = engine.ingest([album])
        assert (report.photos, report.faces, report.failed) == (1, 1, 1)
        assert report.failures[0].reason == Reason.TRUNCATED.value
