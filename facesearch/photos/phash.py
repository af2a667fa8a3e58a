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
_FLAT = 1e-3
"""Frequencies weaker than this, in grey levels, are rounding: a blank picture has no others."""


def phash(pixels: Pixels) -> int:
    """The hash of a picture at any decode scale, unsigned."""
    if pixels.size > 3 * 512 * 512:  # halves the cost on large photos, changes nothing that matters
        pixels = np.asarray(cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = np.asarray(cv2.dct(small))[:_KEPT, :_KEPT].ravel()
    low[np.abs(low) < _FLAT] = 0.0
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
