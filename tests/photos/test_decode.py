"""Decoding: upright, reduced, first of several, whatever the surroundings."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from facesearch.errors import PhotoError, Reason
from facesearch.photos.decode import decode, read_photo
from facesearch.settings import PhotoLimits
from facesearch.values import Photo

LIMITS = PhotoLimits()
Array = NDArray[Any]


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def rgb(data: bytes, wanted: int | None = None) -> Array:
    return decode(data, "test", LIMITS, wanted).pixels[:, :, ::-1]


def refused(data: bytes, limits: PhotoLimits = LIMITS) -> Reason:
    with pytest.raises(PhotoError) as caught:
        decode(data, "some name", limits)
    assert caught.value.where == "some name"
    assert "\n" not in str(caught.value)
    return caught.value.reason


def close(a: Array, b: Array, mean: float, most: float = 255) -> bool:
    difference = np.abs(a.astype(float) - b.astype(float))
    return a.shape == b.shape and difference.mean() <= mean and difference.max() <= most


# --- the value


def test_photo(portrait: Image.Image) -> None:
    data = encode(portrait, "PNG")
    photo = decode(data, "an/album/photo.png", LIMITS)
    assert photo.name == "an/album/photo.png"
    assert photo.sha256 == hashlib.sha256(data).hexdigest()
    assert photo.original_size == (90, 110)
    assert photo.scale == (1.0, 1.0)
    assert photo.pixels.dtype == np.uint8


def test_pixels_can_be_used_by_anything(samples: dict[str, bytes]) -> None:
    for data in samples.values():
        pixels = decode(data, "", LIMITS).pixels
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert pixels.shape == (110, 90, 3)


def test_read_photo(demo_photos: Path) -> None:
    path = demo_photos / "people" / "Barack_Obama" / "barack_obama.jpg"
    photo = read_photo(path, LIMITS)
    assert photo.name == str(path)
    with Image.open(path) as expected:
        assert photo.original_size == expected.size
        assert close(photo.pixels[:, :, ::-1], np.asarray(expected.convert("RGB")), 0.1, 8)
    assert max(read_photo(str(path), LIMITS, wanted=100).pixels.shape) < max(photo.pixels.shape)
    assert refused(b"") is Reason.EMPTY


# --- several pictures in one file


def test_first_picture(portrait: Image.Image) -> None:
    still, other = np.asarray(portrait), portrait.transpose(Image.Transpose.ROTATE_180)
    more: dict[str, Any] = {"save_all": True, "append_images": [other]}
    assert np.array_equal(rgb(encode(portrait, "TIFF", **more)), still)
    assert np.array_equal(rgb(encode(portrait, "PNG", **more)), still)
    assert np.array_equal(rgb(encode(portrait, "WEBP", lossless=True, **more)), still)
    flat = portrait.quantize()
    flip: dict[str, Any] = {"save_all": True, "append_images": [other.quantize()]}
    assert np.array_equal(rgb(encode(flat, "GIF", **flip)), np.asarray(flat.convert("RGB")))
    pair = encode(portrait, "MPO", quality=95, **more)
    assert close(rgb(pair), still, 4)


# --- upright


def stored_as(upright: Array, orientation: int) -> Array:
    """What a file with this EXIF orientation holds (EXIF 2.32: where row 0 and column 0 lie)."""
    transposed = upright.swapaxes(0, 1)
    turns: dict[int, Callable[[], Array]] = {
        1: lambda: upright,
        2: lambda: upright[:, ::-1],
        3: lambda: upright[::-1, ::-1],
        4: lambda: upright[::-1],
        5: lambda: transposed,
        6: lambda: transposed[::-1],
        7: lambda: transposed[::-1, ::-1],
        8: lambda: transposed[:, ::-1],
    }
    return np.ascontiguousarray(turns[orientation]())


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(portrait: Image.Image, form: str, orientation: int) -> None:
    upright = np.asarray(portrait)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    stored = Image.fromarray(stored_as(upright, orientation))
    data = encode(stored, form, exif=exif, **options.get(form, {}))
    with Image.open(io.BytesIO(data)) as check:  # the test's own idea of orientation is Pillow's
        assert close(np.asarray(ImageOps.exif_transpose(check)), upright, 2)
    photo = decode(data, "", LIMITS)
    assert photo.original_size == (90, 110)
    assert close(photo.pixels[:, :, ::-1], upright, 2 if form == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"junk" * 9])
def test_damaged_exif_does_not_matter(portrait: Image.Image, exif: bytes) -> None:
    plain = encode(portrait, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    assert np.array_equal(rgb(plain[:2] + segment + plain[2:]), rgb(plain))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientation_is_ignored(portrait: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(rgb(encode(portrait, "PNG", exif=exif)), np.asarray(portrait))


# --- reduced


@pytest.mark.parametrize(
    ("wanted", "factor"),
    [
        (None, 1),
        (500, 1),
        (401, 1),
        (257, 1),
        (256, 2),
        (129, 2),
        (128, 4),
        (65, 4),
        (64, 8),
        (1, 8),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("trailing", [b"", b"padding"])
def test_reduced(wanted: int | None, factor: int, orientation: int, trailing: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(stored_as(slopes(509, 511, 1), orientation)), "JPEG", exif=exif)
    data = data[:-2] + trailing + data[-2:]  # bytes after the last pixel: decoded by Pillow
    photo = decode(data, "", LIMITS, wanted)
    assert photo.original_size == (509, 511)
    assert photo.scale == pytest.approx((1 / factor, 1 / factor), rel=0.02)
    assert max(photo.pixels.shape) >= min(wanted or 511, 511)
    expected = slopes(-(-509 // factor), -(-511 // factor), factor)
    assert close(photo.pixels[:-1, :-1, ::-1], expected[:-1, :-1], 2, 6)


def slopes(width: int, height: int, factor: int) -> NDArray[np.uint8]:
    """A picture whose red is x / 2 and whose green is y / 2 of the full-size pixel shown."""
    x, y = ((np.arange(side) + 0.5) * factor / 2 for side in (width, height))
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, :, 0] = x
    picture[:, :, 1] = y[:, None]
    return picture


def test_other_formats_are_not_reduced(portrait: Image.Image) -> None:
    for form in ("PNG", "WEBP", "TIFF", "BMP", "GIF"):
        assert rgb(encode(portrait, form), wanted=10).shape == (110, 90, 3)


# --- what the name and the surroundings say does not matter


def test_format_is_told_by_the_bytes(samples: dict[str, bytes]) -> None:
    for name, data in samples.items():
        plain = decode(data, name, LIMITS).pixels
        assert np.array_equal(decode(data, "photo.jpg", LIMITS).pixels, plain)
        assert np.array_equal(decode(data, "photo.txt", LIMITS).pixels, plain)


def test_polyglots(samples: dict[str, bytes]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "hello")
    for data in samples.values():
        plain = rgb(data)
        for tail in (archive.getvalue(), b"<script>alert(1)</script>", bytes(100), data):
            assert np.array_equal(rgb(data + tail), plain)


def test_icc_profile_is_ignored(portrait: Image.Image) -> None:
    profile = b"not a profile" * 1000
    for form in ("PNG", "TIFF"):
        data = encode(portrait, form, icc_profile=profile)
        assert np.array_equal(rgb(data), np.asarray(portrait))


def test_pillow_settings_of_others_do_not_matter(
    samples: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: decode(data, "", LIMITS).pixels for name, data in samples.items()}
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 110 // 2)
    for name, data in samples.items():
        assert np.array_equal(decode(data, "", LIMITS).pixels, plain[name])
        for part in (0.3, 0.6, 0.9):
            assert refused(data[: int(len(data) * part)]) in (Reason.TRUNCATED, Reason.CORRUPT)


def test_many_threads(samples: dict[str, bytes]) -> None:
    work = [data for data in samples.values() for _ in range(20)]
    plain = {data: decode(data, "", LIMITS).pixels for data in samples.values()}

    def run(data: bytes) -> Photo:
        return decode(data, "", LIMITS)

    with ThreadPoolExecutor(8) as pool:
        for data, photo in zip(work, pool.map(run, work), strict=True):
            assert np.array_equal(photo.pixels, plain[data])
