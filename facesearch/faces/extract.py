"""File bytes to aligned faces: decode, detect, align, each at the scale it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import PhotoError, Reason
from facesearch.faces.align import align, to_crops, umeyama
from facesearch.faces.detect import Detector, Finder
from facesearch.faces.quality import Measures, measure
from facesearch.faces.yunet import YuNet
from facesearch.photos.decode import decode
from facesearch.photos.metadata import blocks, position, taken_at
from facesearch.photos.phash import phash
from facesearch.settings import DetectSpec, PhotoLimits
from facesearch.values import Crops, Detections, Photo, PhotoFacts


@dataclass(frozen=True, slots=True)
class Extraction:
    """The faces of one photo.

    Attributes:
        name: path of the photo.
        sha256: hex digest of its bytes.
        size: (width, height) of the upright original in pixels.
        detections: N faces, in pixels of the upright original.
        crops: the same N faces, aligned.
        measures: what quality is made of, of the same faces.
        facts: what else the photo says.
    """

    name: str
    sha256: str
    size: tuple[int, int]
    detections: Detections
    crops: Crops
    measures: Measures
    facts: PhotoFacts = field(default_factory=PhotoFacts)


class Extractor:
    """Decode, detect, align; may be called from any number of threads.

    Args:
        detect: how faces are looked for.
        limits: what a photo may cost.
        gps: whether to tell where a photo was taken.
        load: gives YuNet for a least confidence; the default is for a few photos.

    Raises:
        ModelError: the detector's weights are missing or damaged.
    """

    def __init__(
        self,
        detect: DetectSpec,
        limits: PhotoLimits,
        gps: bool = False,
        load: Callable[[float], Finder] = YuNet,
    ) -> None:
        self._detector = Detector(detect, load)
        self._limits = limits
        self._gps = gps

    def __call__(self, data: bytes, name: str, sha256: str | None = None) -> Extraction:
        """The faces of a photo.

        A large JPEG is decoded at a reduced scale; only if a face in it has too few pixels for a
        crop there, and the original has more, is it decoded again, at the scale that face needs.

        Args:
            data: the file.
            name: its path, for messages.
            sha256: of the file, where it is known.

        Raises:
            PhotoError: the photo cannot be read.
        """
        photo = decode(data, name, self._limits, self._detector.wanted, sha256)
        detections = self._detector.detect(photo)
        wanted = finer(photo, detections)
        exif = blocks(data)[0]
        where = position(exif) if self._gps else None
        facts = PhotoFacts(phash(photo.pixels), taken_at(exif), where)
        if wanted is not None:
            photo = decode(data, name, self._limits, wanted, photo.sha256)
        crops = align(photo, detections)
        return Extraction(
            name,
            photo.sha256,
            photo.original_size,
            detections,
            crops,
            measure(crops, detections),
            facts,
        )

    def faces(self, data: bytes, name: str) -> tuple[Photo, Detections]:
        """The faces of a photo, and its pixels at the scale that their crops need.

        Args:
            data: the file.
            name: its path, for messages.

        Raises:
            PhotoError: the photo cannot be read.
        """
        photo = decode(data, name, self._limits, self._detector.wanted)
        detections = self._detector.detect(photo)
        wanted = finer(photo, detections)
        return (photo if wanted is None else decode(data, name, self._limits, wanted)), detections

    def again(self, data: bytes, name: str, detections: Detections, size: tuple[int, int]) -> Crops:
        """The crops of faces that were found in a photo before; it is decoded once.

        Args:
            data: the file.
            name: its path, for messages.
            detections: N faces, in pixels of the upright original.
            size: (width, height) of that.

        Returns:
            (N, 112, 112, 3) uint8 BGR.

        Raises:
            PhotoError: the photo cannot be read, or has another size than it had.
        """
        matrices = umeyama(detections.landmarks)
        enlarged = float(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]).max(initial=0.0))
        wanted = max(self._detector.wanted, math.ceil(max(size) * enlarged))
        photo = decode(data, name, self._limits, min(wanted, max(size)))
        if photo.original_size != size:
            raise PhotoError(Reason.CORRUPT, name, f"is {photo.original_size} now, was {size}")
        return align(photo, detections)


def finer(photo: Photo, detections: Detections) -> int | None:
    """The longer side to decode a photo at so that no crop has more pixels than its face.

    None if the photo as it is decoded will do, or has no more to give.
    """
    longer, most = max(photo.pixels.shape), max(photo.original_size)
    if not len(detections) or longer >= most:
        return None
    matrices = to_crops(photo, detections)
    enlarged = float(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]).max())
    return min(math.ceil(longer * enlarged), most) if enlarged > 1 else None


def principal(detections: Detections, size: tuple[int, int]) -> int:
    """The face that a portrait is of: large and near the centre.

    Args:
        detections: N >= 1 faces.
        size: (width, height) of the photo.
    """
    centres = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
    off = np.linalg.norm(centres - np.array(size, np.float32) / 2, axis=1)
    return int(np.argmin(off - _sides(detections)))


def _sides(detections: Detections) -> NDArray[np.float32]:
    """(N,) side of the square as large as each box."""
    width, height = (detections.boxes[:, 2:] - detections.boxes[:, :2]).T
    area: NDArray[np.float32] = np.maximum(width * height, 1.0)
    return np.sqrt(area)
