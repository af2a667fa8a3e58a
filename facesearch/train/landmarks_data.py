"""Photos with 68 points each: read, split by person, and cut out as the networks will see them.

A folder holds `points.csv` (columns photo, x0, y0, ... x67, y67 in pixels) and `photos/`, named
PERSON_NUMBER.jpg. Who trains and who is held out follows from a hash of the person's name, so that
it stays when photos are added.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import LibraryError, PhotoError, UsageError
from facesearch.faces.align import cut
from facesearch.faces.detect import Detector
from facesearch.faces.landmark_crops import REACH, SIDE, crop_matrices, moved
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec
from facesearch.values import Detections, Pixels

POINTS = 68
ROOM = 1.5
"""How much further than a crop the cached pictures reach: for turning, shifting and shrinking."""
STORED = round(SIDE * ROOM)
"""Side of a cached picture, pixels: a face is as large in it as in a crop."""
BUCKETS, TEST, VALIDATION = 25, 5, 2
"""People fall into so many buckets by the hash of their name; the first `TEST` are held out, the
next `VALIDATION` stop training early."""
FAR = 0.4
"""A face found is the labelled one if its landmarks are this near on average, in distances between
the outer corners of the eyes."""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Labelled:
    """Photos and their points.

    Attributes:
        photos: N paths.
        points: (N, 68, 2) in pixels.
    """

    photos: tuple[Path, ...]
    points: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cache:
    """Labelled faces cut out, in a memory map.

    Attributes:
        pictures: (N, 192, 192, 3) uint8 BGR.
        points: (N, 68, 2) in pixels of the pictures.
        parts: (N,) "train", "validation" or "test".
        missed: photos in which the labelled face was not found.
    """

    pictures: Pixels
    points: NDArray[np.float64]
    parts: NDArray[np.str_]
    missed: int

    def rows(self, part: str) -> NDArray[np.intp]:
        """The rows of one part."""
        return np.flatnonzero(self.parts == part)


def read(folder: Path) -> Labelled:
    """The labelled photos of a folder.

    Raises:
        UsageError: there is no table in it, or it is not one of 68 points a photo.
    """
    table = folder / "points.csv"
    photos, points = [], []
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                photos.append(folder / "photos" / row["photo"])
                points.append([float(row[f"{axis}{n}"]) for n in range(POINTS) for axis in "xy"])
    except OSError as err:
        raise UsageError(f"{table}: cannot be read ({err.strerror})") from err
    except (KeyError, TypeError, ValueError) as err:
        raise UsageError(
            f"{table}, row {len(points) + 1}: expected the columns photo, x0, y0, ... x67, y67"
        ) from err
    if not photos:
        raise UsageError(f"{table}: no photos in it")
    return Labelled(tuple(photos), np.array(points).reshape(-1, POINTS, 2))


def person(photo: Path) -> str:
    """Whose face it is: the file's name before the last "_"."""
    return photo.stem.rpartition("_")[0] or photo.stem


def part(name: str) -> str:
    """Whether a person trains, validates or is held out: "train", "validation" or "test"."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % BUCKETS
    if bucket < TEST:
        return "test"
    return "validation" if bucket < TEST + VALIDATION else "train"


def five(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 5, 2): of (N, 68, 2) points, those that the detector gives."""
    middles = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    return np.stack([*middles, points[:, 30], points[:, 48], points[:, 54]], 1)


def ocular(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) distance between the outer corners of the eyes."""
    return np.asarray(np.linalg.norm(points[:, 36] - points[:, 45], axis=1))


def labelled_face(found: Detections, points: NDArray[np.float64]) -> int | None:
    """Which of the faces found (68, 2) points are of; None if none is."""
    if not len(found):
        return None
    off = np.linalg.norm(found.landmarks - five(points[None]), axis=2).mean(1)
    nearest = int(off.argmin())
    return nearest if off[nearest] <= FAR * ocular(points[None])[0] else None


def prepare(folder: Path, cache: Path, say: Callable[[str], None]) -> Cache:
    """The labelled faces cut out; from `cache` if they were cut before.

    Args:
        folder: see `read`.
        cache: folder for the pictures; made if it is missing.
        say: prints a line.

    Raises:
        UsageError: as `read`.
        LibraryError: the cache cannot be written.
    """
    labelled = read(folder)
    key = hashlib.sha256(
        json.dumps([_VERSION, STORED, REACH, str(folder.resolve())]).encode()
        + (folder / "points.csv").read_bytes()
    ).hexdigest()
    stem = cache / f"landmarks-{key[:16]}"
    pictures, rest = stem.with_suffix(".npy"), stem.with_suffix(".npz")
    try:
        if not rest.exists():
            cache.mkdir(parents=True, exist_ok=True)
            kept, points = _cut(labelled, pictures, say)
            names = np.array([person(labelled.photos[n]) for n in kept])
            np.savez(rest, points=points, people=names)
        with np.load(rest) as saved:
            points, names = saved["points"], saved["people"]
        stored = np.load(pictures, mmap_mode="r")[: len(points)]
    except OSError as err:
        raise LibraryError(f"{cache}: cannot be used ({err.strerror or err})") from err
    parts = np.array([part(str(name)) for name in names])
    return Cache(stored, points, parts, len(labelled.photos) - len(points))


def _cut(
    labelled: Labelled, pictures: Path, say: Callable[[str], None]
) -> tuple[list[int], NDArray[np.float64]]:
    """Write the pictures; which photos they are of, and the points in them."""
    detector = Detector(DetectSpec())
    total = len(labelled.photos)
    stored = np.lib.format.open_memmap(
        pictures, mode="w+", dtype=np.uint8, shape=(total, STORED, STORED, 3)
    )
    kept: list[int] = []
    points = []
    for n, (path, truth) in enumerate(zip(labelled.photos, labelled.points, strict=True)):
        if n % 500 == 0:
            say(f"finding faces: {n} of {total} photos")
        try:
            photo = read_photo(path)
        except PhotoError as err:
            say(f"left out: {err}")
            continue
        found = detector.detect(photo)
        row = labelled_face(found, truth)
        if row is None:
            continue
        matrix = crop_matrices(found.landmarks[row][None], STORED, REACH * ROOM)
        stored[len(kept)] = cut(photo.pixels, matrix[0], STORED)
        points.append(moved(truth[None], matrix)[0])
        kept.append(n)
    stored.flush()
    if not kept:
        raise UsageError(f"{labelled.photos[0].parent}: no labelled face was found in any photo")
    return kept, np.array(points)
