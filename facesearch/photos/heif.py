"""HEIC and HEIF, as telephones take them, through libheif: the extra `heif`.

`pip install 'facesearch[heif]'` installs pi-heif, which decodes and does not encode. Without it
such photos are refused with that advice. libheif turns the picture upright itself.
"""

from __future__ import annotations

import numpy as np

from facesearch.errors import Reason
from facesearch.photos.formats import Refusal, check_size
from facesearch.settings import PhotoLimits
from facesearch.values import Pixels

_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"hevc", b"hevx"))


def is_heif(data: bytes) -> bool:
    """Whether a file says by its first bytes that it is HEIC or HEIF."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def heif_blocks(data: bytes) -> tuple[bytes, bytes]:
    """The EXIF block and the XMP packet of a HEIC file; b"" if absent, or without the extra."""
    try:
        import pi_heif

        facts = pi_heif.open_heif(data).info  # decodes no pixel
    except Exception:  # noqa: BLE001 - whatever hostile bytes provoke; `decode_heif` says why
        return b"", b""
    return bytes(facts.get("exif") or b"").removeprefix(b"Exif\0\0"), bytes(facts.get("xmp") or b"")


def decode_heif(data: bytes, limits: PhotoLimits) -> Pixels:
    """The main picture of a HEIC file, upright.

    Returns:
        (H, W, 3) uint8 BGR, contiguous.

    Raises:
        Refusal: UNSUPPORTED (the extra is not installed), TOO_MANY_PIXELS, TRUNCATED or CORRUPT.
    """
    try:
        import pi_heif
    except ImportError as err:
        detail = "HEIC needs an extra: pip install 'facesearch[heif]', then --retry-failed"
        raise Refusal(Reason.UNSUPPORTED, detail) from err
    try:
        picture = pi_heif.open_heif(data, convert_hdr_to_8bit=True, bgr_mode=True)
        width, height = picture.size
        check_size(width, height, limits)
        channels = np.asarray(picture)
    except (Refusal, MemoryError):
        raise
    except Exception as err:  # whatever hostile bytes provoke in libheif
        words = " ".join(str(err).split())
        early = "end of file" in words or "too small" in words or "Cannot read full" in words
        reason = Reason.TRUNCATED if early else Reason.CORRUPT
        raise Refusal(reason, f"libheif refuses it: {words}") from err
    if channels.ndim != 3 or channels.shape[2] < 3:
        raise Refusal(Reason.UNSUPPORTED, f"HEIC of mode {picture.mode} is not supported")
    return np.array(channels[:, :, :3], np.uint8)  # a copy: libheif's memory goes with `picture`
