"""Detections to aligned crops: eyes level, 112 x 112, where the embedders expect them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.values import Crops, Detections, Photo

SIDE = 112
"""Side of a crop, pixels."""

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""(5, 2) landmarks in a crop: image-left eye, image-right eye, nose, image-left and image-right
mouth corner. The template of InsightFace (`insightface/utils/face_align.py`), which ArcFace, SFace
and their kin are trained on."""


def umeyama(
    source: NDArray[np.floating], target: NDArray[np.floating] = TEMPLATE
) -> NDArray[np.float64]:
    """The similarity transforms (rotation, uniform scale, shift) that best map points to points.

    Least squares in closed form; in two dimensions Umeyama's solution ("Least-squares estimation of
    transformation parameters between two point patterns", PAMI 13(4), 1991) without reflection is
    the complex regression a = <s, t> / <s, s> of the centred points.

    Args:
        source: (N, K, 2) points, K >= 2, not all equal.
        target: (K, 2) points.

    Returns:
        (N, 2, 3) float64 matrices M with M @ [x, y, 1] near the target.
    """
    source = np.asarray(source, np.float64)
    target = np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=1), target.mean(axis=0)
    s = source - source_mean[:, None]
    t = target - target_mean
    power = (s**2).sum(axis=(1, 2))
    real = (s * t).sum(axis=(1, 2)) / power
    imaginary = (s[..., 0] * t[:, 1] - s[..., 1] * t[:, 0]).sum(axis=1) / power
    linear = np.stack([np.stack([real, -imaginary], -1), np.stack([imaginary, real], -1)], -2)
    shift = target_mean - np.einsum("nij,nj->ni", linear, source_mean)
    return np.concatenate([linear, shift[..., None]], axis=2)


def align(photo: Photo, detections: Detections) -> Crops:
    """The faces, upright and at a fixed size, cut from the decoded pixels.

    Args:
        photo: where the faces are, at any decode scale.
        detections: N faces in pixels of the upright original.

    Returns:
        (N, 112, 112, 3) uint8 BGR. What lies outside the photo is black, as in training.
    """
    crops = np.zeros((len(detections), SIDE, SIDE, 3), np.uint8)
    if not len(detections):
        return crops
    for crop, matrix in zip(
        crops, umeyama(detections.landmarks * np.array(photo.scale)), strict=True
    ):
        pixels, matrix = _shrunk(photo.pixels, matrix)
        cv2.warpAffine(pixels, matrix, (SIDE, SIDE), dst=crop, flags=cv2.INTER_LINEAR)
    return crops


def _shrunk(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Pixels averaged so that bilinear sampling skips none, and the matrix to use on them.

    Bilinear sampling looks at 2 x 2 pixels; where a crop shrinks the photo by a whole factor or
    more, the pixels in between would be lost (aliasing), so the face's surroundings are first
    averaged over blocks of that factor.
    """
    factor = int(1.0 / np.hypot(*matrix[:, 0]))
    if factor < 2:
        return pixels, matrix
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]], np.float64)
    inverse = cv2.invertAffineTransform(matrix)
    reach = corners @ np.asarray(inverse, np.float64).T
    height, width = pixels.shape[:2]
    low = np.clip(np.floor(reach.min(axis=0)).astype(int) - factor, 0, [width, height])
    high = np.clip(np.ceil(reach.max(axis=0)).astype(int) + factor, 0, [width, height])
    size = np.maximum((high - low) // factor, 1)
    part = pixels[low[1] : low[1] + size[1] * factor, low[0] : low[0] + size[0] * factor]
    if 0 in part.shape:
        return pixels, matrix
    small = cv2.resize(part, tuple(size.tolist()), interpolation=cv2.INTER_AREA)
    # a pixel of `small` at u covers factor pixels around low + factor * u + (factor - 1) / 2
    linear = matrix[:, :2] * factor
    shift = matrix[:, 2] + matrix[:, :2] @ (low + (factor - 1) / 2)
    return np.asarray(small, np.uint8), np.column_stack([linear, shift])
