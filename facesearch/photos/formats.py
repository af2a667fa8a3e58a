"""The values that pass between reading a photo's header and decoding its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from facesearch.errors import Reason
from facesearch.settings import PhotoLimits


class Format(StrEnum):
    """A supported file format."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"
    TIFF = "TIFF"
    GIF = "GIF"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself, checked.

    Attributes:
        format: by its first bytes.
        width: pixels a row, as stored (before turning upright).
        height: rows, as stored.
        body: the bytes to give to the decoder.
        orientation: EXIF orientation, 1 to 8.
        bits: bits a sample, where that is more than 8.
        white_is_zero: grey levels run from white to black (TIFF).
    """

    format: Format
    width: int
    height: int
    body: bytes
    orientation: int = 1
    bits: int = 8
    white_is_zero: bool = False


class Refusal(Exception):
    """A photo that will not be decoded, and why; `decode` makes it a PhotoError."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def check_size(width: int, height: int, limits: PhotoLimits) -> None:
    """Refuse a picture without pixels, or with more than the limit.

    Raises:
        Refusal: CORRUPT or TOO_MANY_PIXELS.
    """
    if min(width, height) < 1:
        raise Refusal(Reason.CORRUPT, f"its header says {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise Refusal(
            Reason.TOO_MANY_PIXELS,
            f"{width} x {height} pixels, more than photos.max_pixels ({limits.max_pixels:,})",
        )
