"""Detections to the crops that the landmark networks see, and points back to the photo.

A crop is upright and of one size by the detector's five landmarks, as for embedding, but reaches
further: to the jaw, and past a profile's nose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facesearch.faces.align import TEMPLATE, cut, umeyama
from facesearch.values import Photo, Pixels

SIDE = 128
"""Side of a crop, pixels."""
REACH = 164.0
"""How much of the embedder's 112-pixel template lies in a crop, in the template's pixels. On
`landmarks68` all but two of a thousand points lie within 72 of `MIDDLE`."""
MIDDLE = (56.0, 80.0)
"""What lies in the middle of a crop, in the template's pixels."""
MIRRORED = np.array(
    (
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),
    )
)
"""Which of the 68 points each becomes in a mirror: left and right trade names."""


def crop_matrices(
    landmarks: NDArray[np.floating], side: int = SIDE, reach: float = REACH
) -> NDArray[np.float64]:
    """(N, 2, 3) similarities from pixels to those of each face's crop.

    Args:
        landmarks: (N, 5, 2), as in `values.Detections`.
        side: of the crop, pixels.
        reach: how much of the template lies in it, in the template's pixels.
    """
    scale = side / reach
    target = (TEMPLATE - np.array(MIDDLE)) * scale + (side - 1) / 2
    return umeyama(landmarks, target)


def face_crops(photo: Photo, matrices: NDArray[np.float64]) -> Pixels:
    """(N, 128, 128, 3) uint8 BGR crops; black outside the photo.

    Args:
        photo: at any decode scale.
        matrices: (N, 2, 3), from pixels of the original.
    """
    crops = np.zeros((len(matrices), SIDE, SIDE, 3), np.uint8)
    scale = np.array(photo.scale)
    for crop, matrix in zip(crops, matrices, strict=True):
        linear = matrix[:, :2] / scale  # from decoded pixels: p = (d + 0.5) / scale - 0.5
        shift = matrix[:, 2] + matrix[:, :2] @ (0.5 / scale - 0.5)
        crop[:] = cut(photo.pixels, np.column_stack([linear, shift]), SIDE)
    return crops


def moved(points: NDArray[np.floating], matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K, 2) points through (N, 2, 3) affine maps."""
    linear, shift = matrices[:, :, :2], matrices[:, None, :, 2]
    return np.asarray(np.einsum("nij,nkj->nki", linear, np.asarray(points, np.float64)) + shift)


def moved_back(points: NDArray[np.floating], matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K, 2) points through the inverses of (N, 2, 3) affine maps."""
    off = np.asarray(points, np.float64) - matrices[:, None, :, 2]
    return np.asarray(np.einsum("nij,nkj->nki", np.linalg.inv(matrices[:, :, :2]), off))
