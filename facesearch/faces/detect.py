"""Photo to faces: YuNet through OpenCV, at several scales, merged.

One scale is not enough for an archive: a face that fills a large photo is only found when the photo
is made small, a small one only when it is not. The detector runs at each of `DetectSpec.sizes`
(longer side, pixels) that the photo has, each finding the faces that suit it, and overlapping finds
become one.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.errors import ModelError
from facesearch.resources import shipped
from facesearch.settings import DetectSpec
from facesearch.values import F32, Detections, Photo, Pixels

WEIGHTS = "face_detection_yunet_2023mar_int8bq.onnx"
SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
"""Of the weights, as OpenCV Zoo publishes them."""
TOP = 5000
"""Most candidates the detector considers a scale."""


class Detector:
    """YuNet, loaded. `detect` may be called from any number of threads.

    OpenCV's own threads are switched off for the process: the callers' threads are the parallelism.

    Args:
        spec: scales, confidence, overlap and smallest face.

    Raises:
        ModelError: the bundled weights are missing or damaged.
    """

    def __init__(self, spec: DetectSpec) -> None:
        self._spec = spec
        self._weights = _verified(shipped("models") / WEIGHTS)
        self._local = threading.local()
        cv2.setNumThreads(1)
        # OpenCV 5 warns at each load that it picks its own target
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

    @property
    def wanted(self) -> int:
        """Longer side, in pixels, of a photo that is decoded at no higher scale than needed."""
        return max(self._spec.sizes)

    def detect(self, photo: Photo) -> Detections:
        """Every face in a photo, in pixels of the upright original, most confident first."""
        height, width = photo.pixels.shape[:2]
        longer = max(height, width)
        sizes = sorted({min(size, longer) for size in self._spec.sizes}, reverse=True)
        # two scales that are nearly the same find the same
        kept = [s for i, s in enumerate(sizes) if i == 0 or s < 0.8 * sizes[i - 1]]
        found = [self._at(photo.pixels, size / longer) for size in kept]
        rows = np.concatenate(found)
        back = np.array(photo.original_size, np.float32) / np.array([width, height], np.float32)
        boxes = rows[:, :4] * np.tile(back, 2)
        landmarks = rows[:, 4:14].reshape(-1, 5, 2) * back
        sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)
        sound = np.isfinite(rows).all(axis=1) & (sides >= self._spec.min_face)
        order = np.flatnonzero(sound)
        order = order[np.argsort(-rows[order, 14], kind="stable")]
        order = order[distinct(boxes[order], self._spec.iou)]
        return Detections(
            np.ascontiguousarray(boxes[order], np.float32),
            np.ascontiguousarray(landmarks[order], np.float32),
            np.ascontiguousarray(rows[order, 14], np.float32),
        )

    def _at(self, pixels: Pixels, scale: float) -> F32:
        """(N, 15) x1 y1 x2 y2, five landmarks, score; in pixels of `pixels`."""
        height, width = pixels.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if size != (width, height):
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        model = self._model()
        model.setInputSize(size)
        _, found = cast("tuple[int, F32 | None]", model.detect(pixels))
        if found is None:
            return np.zeros((0, 15), np.float32)
        rows = found.copy()
        rows[:, 2:4] = rows[:, 2:4] + rows[:, :2]
        back = np.array([width / size[0], height / size[1]], np.float32)
        rows[:, :14] = rows[:, :14] * np.tile(back, 7)
        return rows

    def _model(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._local, "model"):
            self._local.model = cv2.FaceDetectorYN.create(
                "onnx",
                self._weights,
                np.zeros(0, np.uint8),
                (320, 320),
                self._spec.score,
                self._spec.iou,
                TOP,
            )
        return self._local.model  # type: ignore[no-any-return]


def distinct(boxes: F32, iou: float) -> NDArray[np.intp]:
    """Rows of (N, 4) boxes, best first, that overlap none kept before them.

    Two boxes are one face if their intersection over union reaches `iou`, or one lies almost wholly
    (0.8 of its area) within the other: a scale may see only part of a large face.
    """
    keep: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i, box in enumerate(boxes):
        others = boxes[keep]
        low = np.maximum(box[:2], others[:, :2])
        high = np.minimum(box[2:], others[:, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        smaller = np.minimum(areas[i], areas[keep])
        union = areas[i] + areas[keep] - common
        if not ((common >= iou * union) | (common >= 0.8 * smaller)).any():
            keep.append(i)
    return np.array(keep, np.intp)


def _verified(path: Path) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror}); reinstall facesearch") from err
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ModelError(
            f"{path}: not the detector that ships (wrong sha256); reinstall facesearch"
        )
    return np.frombuffer(data, np.uint8)
