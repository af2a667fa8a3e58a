"""HEIC: decoded with the extra, refused with advice without it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesearch.errors import PhotoError, Reason
from facesearch.photos.decode import decode, read_photo
from facesearch.photos.heif import is_heif
from facesearch.settings import PhotoLimits

LIMITS = PhotoLimits()


@pytest.fixture(scope="module")
def heic(demo_photos: Path) -> bytes:
    """The group photo, encoded by libheif itself."""
    pytest.importorskip("pi_heif", reason="needs the extra heif")
    pillow_heif = pytest.importorskip("pillow_heif", reason="pi-heif does not encode")
    with Image.open(demo_photos / "probes" / "group.jpg") as photo:
        buffer = io.BytesIO()
        pillow_heif.from_pillow(photo.convert("RGB")).save(buffer, quality=90)
    return buffer.getvalue()


def reason(data: bytes, limits: PhotoLimits = LIMITS) -> Reason:
    with pytest.raises(PhotoError) as caught:
        decode(data, "a.heic", limits)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_the_picture(heic: bytes, demo_photos: Path) -> None:
    photo = decode(heic, "a.heic", LIMITS)
    plain = read_photo(demo_photos / "probes" / "group.jpg")
    assert photo.original_size == plain.original_size
    assert np.abs(photo.pixels.astype(int) - plain.pixels).mean() < 3


def test_damage(heic: bytes) -> None:
    for end in (20, 200, 3000, len(heic) // 2, len(heic) - 10):
        assert reason(heic[:end]) in {Reason.TRUNCATED, Reason.CORRUPT}
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(heic)
        for at in rng.integers(12, 600, 3):
            data[at] ^= 1 << int(rng.integers(8))
        try:
            decode(bytes(data), "a.heic", LIMITS)
        except PhotoError as err:
            assert "\n" not in str(err)  # noqa: PT017 - either will do
    assert reason(heic, PhotoLimits(max_pixels=1000)) is Reason.TOO_MANY_PIXELS


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    data = b"\0\0\0\x18ftypheic" + bytes(100)
    assert is_heif(data)
    with pytest.raises(PhotoError, match=r"pip install 'facesearch\[heif\]'") as caught:
        decode(data, "a.heic", LIMITS)
    assert caught.value.reason is Reason.UNSUPPORTED
