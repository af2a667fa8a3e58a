"""Damaged, hostile and unsupported files: a photo or a PhotoError, never anything else."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from facesearch.errors import PhotoError, Reason
from facesearch.photos.decode import decode
from facesearch.settings import PhotoLimits

LIMITS = PhotoLimits(max_pixels=2_000_000)
DAMAGED = {Reason.TRUNCATED, Reason.CORRUPT}
JPEGS = ["jpeg", "jpeg progressive", "jpeg restarts", "jpeg grey", "jpeg cmyk"]
PNGS = ["png", "png alpha", "png palette", "png bilevel", "png 16 bit", "apng"]
TIFFS = ["tiff", "tiff lzw", "tiff deflate", "tiff packbits", "tiff jpeg", "tiff 16 bit"]
OTHERS = ["webp", "webp lossless", "webp animated", "bmp", "bmp palette", "gif"]
SAMPLES = JPEGS + PNGS + TIFFS + OTHERS


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def outcome(data: bytes) -> Reason | None:
    """Why `data` is refused, or None if it is a photo. Whatever else happens fails the test."""
    refusal, photo = None, None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            photo = decode(data, "name", LIMITS)
        except PhotoError as err:
            refusal = err
    assert not warned
    if refusal is not None:
        assert refusal.where == "name"
        assert "\n" not in str(refusal)
        return refusal.reason
    assert photo is not None
    assert sorted(photo.original_size) == sorted(photo.pixels.shape[:2])
    return None


# --- truncated, flipped, overwritten


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated(samples: dict[str, bytes], name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = samples[name]
    ends = {*range(30, 200), *np.linspace(200, len(data) - 2, 60).astype(int), len(data) - 2}
    reasons = {end: outcome(data[:end]) for end in ends}
    assert {end: reason for end, reason in reasons.items() if reason not in DAMAGED} == {}
    for end in range(30):
        assert outcome(data[:end]) is not None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", SAMPLES)
def test_bit_flips(samples: dict[str, bytes], name: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(SAMPLES.index(name))
    refused = 0
    for round_ in range(120):
        data = bytearray(samples[name])
        reach = len(data) if round_ % 2 else min(len(data), 300)  # every other in the header
        for at in rng.integers(reach, size=int(rng.integers(1, 4))):
            data[at] ^= 1 << int(rng.integers(8))
        refused += outcome(bytes(data)) is not None
    assert refused > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", SAMPLES)
def test_overwritten(
    samples: dict[str, bytes], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(SAMPLES.index(name))
    for fill in (b"\0", b"\xff", None) * 20:
        data = bytearray(samples[name])
        at = int(rng.integers(len(data)))
        length = int(rng.integers(1, len(data) - at + 1))
        data[at : at + length] = rng.bytes(length) if fill is None else fill * length
        outcome(bytes(data))
    assert capfd.readouterr() == ("", "")


MAGIC = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\x40\0\0\0WEBPVP8X"]
MAGIC += [b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"GIF89a"]


@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_noise_is_no_photo(magic: bytes, rest: bytes) -> None:
    outcome(magic + rest)


def test_png_notices_every_flip_in_its_pixels(samples: dict[str, bytes]) -> None:
    plain = samples["png"]
    start = plain.index(b"IDAT")
    for at in range(start, len(plain) - 12, 97):
        data = bytearray(plain)
        data[at] ^= 1
        assert outcome(bytes(data)) in DAMAGED


# --- JPEG: what libjpeg only warns about


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("part", [0.4, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("wanted", [None, 20])
def test_a_jpeg_is_never_half_grey(
    samples: dict[str, bytes], name: str, part: float, wanted: int | None
) -> None:
    """Cut off and closed with an end marker, or filled with zeros as a broken copy is."""
    whole = samples[name]
    kept = whole[: int(len(whole) * part)]
    for data in (
        kept + b"\xff\xd9",
        kept + bytes(len(whole) - len(kept)),
        kept + bytes(len(whole) - len(kept) - 2) + b"\xff\xd9",
        kept + bytes(10) + b"\xff\xd9" + whole,
    ):
        reason = outcome(data)
        if reason is None and name == "jpeg progressive":  # only passes that refine are missing
            pixels = decode(data, "", LIMITS, wanted).pixels.astype(int)
            assert np.abs(pixels - decode(whole, "", LIMITS, wanted).pixels).mean() < 10
        else:
            assert reason in DAMAGED


def test_cut_off_jpegs_are_truncated(samples: dict[str, bytes]) -> None:
    data = samples["jpeg"]
    assert outcome(data[: len(data) // 2] + b"\xff\xd9") is Reason.TRUNCATED
    assert outcome(data[: len(data) // 2] + bytes(len(data) // 2)) is Reason.TRUNCATED
    assert outcome(data[:-2]) is Reason.TRUNCATED


def test_harmless_oddities_of_jpegs(samples: dict[str, bytes]) -> None:
    plain = samples["jpeg"]
    pixels = decode(plain, "", LIMITS).pixels.astype(int)
    jfif = plain.index(b"JFIF\0") + 5
    for odd in (
        plain[:-2] + b"left over" + plain[-2:],
        plain[:jfif] + b"\x07\x09" + plain[jfif + 2 :],  # JFIF 7.09
        plain[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x05" + plain[2:],  # unknown transform
        plain[:2] + b"\xff" * 9 + plain[2:],  # fill bytes
        plain[:2] + b"\xff\xfe\xff\xff" + bytes(65533) + plain[2:],  # a long comment
    ):
        assert np.abs(decode(odd, "", LIMITS).pixels - pixels).max() <= 8


def test_jpegs_of_other_processes(samples: dict[str, bytes]) -> None:
    data = samples["jpeg"]
    frame = data.index(b"\xff\xc0")
    lossless = data[: frame + 1] + b"\xc3" + data[frame + 2 :]
    twelve_bits = data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    two_channels = data[: frame + 9] + b"\x02" + data[frame + 10 :]
    for other in (lossless, twelve_bits, two_channels):
        assert outcome(other) is Reason.UNSUPPORTED


def test_a_jpeg_of_ten_thousand_scans_is_refused_unread() -> None:
    data = encode(Image.new("L", (1400, 1400), 128), "JPEG", progressive=True)
    last_scan = data.rindex(b"\xff\xc4")
    assert outcome(data[:-2] + data[last_scan:-2] * 10_000 + data[-2:]) is Reason.CORRUPT


# --- bombs


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8-bit RGB with the given chunks between its header and its end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + kind + body)
        parts.append(struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def huge_headers() -> dict[str, bytes]:
    """Headers of absurd pictures, and hardly any data behind them."""
    side = 60_000
    tags = ((256, 4, side), (257, 4, side), (258, 3, 8), (262, 3, 1), (273, 4, 8), (279, 4, 1))
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return {
        "png": png(side, side, (b"IDAT", b"")),
        "jpeg": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0",
        "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2,
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, side, side, 1, 24, *([0] * 6)),
        "tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4),
        "gif": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b";",
    }


@pytest.mark.parametrize("form", huge_headers())
def test_absurd_sizes_are_refused_by_the_header(form: str) -> None:
    assert outcome(huge_headers()[form]) is Reason.TOO_MANY_PIXELS


def test_pixel_limit_is_inclusive(samples: dict[str, bytes]) -> None:
    for data in samples.values():
        decode(data, "", PhotoLimits(max_pixels=90 * 110))
        with pytest.raises(PhotoError) as caught:
            decode(data, "", PhotoLimits(max_pixels=90 * 110 - 1))
        assert caught.value.reason is Reason.TOO_MANY_PIXELS


def test_no_pixels_at_all() -> None:
    for data in (png(0, 10, (b"IDAT", b"")), png(10, 0, (b"IDAT", b""))):
        assert outcome(data) is Reason.CORRUPT


UNDER_PRESSURE = """
    import os, resource, sys
    from facesearch.errors import PhotoError
    from facesearch.photos.decode import decode
    from facesearch.settings import PhotoLimits

    files = {name: open(name, "rb").read() for name in sys.argv[1:]}
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + 60_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for name, data in files.items():
        try:
            print(name, decode(data, "", PhotoLimits(max_pixels=100_000_000)).original_size)
        except PhotoError as err:
            print(name, err.reason, err.detail)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit on address space")
