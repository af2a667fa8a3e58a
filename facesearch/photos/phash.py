"""A 64-bit perceptual hash: copies of a picture, re-encoded or resized, differ in few bits.

The "pHash" of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions"
(2010), as commonly implemented: the picture in grey at 32 x 32, its discrete cosine transform, and
whether each of the 8 x 8 lowest frequencies lies above their median.
"""

from __future__ import annotations

import cv2
import numpy as np

from facesearch.values import Pixels

_SIDE, _KEPT = 32, 8
_ENOUGH = 512
"""A larger picture, by its shorter side in pixels, is halved first."""
_FLAT = 1e-3
"""Frequencies weaker than this, in grey levels, are rounding: a blank picture has no others."""


def phash(pixels: Pixels) -> int:
    """The hash of a picture at any decode scale, unsigned."""
    while min(pixels.shape[:2]) >= _ENOUGH:  # a tenth of the cost, changes nothing that matters
        height, width = (side // 2 for side in pixels.shape[:2])
        even = pixels[: 2 * height, : 2 * width]
        halved = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(halved, np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = np.asarray(cv2.dct(small))[:_KEPT, :_KEPT].ravel()
    low[np.abs(low) < _FLAT] = 0.0
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
