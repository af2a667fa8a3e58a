"""Pixels: every format and mode comes out as the colours that went in."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facesearch.photos.decode import decode
from facesearch.photos.pixels import BACKGROUND
from facesearch.settings import PhotoLimits

LIMITS = PhotoLimits()
Array = NDArray[Any]


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def rgb(data: bytes) -> Array:
    return decode(data, "test", LIMITS).pixels[:, :, ::-1]


def close(a: Array, b: Array, mean: float, most: float = 255) -> bool:
    difference = np.abs(a.astype(float) - b.astype(float))
    return a.shape == b.shape and difference.mean() <= mean and difference.max() <= most


# --- formats and modes


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("PNG", {"interlace": 1}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_lossless_formats(portrait: Image.Image, form: str, options: dict[str, Any]) -> None:
    assert np.array_equal(rgb(encode(portrait, form, **options)), np.asarray(portrait))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(portrait: Image.Image, subsampling: int, progressive: bool) -> None:
    options = {"quality": 95, "subsampling": subsampling, "progressive": progressive}
    data = encode(portrait, "JPEG", **options)
    with Image.open(io.BytesIO(data)) as expected:
        assert close(rgb(data), np.asarray(expected), 0.1, 8)
    assert close(rgb(data), np.asarray(portrait), 4)


def test_lossy_webp(portrait: Image.Image) -> None:
    assert close(rgb(encode(portrait, "WEBP", quality=95)), np.asarray(portrait), 5)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette(portrait: Image.Image, form: str, mode: str) -> None:
    picture = portrait.quantize(200) if mode == "P" else portrait.convert(mode)
    assert np.array_equal(rgb(encode(picture, form)), np.asarray(picture.convert("RGB")))


def test_grey_jpeg(portrait: Image.Image) -> None:
    grey = portrait.convert("L")
    pixels = rgb(encode(grey, "JPEG", quality=100))
    assert close(pixels, np.asarray(grey.convert("RGB")), 1, 4)
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def ramp16() -> NDArray[np.uint16]:
    """Grey levels over the whole 16-bit range, with low bytes that would show if rounded up."""
    levels: NDArray[np.uint16] = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    return levels | np.uint16(0xF0)


def test_16_bit_grey_loses_its_low_byte() -> None:
    grey = ramp16()
    expected = np.dstack([grey >> 8] * 3)
    assert np.array_equal(rgb(encode(Image.fromarray(grey), "PNG")), expected)
    assert np.array_equal(rgb(encode(Image.fromarray(grey), "TIFF")), expected)
    big_endian = Image.frombytes("I;16B", (64, 48), grey.astype(">u2").tobytes())
    assert np.array_equal(rgb(encode(big_endian, "TIFF")), expected)
    deflated = encode(Image.fromarray(grey), "TIFF", compression="tiff_adobe_deflate")
    assert np.array_equal(rgb(deflated), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_loses_its_low_byte(suffix: str) -> None:
    deep = np.dstack([ramp16(), ramp16()[::-1], ramp16()[:, ::-1]])
    data = cv2.imencode(suffix, deep)[1].tobytes()
    assert np.array_equal(decode(data, "", LIMITS).pixels, deep >> 8)


def test_16_bit_transparency() -> None:
    deep = np.dstack([ramp16()] * 3 + [np.full((48, 64), 0xFFFF, np.uint16)])
    deep[:24, :, 3] = 0
    pixels = rgb(cv2.imencode(".png", deep)[1].tobytes())
    assert np.array_equal(pixels[24:], (deep >> 8)[24:, :, :3])
    assert (pixels[:24] == BACKGROUND).all()


PATCHES = {
    "red": ((0, 255, 255, 0), (255, 0, 0)),
    "green": ((255, 0, 255, 0), (0, 255, 0)),
    "blue": ((255, 255, 0, 0), (0, 0, 255)),
    "white": ((0, 0, 0, 0), (255, 255, 255)),
    "black ink": ((0, 0, 0, 255), (0, 0, 0)),
    "skin": ((25, 77, 102, 26), (207, 160, 137)),
}


@pytest.mark.parametrize("name", PATCHES)
def test_cmyk(name: str) -> None:
    ink, colour = PATCHES[name]
    picture = Image.new("CMYK", (32, 32), ink)
    expected = np.broadcast_to(np.array(colour), (32, 32, 3))
    assert close(rgb(encode(picture, "JPEG", quality=100)), expected, 2, 3)
    assert close(rgb(encode(picture, "TIFF")), expected, 1, 1)


@pytest.mark.parametrize("name", PATCHES)
def test_ycck(name: str) -> None:
    ink, colour = PATCHES[name]
    cyan, magenta, yellow, black = ink
    # Adobe's YCCK: (255 - CMY) taken for RGB and turned into YCbCr, everything stored inverted
    ycc = Image.new("RGB", (1, 1), (cyan, magenta, yellow)).convert("YCbCr").getpixel((0, 0))
    assert isinstance(ycc, tuple)
    stored = Image.new("CMYK", (32, 32), (255 - ycc[0], 255 - ycc[1], 255 - ycc[2], black))
    data = bytearray(encode(stored, "JPEG", quality=100, subsampling=0))
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0  # colour transform: none
    data[adobe + 11] = 2  # YCCK
    expected = np.broadcast_to(np.array(colour), (32, 32, 3))
    assert close(rgb(bytes(data)), expected, 4, 6)


# --- transparency


def test_transparency_shows_grey() -> None:
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    picture.paste((255, 0, 0, 128), (8, 0, 16, 32))
    picture.paste((9, 99, 200, 0), (16, 0, 32, 32))
    for data in (
        encode(picture, "PNG"),
        encode(picture, "TIFF"),
        encode(picture, "WEBP", lossless=True, exact=True),
    ):
        row = rgb(data)[5]
        assert (row[:8] == (255, 0, 0)).all()
        assert close(row[8:16], np.broadcast_to(np.array((192, 64, 64)), (8, 3)), 1, 1)
        assert (row[16:] == BACKGROUND).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_with_transparency(form: str) -> None:
    picture = Image.new("LA", (16, 16), (200, 255))
    picture.paste((200, 0), (8, 0, 16, 16))
    pixels = rgb(encode(picture, form))
    assert (pixels[:, :8] == 200).all()
    assert (pixels[:, 8:] == BACKGROUND).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry(form: str) -> None:
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(0, (8, 0, 16, 16))
    pixels = rgb(encode(picture, form, transparency=0))
    assert (pixels[:, :8] == (200, 100, 50)).all()
    assert (pixels[:, 8:] == BACKGROUND).all()


def test_transparent_palette_and_transparent_colour_in_png() -> None:
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    palette.paste(2, (8, 0, 16, 16))
    pixels = rgb(encode(palette, "PNG", transparency=bytes((255, 255, 0))))
    assert (pixels[:, :8] == (200, 100, 50)).all()
    assert (pixels[:, 8:] == BACKGROUND).all()
    keyed = Image.new("RGB", (16, 16), (200, 100, 50))
    keyed.paste((1, 2, 3), (8, 0, 16, 16))
    pixels = rgb(encode(keyed, "PNG", transparency=(1, 2, 3)))
    assert (pixels[:, :8] == (200, 100, 50)).all()
    assert (pixels[:, 8:] == BACKGROUND).all()


def test_transparent_everywhere_is_opaque(portrait: Image.Image) -> None:
    picture = portrait.copy()
    picture.putalpha(0)
    assert np.array_equal(rgb(encode(picture, "PNG")), np.asarray(portrait))