def test_memory_is_spent_on_pixels_alone(portrait: Image.Image, tmp_path: Path) -> None:
    """Bombs of 100 MB go off nowhere in 60 MB; a picture too large for them is refused as such."""
    bomb = zlib.compress(bytes(100_000_000))
    text = PngInfo()
    text.add(b"zTXt", b"comment\0\0" + bomb)
    text.add(b"iCCP", b"profile\0\0" + bomb)
    text.add(b"iTXt", b"key\0\x01\0\0\0" + bomb, after_idat=True)
    rows = zlib.compress(bytes(10 * 31) + bytes(100_000_000))
    files = huge_headers() | {
        "text": encode(portrait, "PNG", pnginfo=text),
        "rows": png(10, 10, (b"IDAT", rows)),
        "large png": encode(Image.new("1", (8000, 8000)), "PNG"),
        "large jpeg": encode(Image.new("L", (8000, 8000)), "JPEG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UNDER_PRESSURE), *files],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    no_memory = "too_many_pixels not enough memory for its 8000 x 8000 pixels"
    lines = run.stdout.splitlines()
    assert [line.split(" ")[:2] for line in lines[:6]] == [
        [form, Reason.TOO_MANY_PIXELS] for form in huge_headers()
    ]
    assert lines[6:] == [
        "text (90, 110)",
        "rows (10, 10)",
        f"large png {no_memory}",
        f"large jpeg {no_memory}",
    ]
    assert run.stderr == ""


# --- other files


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"\0", Reason.NOT_AN_IMAGE),
        (b"hello, world\n" * 100, Reason.NOT_AN_IMAGE),
        (b"BMW, Porsche and others" * 9, Reason.NOT_AN_IMAGE),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), Reason.NOT_AN_IMAGE),
        (b"PK\3\4" + bytes(100), Reason.NOT_AN_IMAGE),
        (b"\x7fELF" + bytes(100), Reason.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.NOT_AN_IMAGE),
        (b"\0\0\0\x18ftypisom" + bytes(100), Reason.UNSUPPORTED),
        (b"\0\0\0\x1cftypavif" + bytes(100), Reason.UNSUPPORTED),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), Reason.UNSUPPORTED),
        (b"8BPS\0\1" + bytes(100), Reason.UNSUPPORTED),
        (b"%PDF-1.7\n" + bytes(100), Reason.UNSUPPORTED),
    ],
)
def test_what_is_no_photo(data: bytes, reason: Reason) -> None:
    assert outcome(data) is reason
