"""Pictures in every supported form, made here from a portrait that ships."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image


def _encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def portrait(demo_photos: Path) -> Image.Image:
    """An RGB portrait of 90 x 110 pixels."""
    with Image.open(demo_photos / "people" / "Barack_Obama" / "barack_obama.jpg") as photo:
        return photo.convert("RGB").resize((90, 110))


@pytest.fixture(scope="session")
def samples(portrait: Image.Image) -> dict[str, bytes]:
    """Name -> file: every format and variant that `decode` accepts, of the same portrait."""
    turned = portrait.rotate(90)
    deep = np.asarray(portrait).astype(np.uint16)[:, :, ::-1] * 256 + 77
    palette = portrait.quantize()
    frames: dict[str, Any] = {"save_all": True, "append_images": [turned]}
    return {
        "jpeg": _encode(portrait, "JPEG"),
        "jpeg progressive": _encode(portrait, "JPEG", progressive=True),
        "jpeg restarts": _encode(portrait, "JPEG", restart_marker_rows=1),
        "jpeg grey": _encode(portrait.convert("L"), "JPEG"),
        "jpeg cmyk": _encode(portrait.convert("CMYK"), "JPEG"),
        "png": _encode(portrait, "PNG"),
        "png alpha": _encode(portrait.convert("RGBA"), "PNG"),
        "png palette": _encode(palette, "PNG"),
        "png bilevel": _encode(portrait.convert("1"), "PNG"),
        "png 16 bit": cv2.imencode(".png", deep)[1].tobytes(),
        "apng": _encode(portrait, "PNG", **frames),
        "webp": _encode(portrait, "WEBP"),
        "webp lossless": _encode(portrait, "WEBP", lossless=True),
        "webp animated": _encode(portrait, "WEBP", **frames),
        "bmp": _encode(portrait, "BMP"),
        "bmp palette": _encode(palette, "BMP"),
        "tiff": _encode(portrait, "TIFF"),
        "tiff lzw": _encode(portrait, "TIFF", compression="tiff_lzw"),
        "tiff deflate": _encode(portrait, "TIFF", compression="tiff_adobe_deflate"),
        "tiff packbits": _encode(portrait, "TIFF", compression="packbits"),
        "tiff jpeg": _encode(portrait, "TIFF", compression="jpeg"),
        "tiff 16 bit": cv2.imencode(".tif", deep)[1].tobytes(),
        "gif": _encode(portrait, "GIF"),
    }


@pytest.fixture
def nobody() -> Iterator[None]:
    """Gives up root's right to read everything for the length of a test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
