"""Photo to faces: found at several scales, merged, and each looked at a second time.

**Scales.** A face that fills a large photo is only found when the photo is made small, a small one
only when it is not. The detector runs at each of `DetectSpec.sizes` (longer side, pixels) that the
photo has; overlapping finds become one.

**Second look.** Where YuNet puts a landmark depends on how large the face is to it, how it lies on
its grids, and how it is tilted: it shows only 0.37 of a head's tilt. So every face found is cut
out at the size YuNet sees best and looked at again: twice to correct its place and tilt, then four
times (as it is and mirrored, on the grid and half a step off it), averaged. That makes a face's
numbers all but independent of the scale it was found at, and it tells faces from the rest.
docs/detection.md has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.faces.align import TEMPLATE, cut, umeyama
from facesearch.faces.boxes import shared
from facesearch.faces.yunet import STRIDE, YuNet
from facesearch.settings import DetectSpec
from facesearch.values import Detections, Photo, Pixels

WORTHWHILE = 1.5
"""A scale is run only if it is smaller than the next larger one by this factor."""
CANDIDATE = 0.5
"""Least confidence at the first look; `DetectSpec.score` applies to the second."""
CONTAINED = 0.8
"""A box that lies within another by this part of its area is the same face, seen in part."""

LOOK_SIDE = 96
"""Side of the square in which a face is looked at again, pixels."""
LOOK_SCALE = 0.75
"""Size of the face in it, over its size in a crop: eyes 26 pixels apart."""
FAR, NEAR = 1.0, 0.5
"""How far from where it is expected a look may find the face, in distances between the eyes: at
first, when landmarks may stray because faces overlap or are cut off, and then."""
TILT = 2.0
"""How much further than the first looks say a face is turned upright. YuNet's landmarks show only
0.37 of a head's tilt; undoing all of it (2.7) would enlarge their noise as much."""

_EXPECTED = (TEMPLATE - TEMPLATE.mean(axis=0)) * LOOK_SCALE + LOOK_SIDE / 2
_EYES = float(np.linalg.norm(_EXPECTED[1] - _EXPECTED[0]))


