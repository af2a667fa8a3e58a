"""Detections to aligned crops: eyes level, 112 x 112, where the embedders expect them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.values import Crops, Detections, Photo, Pixels

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
"""(5, 2) landmarks in a crop, in the order of `values.Detections`. The template of InsightFace
(`insightface/utils/face_align.py`), which ArcFace, SFace and their kin are trained on."""


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


def to_crops(photo: Photo, detections: Detections) -> NDArray[np.float64]:
    """(N, 2, 3) matrices from decoded pixels of the photo to pixels of each face's crop.

    Their scale says whether the decode suits a face: above 1, the crop has more pixels than it.
    """
    return umeyama(photo.to_decoded(detections.landmarks))


def align(photo: Photo, detections: Detections) -> Crops:
    """The faces, upright and at a fixed size, cut from the decoded pixels.

    Args:
        photo: where the faces are, at any decode scale.
        detections: N faces in pixels of the upright original.

    Returns:
        (N, 112, 112, 3) uint8 BGR. What lies outside the photo is black, as in training.
    """
    crops = np.zeros((len(detections), SIDE, SIDE, 3), np.uint8)
    for crop, matrix in zip(crops, to_crops(photo, detections), strict=True):
        crop[:] = cut(photo.pixels, matrix, SIDE)
    return crops


def cut(pixels: Pixels, matrix: NDArray[np.float64], side: int) -> Pixels:
    """A square seen through an affine map; black where it reaches outside.

    Bilinear sampling looks at 2 x 2 pixels. Where the map shrinks more than that, the pixels in
    between would be lost (aliasing), so the square is sampled at a whole multiple of its size, no
    two samples more than two pixels apart, and averaged down.

    Args:
        pixels: (H, W, 3) uint8.
        matrix: (2, 3) similarity, possibly mirrored, from `pixels` to the square.
        side: of the square, pixels.

    Returns:
        (side, side, 3) uint8.
    """
    shrink = 1 / math.hypot(matrix[0, 0], matrix[1, 0])
    n = max(1, math.ceil(shrink / 2))
    # the middle of pixel u of the square is the middle of the pixels n u .. n u + n - 1
    grown = n * matrix + np.array([[0, 0, (n - 1) / 2]])
    square = cv2.warpAffine(pixels, grown, (n * side, n * side), flags=cv2.INTER_LINEAR)
    if n > 1:
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(square, np.uint8)
