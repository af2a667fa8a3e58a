"""Two photos against each other: every face of one with every face of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facesearch.values import F32, Crops, Decision, Detections, Pixels, Threshold

GAP = 4
"""Pixels between crops in the picture."""
MATCH_COLOUR = (70, 160, 34)
OTHER_COLOUR = (150, 150, 150)


@dataclass(frozen=True, slots=True)
class Pair:
    """A face of photo A against a face of photo B.

    Attributes:
        a: number of the face in A, most confident detection first, from 0.
        b: number of the face in B.
        cosine: similarity of the two, as it is thresholded.
        distance: Euclidean distance of the same two unit vectors, sqrt(2 - 2 cosine).
        decision: MATCH if `cosine` reaches the threshold, else BELOW.
    """

    a: int
    b: int
    cosine: float
    distance: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two photos compared.

    Attributes:
        photo_a: path of A.
        photo_b: path of B.
        boxes_a: x1 y1 x2 y2 of each face of A, in pixels of the upright original.
        boxes_b: likewise of B.
        threshold: applied to every pair.
        pairs: every face of A with every face of B, most similar first.
    """

    photo_a: str
    photo_b: str
    boxes_a: tuple[tuple[float, ...], ...]
    boxes_b: tuple[tuple[float, ...], ...]
    threshold: Threshold
    pairs: tuple[Pair, ...]


def boxes_of(detections: Detections) -> tuple[tuple[float, ...], ...]:
    """The boxes as plain numbers."""
    return tuple(tuple(box) for box in detections.boxes.tolist())


def pairs_of(vectors_a: F32, vectors_b: F32, threshold: Threshold) -> tuple[Pair, ...]:
    """Every row of A with every row of B, most similar first.

    Args:
        vectors_a: (A, D) unit vectors.
        vectors_b: (B, D) unit vectors.
        threshold: a cosine.
    """
    a, b = vectors_a.astype(np.float64), vectors_b.astype(np.float64)
    cosines = a @ b.T
    distances = np.linalg.norm(a[:, None] - b[None, :], axis=2)
    pairs = [
        Pair(
            a=row,
            b=column,
            cosine=float(cosines[row, column]),
            distance=float(distances[row, column]),
            decision=Decision.MATCH if cosines[row, column] >= threshold.value else Decision.BELOW,
        )
        for row in range(len(a))
        for column in range(len(b))
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.cosine))


def side_by_side(comparison: Comparison, crops_a: Crops, crops_b: Crops) -> Pixels:
    """The aligned crops of every pair, A left and B right, most similar first, matches in green.

    Args:
        comparison: of the two photos.
        crops_a: (A, 112, 112, 3) uint8 BGR.
        crops_b: (B, 112, 112, 3) uint8 BGR.

    Returns:
        (H, W, 3) uint8 BGR; one white row if there is no pair.
    """
    side = crops_a.shape[1]
    rows = max(1, len(comparison.pairs))
    picture = np.full((rows * (side + 2 * GAP), 2 * side + 3 * GAP, 3), 255, np.uint8)
    for row, pair in enumerate(comparison.pairs):
        top = row * (side + 2 * GAP)
        colour = MATCH_COLOUR if pair.decision is Decision.MATCH else OTHER_COLOUR
        picture[top : top + side + 2 * GAP] = colour
        inside = slice(top + GAP, top + GAP + side)
        picture[inside, GAP : GAP + side] = crops_a[pair.a]
        picture[inside, side + 2 * GAP : 2 * side + 2 * GAP] = crops_b[pair.b]
    return picture
