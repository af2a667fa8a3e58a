"""Near duplicates: how many copies of a photo are found, and how many others are taken for copies.

    python -m benchmarks.duplicates [PHOTOS]

PHOTOS is FACESEARCH_EVAL_DATA/lfw-dev/photos unless given. Writes `records/duplicates.json`. Every
third photo is changed in each way; "pairs" are those among the photos as they are, most of them
different pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.record import evaluation_data, header, write
from facesearch.index.near import MOST, near_pairs
from facesearch.photos.decode import read_photo
from facesearch.photos.phash import phash
from facesearch.values import Pixels


def encoded(pixels: Pixels, form: str, quality: int) -> Pixels:
    """Through a lossy format."""
    flag = cv2.IMWRITE_WEBP_QUALITY if form == ".webp" else cv2.IMWRITE_JPEG_QUALITY
    data = cv2.imencode(form, pixels, [flag, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def resized(pixels: Pixels, factor: float) -> Pixels:
    """Smaller or larger."""
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=how), np.uint8)


def cut(pixels: Pixels, border: int) -> Pixels:
    """Without a border."""
    return np.ascontiguousarray(pixels[border:-border, border:-border])


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG quality 30": lambda p: encoded(p, ".jpg", 30),
    "WebP quality 40": lambda p: encoded(p, ".webp", 40),
    "half the size": lambda p: resized(p, 0.5),
    "half the size, JPEG quality 50": lambda p: encoded(resized(p, 0.5), ".jpg", 50),
    "1.7 times the size": lambda p: resized(p, 1.7),
    "10 % brighter, more contrast": lambda p: np.asarray(cv2.convertScaleAbs(p, None, 1.1, 10)),
    "2 % cut off each side": lambda p: p[
        len(p) // 50 : -len(p) // 50, len(p) // 50 : -len(p) // 50
    ],
}


def main() -> None:
    """Measure, print, record."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else evaluation_data() / "lfw-dev" / "photos"
    head = header()
    photos = [read_photo(path).pixels for path in sorted(root.glob("*/*.jpg"))]
    hashes = np.array([phash(pixels) for pixels in photos], np.uint64)
    distances = near_pairs(hashes, MOST)[:, 2]
    pairs = {limit: int((distances <= limit).sum()) for limit in range(MOST + 1)}
    print(len(photos), "photos, pairs within so many bits:", pairs)
    found = {}
    for name, change in CHANGES.items():
        changed = np.array([phash(change(pixels)) for pixels in photos[::3]], np.uint64)
        bits = np.unpackbits((changed ^ hashes[::3]).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
        found[name] = {k: round(float((bits <= k).mean()), 4) for k in range(MOST + 1)}
        print(name, found[name])
    write("duplicates", head, {"photos": len(photos), "pairs": pairs, "found": found})


if __name__ == "__main__":
    main()
