"""Decoding a photo: bounded, upright, complete or refused.

`decode` turns the bytes of a JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or RAW file into a `Photo`, or
raises `PhotoError`; nothing else comes out of it, whatever goes in. It is pure, keeps no state, writes
nothing to stderr and may run on many threads at once. The format is told by the first bytes; the
file's name plays no part.

What becomes of a photo that is not plain 8-bit colour:

| input | outcome |
|---|---|
| EXIF orientation 2-8 | turned upright; `original_size` is the upright size |
| greyscale, 1-bit, palette | converted |
| 16-bit (and 12-bit TIFF) | the high 8 bits |
| CMYK, YCCK (JPEG, TIFF) | converted by R = 255 (1 - C)(1 - K); JPEGs as Adobe writes them, inverted |
| transparency (channel, palette entry or colour) | on mid-grey, see `pixels.BACKGROUND`; a picture that is transparent everywhere is taken for opaque |
| ICC profile | ignored: samples are read as sRGB |
| animated GIF, WebP | first frame |
| animated PNG | the still picture that viewers without animation show |
| TIFF of several pages, JPEG with further pictures behind it | first picture |
| text, previews, makers' notes, chunks of any size beside the picture | skipped, not unpacked |
| data behind the end of the picture (polyglots) | ignored |
| JPEG with bytes left over after its last pixel | accepted: cameras pad |
| progressive JPEG that ends between two refining scans | accepted: the whole picture, less sharp |

and of one that is no good:

| input | reason |
|---|---|
| no such file, vanished | MISSING |
| no permission, I/O error, pipe, device, folder, changed while read | UNREADABLE |
| zero bytes | EMPTY |
| more than `max_bytes` | TOO_MANY_BYTES |
| header says more than `max_pixels` (decompression bombs), before memory is spent; or memory does not suffice | TOO_MANY_PIXELS |
| WebP of more than 179 megapixels (Pillow's own bound) | TOO_MANY_PIXELS |
| none of the formats | NOT_AN_IMAGE |
| HEIC, where the extra `heif` is not installed; camera RAW, where `raw` is not | UNSUPPORTED |
| AVIF, JPEG 2000, JPEG XL, PSD, PDF, BigTIFF, run-length BMP | UNSUPPORTED |
| floating-point, signed or 32-bit TIFF; CIELab TIFF; 12-bit and lossless JPEG | UNSUPPORTED |
| the file, or the data coded in it, end before the picture does | TRUNCATED |
| wrong checksum, impossible structure, undecodable data | CORRUPT |

A flipped bit inside JPEG, WebP, BMP, TIFF or GIF pixel data goes unnoticed where it still decodes
to something: these formats carry no checksum.
"""  # noqa: E501 - tables

from __future__ import annotations

import hashlib
import os

import cv2
import numpy as np

from facesearch.errors import PhotoError, Reason
from facesearch.photos.formats import Format, Refusal
from facesearch.photos.headers import read_header
from facesearch.photos.heif import decode_heif, is_heif
from facesearch.photos.pixels import decode_pixels
from facesearch.photos.place import read_place
from facesearch.photos.raw import decode_raw, is_raw
from facesearch.settings import PhotoLimits
from facesearch.values import Photo, Pixels


def read_photo(
    path: str | os.PathLike[str], limits: PhotoLimits | None = None, wanted: int | None = None
) -> Photo:
    """Read and decode one photo.

    Args:
        path: a file, or a member of an archive (see `photos.place`).
        limits: what it may cost; None for the defaults.
        wanted: as for `decode`.

    Raises:
        PhotoError: see `read_place` and `decode`.
    """
    limits = limits or PhotoLimits()
    return decode(read_place(path, limits), os.fspath(path), limits, wanted)


def decode(
    data: bytes,
    name: str,
    limits: PhotoLimits,
    wanted: int | None = None,
    sha256: str | None = None,
) -> Photo:
    """Decode a photo, upright.

    Args:
        data: the whole file.
        name: path or description, for messages.
        limits: `max_pixels` is compared with the header before pixels are decoded.
        wanted: the longer side, in pixels, that is enough. A JPEG is decoded at the smallest of
            1, 1/2, 1/4 and 1/8 of its size whose longer side is at least this (at 36 megapixels,
            1/8 takes half the time and a 64th of the memory); other formats in full. None for
            full size.
        sha256: of `data`, where the caller knows it.

    Returns:
        The photo: (H, W, 3) uint8 BGR, contiguous and writable; its `sha256` is that of `data`.

    Raises:
        PhotoError: EMPTY, NOT_AN_IMAGE, UNSUPPORTED, TOO_MANY_PIXELS, TRUNCATED or CORRUPT, as in
            the table at the top of this module.
    """
    try:
        if not data:
            raise Refusal(Reason.EMPTY, "empty file (zero bytes)")
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        if is_heif(data):
            pixels = decode_heif(data, limits)
            return Photo(pixels, (pixels.shape[1], pixels.shape[0]), sha256, name)
        if is_raw(data):
            pixels, size = decode_raw(data, limits, wanted)
            return Photo(pixels, size, sha256, name)
        header = read_header(data, limits)
        factor = 1
        if wanted is not None and header.format is Format.JPEG:
            longer = max(header.width, header.height)
            factor = next((f for f in (8, 4, 2) if -(-longer // f) >= wanted), 1)
        pixels = decode_pixels(header, factor)
    except Refusal as err:
        raise PhotoError(err.reason, name, err.detail) from err
    size = header.width, header.height
    return Photo(
        _upright(pixels, header.orientation),
        size if header.orientation < 5 else size[::-1],
        sha256,
        name,
    )


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8 (CIPA DC-008, 4.6.4: where row 0 and column 0 lie)."""
    match orientation:
        case 2:  # mirrored left to right
            turned = cv2.flip(pixels, 1)
        case 3:
            turned = cv2.rotate(pixels, cv2.ROTATE_180)
        case 4:  # mirrored top to bottom
            turned = cv2.flip(pixels, 0)
        case 5:  # mirrored along the main diagonal
            turned = cv2.transpose(pixels)
        case 6:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:  # mirrored along the other diagonal
            turned = cv2.flip(cv2.transpose(pixels), -1)
        case 8:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
        case _:
            return pixels
    return np.asarray(turned, np.uint8)
