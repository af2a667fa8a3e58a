"""Camera RAW (CR2, CR3, NEF, ARW, DNG, RAF, ORF, RW2 ...) through LibRaw: the extra `raw`.

`pip install 'facesearch[raw]'` installs rawpy. Without it such photos are refused with that advice.

Where the file holds a picture that the camera made itself, of enough pixels for what is wanted and
of the same shape, that is decoded: it is there in a tenth of the time, and looks as photos do that
the detector knows. Else the sensor's data are developed, at half size where that is enough.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.errors import Reason
from facesearch.photos.formats import Format, Refusal, check_size
from facesearch.photos.headers import read_header
from facesearch.photos.pixels import decode_pixels
from facesearch.settings import PhotoLimits
from facesearch.values import Pixels

SUFFIXES = (".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
"""What a RAW file's name ends in, in lower case."""
_MAGIC = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_PAGES, _DNG_VERSION = (
    254,
    259,
    262,
    271,
    330,
    50706,
)
_SENSOR = frozenset({32767, 32769, 34713, 65535, 32803, 34892})
"""Compressions, and what pixels mean, that only RAW files have."""
_MOST_PAGES = 20
_TURNS = {
    3: cv2.ROTATE_180,
    5: cv2.ROTATE_90_COUNTERCLOCKWISE,
    6: cv2.ROTATE_90_CLOCKWISE,
}
"""By LibRaw's `flip`."""
_SAME_SHAPE = 0.02
"""Relative difference of aspect ratios at which a preview still shows the same."""


def is_raw(data: bytes) -> bool:
    """Whether a file says by its first bytes that it is camera RAW."""
    if data.startswith(_MAGIC) or data[4:12] == b"ftypcrx ":
        return True
    page = next(_pages(data), None)
    if page is None:
        return False
    if data[8:10] == b"CR" or _DNG_VERSION in page:
        return True
    kinds = page.get(_COMPRESSION, [0]) + page.get(_PHOTOMETRIC, [0])
    small = page.get(_SUBFILE, [0])[:1] == [1]
    return _MAKE in page and (not _SENSOR.isdisjoint(kinds) or (small and _SUB_PAGES in page))


def _pages(data: bytes) -> Iterator[dict[int, list[int]]]:
    """The directories of a file built as a TIFF, each tag with its integers; none of another."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    pending = [4] if order else []
    for _ in range(_MOST_PAGES):
        if not pending:
            return
        page: dict[int, list[int]] = {}
        try:
            (at,) = struct.unpack_from(f"{order}I", data, pending.pop())
            (count,) = struct.unpack_from(f"{order}H", data, at)
            for i in range(min(count, 200)):
                place = at + 2 + 12 * i
                tag, kind, n = struct.unpack_from(f"{order}HHI", data, place)
                form = {3: "H", 4: "I"}.get(kind)
                length = n * (4 if kind == 4 else 2)
                page[tag] = []
                if form and n <= 100_000:
                    (offset,) = struct.unpack_from(f"{order}I", data, place + 8)
                    where = place + 8 if length <= 4 else offset
                    page[tag] = list(struct.unpack_from(f"{order}{n}{form}", data, where))
                    if tag == _SUB_PAGES:
                        pending += [where + 4 * j for j in range(n)] if kind == 4 else []
            yield page
            following = at + 2 + 12 * count
            if following + 4 <= len(data) and any(data[following : following + 4]):
                pending.append(following)
        except struct.error:
            continue


def _ends_early(data: bytes) -> bool:
    """Whether a picture in a file built as a TIFF lies beyond its end; LibRaw fills that in."""
    return any(
        start + length > len(data)
        for page in _pages(data)
        for start, length in zip(page.get(273, []), page.get(279, []), strict=False)
    )


def decode_raw(
    data: bytes, limits: PhotoLimits, wanted: int | None
) -> tuple[Pixels, tuple[int, int]]:
    """The picture of a RAW file, upright.

    Args:
        data: the whole file.
        limits: `max_pixels` is compared with the sensor's size before anything is developed.
        wanted: the longer side, in pixels, that is enough; None for all there are.

    Returns:
        (H, W, 3) uint8 BGR, and (width, height) of the whole picture.

    Raises:
        Refusal: UNSUPPORTED (also where the extra is not installed), TOO_MANY_PIXELS, TRUNCATED or
            CORRUPT.
    """
    try:
        import rawpy
    except ImportError as err:
        detail = "camera RAW needs an extra: pip install 'facesearch[raw]', then --retry-failed"
        raise Refusal(Reason.UNSUPPORTED, detail) from err
    if _ends_early(data):
        raise Refusal(Reason.TRUNCATED, "the file ends before its picture does; fetch it again")
    try:
        with rawpy.imread(BytesIO(data)) as raw:
            sizes = raw.sizes
            width, height = sizes.width, sizes.height
            check_size(width, height, limits)
            enough = max(width, height) if wanted is None else min(wanted, max(width, height))
            pixels = _preview(raw, (width, height), enough, limits)
            if pixels is None:
                half = max(width, height) // 2 >= enough
                rgb = raw.postprocess(use_camera_wb=True, half_size=half, user_flip=0, output_bps=8)
                pixels = _bgr(rgb)
            turn = _TURNS.get(sizes.flip)
            size = (height, width) if sizes.flip in {5, 6} else (width, height)
            if turn is not None:
                pixels = np.asarray(cv2.rotate(pixels, turn), np.uint8)
            return pixels, size
    except rawpy.LibRawFileUnsupportedError as err:
        raise Refusal(Reason.UNSUPPORTED, "LibRaw does not know this kind of RAW file") from err
    except rawpy.LibRawIOError as err:
        raise Refusal(Reason.TRUNCATED, "its data end early, says LibRaw") from err
    except (rawpy.LibRawError, ValueError) as err:
        words = err.args[0] if err.args else type(err).__name__
        words = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        raise Refusal(Reason.CORRUPT, f"LibRaw refuses it: {words}") from err


def _bgr(developed: NDArray[np.uint8]) -> Pixels:
    """What LibRaw makes of a sensor, with one colour or three."""
    if developed.ndim == 2 or developed.shape[2] == 1:
        return np.asarray(cv2.cvtColor(developed, cv2.COLOR_GRAY2BGR), np.uint8)
    if developed.shape[2] != 3:
        raise Refusal(Reason.UNSUPPORTED, f"its sensor has {developed.shape[2]} colours")
    return np.ascontiguousarray(developed[:, :, ::-1])


def _preview(raw: Any, size: tuple[int, int], enough: int, limits: PhotoLimits) -> Pixels | None:
    """The camera's own JPEG, as the sensor lies; None if there is none that will do."""
    import rawpy

    try:
        thumb = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if thumb.format != rawpy.ThumbFormat.JPEG:
        return None
    try:
        header = read_header(bytes(thumb.data), limits)
        longer = max(header.width, header.height)
        shape = header.width / header.height / (size[0] / size[1])
        if header.format is not Format.JPEG or longer < enough or abs(shape - 1) > _SAME_SHAPE:
            return None
        factor = next((f for f in (8, 4, 2) if -(-longer // f) >= enough), 1)
        return decode_pixels(header, factor)
    except Refusal:
        return None