class Detector:
    """The face detector, loaded. `detect` may be called from any number of threads.

    Args:
        spec: scales, confidence, overlap and smallest face.

    Raises:
        ModelError: the bundled weights are missing or damaged.
    """

    def __init__(self, spec: DetectSpec) -> None:
        self._spec = spec
        self._yunet = YuNet(min(CANDIDATE, spec.score))

    @property
    def wanted(self) -> int:
        """Longer side, in pixels, that a photo has to be decoded at; more is of no use here."""
        return max(self._spec.sizes)

    def detect(self, photo: Photo) -> Detections:
        """Every face in a photo, in pixels of the upright original, most confident first.

        Returns:
            N faces, none nearer to another than the spec allows. A score is the mean confidence of
            the four second looks.
        """
        found = self._first_look(photo.pixels)
        seen = [self._second_look(photo.pixels, row) for row in found]
        rows = self._distinct(np.array(seen, np.float64).reshape(-1, 15))
        points = photo.to_original(rows[:, :14].reshape(-1, 7, 2))
        boxes = points[:, :2].reshape(-1, 4)
        large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= self._spec.min_face
        kept = large & (rows[:, 14] >= self._spec.score)
        return Detections(
            np.ascontiguousarray(boxes[kept], np.float32),
            np.ascontiguousarray(points[kept, 2:], np.float32),
            np.ascontiguousarray(rows[kept, 14], np.float32),
        )

    def _first_look(self, pixels: Pixels) -> NDArray[np.float64]:
        """(N, 15) distinct candidates of all scales, best first, in pixels of `pixels`."""
        height, width = pixels.shape[:2]
        longer = max(height, width)
        found, small = [], pixels
        for size in scales(longer, self._spec.sizes):
            wanted = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
            if wanted != (width, height):
                resized = cv2.resize(small, wanted, interpolation=cv2.INTER_AREA)
                small = np.asarray(resized, np.uint8)
            rows = self._find(small)
            back = np.array([width, height]) / wanted
            points = rows[:, :14].reshape(-1, 7, 2)
            rows[:, :14] = ((points + 0.5) * back - 0.5).reshape(-1, 14)
            found.append(rows)
        return self._distinct(np.concatenate(found))

    def _second_look(self, pixels: Pixels, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """A candidate, (15,) in pixels of `pixels`, as it is seen cut out and upright.

        Two looks correct where it is and how it is tilted; four more say what counts.
        """
        first = row[4:14].reshape(5, 2)
        seen = self._looked_at(pixels, first, (0,), FAR)
        if seen[14] == 0:
            return np.append(row[:14], 0.0)
        better = turned_on(first, seen[4:14].reshape(5, 2), TILT)
        return self._looked_at(pixels, better, (0, STRIDE // 2), NEAR)

    def _looked_at(
        self,
        pixels: Pixels,
        landmarks: NDArray[np.float64],
        shifts: tuple[int, ...],
        reach: float,
    ) -> NDArray[np.float64]:
        """The face near `landmarks`, (15,) in pixels of `pixels`, on average of several looks.

        Each shift on the grid is looked at as it is and mirrored. A look that finds no face within
        reach counts as confidence 0.
        """
        upright = umeyama(landmarks[None], _EXPECTED)[0]
        looks = []
        for shift in shifts:
            square = cut(pixels, upright + np.array([[0, 0, shift]]), LOOK_SIDE)
            mirrored = np.asarray(cv2.flip(square, 1), np.uint8)
            for rows in (self._find(square), unmirrored(self._find(mirrored), LOOK_SIDE)):
                rows[:, :14] -= shift
                off = np.linalg.norm(rows[:, 4:14].reshape(-1, 5, 2) - _EXPECTED, axis=2)
                near = off.mean(axis=1)
                if near.min(initial=np.inf) <= reach * _EYES:
                    looks.append(rows[near.argmin()])
        if not looks:
            return np.zeros(15)
        mean = np.mean(looks, axis=0)
        mean[14] *= len(looks) / (2 * len(shifts))
        return turned(mean, np.asarray(cv2.invertAffineTransform(upright), np.float64))

    def _find(self, pixels: Pixels) -> NDArray[np.float64]:
        return self._yunet.find(pixels).astype(np.float64)

    def _distinct(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = rows[np.argsort(-rows[:, 14], kind="stable")]
        return rows[distinct(rows[:, :4], self._spec.iou)]


def scales(longer: int, sizes: Iterable[int]) -> list[int]:
    """The longer sides to run a photo at, largest first: never enlarged, none nearly the same.

    Args:
        longer: the photo's longer side, pixels.
        sizes: longer sides asked for.
    """
    runs: list[int] = []
    for size in sorted({min(size, longer) for size in sizes}, reverse=True):
        if not runs or size * WORTHWHILE <= runs[-1]:
            runs.append(size)
    return runs


def distinct(boxes: NDArray[np.float64], iou: float) -> NDArray[np.intp]:
    """Rows of (N, 4) boxes, best first, that overlap none kept before them.

    Two boxes are one face if their intersection over union reaches `iou`, or one lies almost wholly
    within the other: a large scale may see only part of a large face.
    """
    keep: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i, box in enumerate(boxes):
        common, union = shared(boxes[keep], box)
        smaller = np.minimum(areas[i], areas[keep])
        if not ((common >= iou * union) | (common >= CONTAINED * smaller)).any():
            keep.append(i)
    return np.array(keep, np.intp)


def unmirrored(rows: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """(N, 15) finds in a picture mirrored left to right, as they lie in the picture itself."""
    rows = rows.copy()
    rows[:, 0:14:2] = width - 1 - rows[:, 0:14:2]
    rows[:, [0, 2]] = rows[:, [2, 0]]
    landmarks = rows[:, 4:14].reshape(-1, 5, 2)  # the mirror swaps left and right
    rows[:, 4:14] = landmarks[:, [1, 0, 2, 4, 3]].reshape(-1, 10)
    return rows


def turned(row: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A find, (15,), through a (2, 3) similarity.

    The box becomes the upright rectangle around its inscribed ellipse, turned: it does not grow
    with the angle as one around the turned corners would.
    """
    linear, shift = matrix[:, :2], matrix[:, 2]
    middle = linear @ (row[:2] + row[2:4]) / 2 + shift
    half = np.sqrt(linear**2 @ ((row[2:4] - row[:2]) / 2) ** 2)
    landmarks = row[4:14].reshape(5, 2) @ linear.T + shift
    return np.concatenate([middle - half, middle + half, landmarks.ravel(), row[14:]])


def turned_on(
    before: NDArray[np.float64], after: NDArray[np.float64], gain: float
) -> NDArray[np.float64]:
    """Landmarks `after`, (5, 2), turned about their middle to `gain` times their turn so far."""
    turn = umeyama(before[None], after)[0]
    angle = math.atan2(turn[1, 0], turn[0, 0]) * (gain - 1)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = after.mean(axis=0)
    return np.asarray((after - middle) @ rotation.T + middle)
