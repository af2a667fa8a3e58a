"""Headers: variants that Pillow does not write, and the orders in which parts may come."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facesearch.errors import PhotoError, Reason
from facesearch.photos.decode import decode
from facesearch.photos.formats import Format
from facesearch.photos.headers import read_header
from facesearch.settings import PhotoLimits

LIMITS = PhotoLimits()
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)  # BGR


def pixels(data: bytes) -> NDArray[np.uint8]:
    return decode(data, "", LIMITS).pixels


def refused(data: bytes) -> Reason:
    with pytest.raises(PhotoError) as caught:
        decode(data, "", LIMITS)
    return caught.value.reason


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def test_header_of_every_sample(samples: dict[str, bytes]) -> None:
    for name, data in samples.items():
        header = read_header(data, LIMITS)
        assert header.format.name == name.split()[0].upper().replace("APNG", "PNG")
        assert (header.width, header.height, header.orientation) == (90, 110, 1)


# --- BMP


def bmp(
    rows: list[bytes], bits: int, info: int = 40, height: int = 6, compression: int = 0
) -> bytes:
    """A 5 pixel wide BMP; rows are padded to 4 bytes."""
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    if info == 12:
        head = struct.pack("<IHHHH", 12, 5, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIIIII", info, 5, height, 1, bits, compression, 0, 0, 0, 0, 0)
        head += bytes(info - 40)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + body


def test_bmp_bottom_up_top_down_and_os2() -> None:
    rows = [row.tobytes() for row in COLOUR]
    assert np.array_equal(pixels(bmp(rows[::-1], 24)), COLOUR)
    assert np.array_equal(pixels(bmp(rows, 24, height=-6)), COLOUR)
    assert np.array_equal(pixels(bmp(rows[::-1], 24, info=12)), COLOUR)
    assert np.array_equal(pixels(bmp(rows[::-1], 24, info=124)), COLOUR)


def test_bmp_of_16_and_32_bits() -> None:
    four = np.dstack([COLOUR, np.zeros((6, 5), np.uint8)])  # the fourth byte has no meaning
    assert np.array_equal(pixels(bmp([row.tobytes() for row in four[::-1]], 32)), COLOUR)
    five = (COLOUR >> 3).astype(np.uint16)
    packed = five[:, :, 0] | five[:, :, 1] << 5 | five[:, :, 2] << 10
    found = pixels(bmp([row.astype("<u2").tobytes() for row in packed[::-1]], 16))
    assert np.abs(found.astype(int) - COLOUR).max() <= 8


def test_bmp_that_is_refused() -> None:
    rows = [row.tobytes() for row in COLOUR]
    assert refused(bmp(rows[:5], 24)) is Reason.TRUNCATED
    assert refused(bmp(rows, 8, compression=1)) is Reason.UNSUPPORTED
    assert refused(bmp(rows, 24, compression=4)) is Reason.UNSUPPORTED
    assert refused(bmp(rows, 24, height=0)) is Reason.CORRUPT
    assert refused(bmp(rows, 24, height=1 << 30)) is Reason.TOO_MANY_PIXELS


# --- GIF


def test_gif_without_a_picture() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 5, 6, 0, 0, 0)
    assert refused(screen + b";") is Reason.CORRUPT
    assert refused(screen + b"!\xfe\x03abc\0;") is Reason.CORRUPT  # a comment alone
    assert refused(screen + b"!\xfe\x03abc") is Reason.TRUNCATED


def test_gif_frame_outside_its_screen(samples: dict[str, bytes]) -> None:
    data = bytearray(samples["gif"])
    data[6:8] = struct.pack("<H", 89)
    assert refused(bytes(data)) is Reason.CORRUPT


def test_gif_frame_smaller_than_its_screen() -> None:
    small = bytearray(encode(Image.new("RGB", (5, 6), (200, 100, 50)), "GIF"))
    small[6:10] = struct.pack("<HH", 9, 8)
    found = decode(bytes(small), "", LIMITS)
    assert found.original_size == (9, 8)
    assert (found.pixels[:6, :5] == (50, 100, 200)).all()


# --- WebP and PNG


def test_orientation_wherever_it_stands(portrait: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = portrait.transpose(Image.Transpose.ROTATE_90)
    webp = encode(turned, "WEBP", lossless=True, exif=exif.tobytes())
    assert webp.index(b"EXIF") > webp.index(b"VP8L")
    assert np.array_equal(pixels(webp)[:, :, ::-1], np.asarray(portrait))
    png = encode(turned, "PNG", exif=exif.tobytes())
    at = png.index(b"eXIf") - 4
    length = 12 + struct.unpack(">I", png[at : at + 4])[0]
    late = png[:at] + png[at + length : -12] + png[at : at + length] + png[-12:]
    assert np.array_equal(pixels(late)[:, :, ::-1], np.asarray(portrait))


def test_webp_of_every_kind_of_frame(portrait: Image.Image) -> None:
    odd = portrait.resize((301, 17))
    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0junk"}):
        header = read_header(encode(odd, "WEBP", **options), LIMITS)
        assert (header.format, header.width, header.height) == (Format.WEBP, 301, 17)


def test_png_without_pixels_or_end(samples: dict[str, bytes]) -> None:
    png = samples["png"]
    start, end = png.index(b"IDAT") - 4, len(png) - 12
    assert refused(png[:start] + png[end:]) is Reason.CORRUPT
    assert refused(png[:end]) is Reason.TRUNCATED


# --- JPEG


def test_only_what_pixels_need_reaches_the_jpeg_decoder(portrait: Image.Image) -> None:
    plain = encode(portrait, "JPEG")
    exif = Image.Exif()
    exif[0x010E] = "a description"
    rich = encode(portrait, "JPEG", exif=exif, icc_profile=b"p" * 200_000, comment=b"c" * 60_000)
    assert len(rich) > len(plain) + 250_000
    assert read_header(rich, LIMITS).body == read_header(plain, LIMITS).body


def test_the_embedded_thumbnail_is_not_taken_for_the_photo(portrait: Image.Image) -> None:
    thumbnail = encode(portrait.resize((16, 20)), "JPEG")
    photo = encode(portrait, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(thumbnail)) + b"Exif\0\0" + thumbnail
    assert np.array_equal(pixels(photo[:2] + segment + photo[2:]), pixels(photo))
    assert refused(photo[:2] + segment) is Reason.TRUNCATED
