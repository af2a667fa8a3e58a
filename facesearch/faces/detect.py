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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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

DECODED = 1280
"""Longer side, in pixels, below which decoding becomes hardly faster: entropy coding remains."""
MOST_FACES = 64
"""Candidates cut out at once."""

_EXPECTED = (TEMPLATE - TEMPLATE.mean(axis=0)) * LOOK_SCALE + LOOK_SIDE / 2
_EYES = float(np.linalg.norm(_EXPECTED[1] - _EXPECTED[0]))


class Finder(Protocol):
    """YuNet, in whichever library."""

    def find(self, pictures: Sequence[Pixels]) -> Sequence[NDArray[np.floating]]:
        """The faces in each picture, (N, 15): see `yunet.YuNet.find`."""


class Detector:
    """The face detector, loaded. `detect` may be called from any number of threads.

    Args:
        spec: scales, confidence, overlap, smallest face and number of looks.
        load: gives YuNet for a least confidence; the default runs it through OpenCV.

    Raises:
        ModelError: the bundled weights are missing or damaged.
    """

    def __init__(self, spec: DetectSpec, load: Callable[[float], Finder] = YuNet) -> None:
        self._spec = spec
        self._yunet = load(min(CANDIDATE, spec.score) if spec.second_look else spec.score)

    @property
    def wanted(self) -> int:
        """Longer side, in pixels, that a photo has to be decoded at; more is of no use here.

        At least `DECODED`, should the detector need less: a crop of a small face would want it.
        """
        return max(*self._spec.sizes, DECODED)

    def detect(self, photo: Photo) -> Detections:
        """Every face in a photo, in pixels of the upright original, most confident first.

        Returns:
            N faces, none nearer to another than the spec allows. A score is the mean confidence of
            the four second looks, or that of the first where it is the only one.
        """
        levels = self._levels(photo.pixels)
        rows = self._first_look(levels)
        if self._spec.second_look:
            rows = self._distinct(self._second_look(levels, rows))
        points = photo.to_original(rows[:, :14].reshape(-1, 7, 2))
        boxes = points[:, :2].reshape(-1, 4)
        large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= self._spec.min_face
        kept = large & (rows[:, 14] >= self._spec.score)
        return Detections(
            np.ascontiguousarray(boxes[kept], np.float32),
            np.ascontiguousarray(points[kept, 2:], np.float32),
            np.ascontiguousarray(rows[kept, 14], np.float32),
        )

    def _levels(self, pixels: Pixels) -> list[Level]:
        """A photo as it is decoded, and at every scale it is looked at, largest first."""
        levels = [Level(pixels, np.ones(2))]
        for size in scales(max(pixels.shape[:2]), self._spec.sizes):
            levels.append(levels[-1].shrunk(size))
        return levels

    def _first_look(self, levels: Sequence[Level]) -> NDArray[np.float64]:
        """(N, 15) distinct candidates of all scales, best first, in pixels of the first level."""
        found = []
        for level, rows in zip(
            levels[1:], self._find([one.pixels for one in levels[1:]]), strict=True
        ):
            points = rows[:, :14].reshape(-1, 7, 2)
            rows[:, :14] = ((points + 0.5) / level.factor - 0.5).reshape(-1, 14)
            found.append(rows)
        return self._distinct(np.concatenate(found))

    def _second_look(
        self, levels: Sequence[Level], rows: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Candidates, (N, 15) in pixels of the first level, as they are seen cut out and upright.

        Two looks correct where each is and how it is tilted; four more say what counts.
        """
        seen = rows.copy()
        for part in range(0, len(rows), MOST_FACES):
            some = slice(part, part + MOST_FACES)
            first = rows[some, 4:14].reshape(-1, 5, 2)
            again = self._looked_at(levels, first, (0,), FAR)
            there = again[:, 14] > 0
            seen[some, 14] = 0.0
            better = turned_on(first[there], again[there, 4:14].reshape(-1, 5, 2), TILT)
            at = part + np.flatnonzero(there)
            seen[at] = self._looked_at(levels, better, (0, STRIDE // 2), NEAR)
        return seen

    def _looked_at(
        self,
        levels: Sequence[Level],
        landmarks: NDArray[np.float64],
        shifts: tuple[int, ...],
        reach: float,
    ) -> NDArray[np.float64]:
        """The faces near (N, 5, 2) `landmarks`, (N, 15), each on average of several looks.

        Each shift on the grid is looked at as it is and mirrored. A look that finds no face within
        reach counts as confidence 0; where none does, the row is of zeros.
        """
        uprights = umeyama(landmarks, _EXPECTED)
        squares = [s for upright in uprights for s in _squares(levels, upright, shifts)]
        looks = iter(self._find(squares))
        return np.array([self._mean_look(u, looks, shifts, reach) for u in uprights]).reshape(
            -1, 15
        )

    def _mean_look(
        self,
        upright: NDArray[np.float64],
        looks: Iterator[NDArray[np.float64]],
        shifts: tuple[int, ...],
        reach: float,
    ) -> NDArray[np.float64]:
        """What the next looks, two a shift, say of the face that `upright` maps to its square."""
        near = []
        for shift in shifts:
            for rows in (next(looks), unmirrored(next(looks), LOOK_SIDE)):
                if not len(rows):
                    continue
                rows[:, :14] -= shift
                off = np.linalg.norm(rows[:, 4:14].reshape(-1, 5, 2) - _EXPECTED, axis=2)
                off = off.mean(axis=1)
                if off.min() <= reach * _EYES:
                    near.append(rows[off.argmin()])
        if not near:
            return np.zeros(15)
        mean = np.mean(near, axis=0)
        mean[14] *= len(near) / (2 * len(shifts))
        return turned(mean, np.asarray(cv2.invertAffineTransform(upright), np.float64))

    def _find(self, pictures: Sequence[Pixels]) -> list[NDArray[np.float64]]:
        return [rows.astype(np.float64) for rows in self._yunet.find(pictures)]

    def _distinct(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = rows[np.argsort(-rows[:, 14], kind="stable")]
        return rows[distinct(rows[:, :4], self._spec.iou)]


@dataclass(frozen=True, slots=True)
class Level:
    """A photo at one scale.

    Attributes:
        pixels: (H, W, 3) uint8.
        factor: (x, y) size of a pixel of the photo as it was decoded, in pixels of this level.
    """

    pixels: Pixels
    factor: NDArray[np.float64]

    def shrunk(self, longer: int) -> Level:
        """The level whose longer side is about that many pixels; itself if it is not larger.

        Halved as long as it can be, which is cheap and loses nothing, then sampled.
        """
        pixels, factor = self.pixels, self.factor
        while max(pixels.shape[:2]) >= 2 * longer and min(pixels.shape[:2]) >= 2:
            height, width = (side // 2 for side in pixels.shape[:2])
            even = pixels[: 2 * height, : 2 * width]
            pixels = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))
            factor = factor / 2
        height, width = pixels.shape[:2]
        size = np.maximum(1, np.round(np.array([width, height]) * longer / max(width, height)))
        if size.max() < max(width, height):
            pixels = np.asarray(cv2.resize(pixels, size.astype(int).tolist()))
            factor = factor * size / (width, height)
        return Level(np.asarray(pixels, np.uint8), factor)


def _squares(
    levels: Sequence[Level], upright: NDArray[np.float64], shifts: tuple[int, ...]
) -> Iterator[Pixels]:
    """A face cut out, upright, at each shift on the grid, as it is and mirrored.

    Args:
        levels: the photo, largest first; the smallest in which the face is not enlarged is used.
        upright: (2, 3) map from the first level to a square with side `LOOK_SIDE`.
        shifts: pixels, right and down.
    """
    size = math.hypot(upright[0, 0], upright[1, 0])
    level = next((one for one in levels[::-1] if one.factor.min() >= size), levels[0])
    # from the level to the first: p -> (p + 0.5) / factor - 0.5
    linear = upright[:, :2] / level.factor
    matrix = np.column_stack([linear, upright[:, 2] + (linear - upright[:, :2]) @ (0.5, 0.5)])
    largest = max(shifts)
    whole = cut(level.pixels, matrix + np.array([[0, 0, largest]]), LOOK_SIDE + largest)
    for shift in shifts:
        at = largest - shift
        square = np.ascontiguousarray(whole[at : at + LOOK_SIDE, at : at + LOOK_SIDE])
        yield square
        yield np.asarray(cv2.flip(square, 1), np.uint8)


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
    """Landmarks `after`, (N, 5, 2), each turned about their middle to `gain` times their turn."""
    turns = np.array([umeyama(b[None], a)[0] for b, a in zip(before, after, strict=True)])
    turns = turns.reshape(-1, 2, 3)
    angles = np.arctan2(turns[:, 1, 0], turns[:, 0, 0]) * (gain - 1)
    cos, sin = np.cos(angles), np.sin(angles)
    rotations = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    middles = after.mean(axis=1, keepdims=True)
    return np.asarray((after - middles) @ rotations.transpose(0, 2, 1) + middles)
