"""YuNet through OpenCV: pixels to the faces in them, at one scale. The detector's one library edge.

YuNet (Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research
20, 2023) predicts boxes, five landmarks and a confidence on grids of 8, 16 and 32 pixels. It takes
any input size: OpenCV pads below and to the right up to a multiple of 32, which moves nothing.
Seen at 18 to 400 pixels wide, practically every upright face is found; at 12 every second one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.errors import ModelError
from facesearch.resources import shipped
from facesearch.values import F32, Pixels

WEIGHTS = "face_detection_yunet_2023mar_int8bq.onnx"
SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
"""Of the weights, as OpenCV Zoo publishes them."""

STRIDE = 8
"""Spacing, in pixels, of YuNet's finest grid."""
OVERLAP = 0.5
"""Boxes overlapping by this much (intersection over union) are one face to a single run."""
CANDIDATES = 5000
"""Most boxes looked at in a single run."""
LEAST_SPREAD = 0.1
"""Landmarks that lie within this part of the box's side have collapsed: no face has them so."""

_loading = threading.Lock()


class YuNet:
    """The network, loaded. `find` may be called from any number of threads.

    OpenCV's networks keep state between calls, so each thread gets its own (about 0.3 MB of weights
    and 100 MB of working memory for a run at 1280 pixels). OpenCV's own thread pool is switched off
    for the whole process: photos are what runs in parallel, on the caller's threads.

    Args:
        score: least confidence of what is found, 0..1.
        weights: file of the weights; None for the one that ships.

    Raises:
        ModelError: the weights are missing, damaged, or not understood by the OpenCV installed.
    """

    def __init__(self, score: float, weights: Path | None = None) -> None:
        self._score = score
        self._weights = _verified(weights or shipped("models") / WEIGHTS)
        self._local = threading.local()
        cv2.setNumThreads(1)
        self._network()

    def find(self, pictures: Sequence[Pixels]) -> list[F32]:
        """The faces in each picture.

        Args:
            pictures: (H, W, 3) uint8 BGR each.

        Returns:
            (N, 15) float32 each: box x1 y1 x2 y2; five landmarks x y in the order of
            `values.Detections`; confidence. In pixels of the picture, where (0, 0) is the middle of
            the first. Finds that cannot be a face (not finite, no area, landmarks in one spot) are
            left out.
        """
        return [self._find(picture) for picture in pictures]

    def _find(self, pixels: Pixels) -> F32:
        network = self._network()
        network.setInputSize((pixels.shape[1], pixels.shape[0]))
        found: Any = network.detect(pixels)[1]
        if found is None:  # no face; OpenCV's stubs do not say so
            return np.zeros((0, 15), np.float32)
        rows = np.array(found, np.float32)
        rows[:, 2:4] += rows[:, :2]  # width, height -> x2, y2
        return rows[sound(rows)]

    def _network(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._local, "network"):
            self._local.network = _load(self._weights, self._score)
        network: cv2.FaceDetectorYN = self._local.network
        return network


def sound(rows: F32) -> NDArray[np.bool_]:
    """Which of (N, 15) finds could be a face: finite, with an area, landmarks apart."""
    landmarks = rows[:, 4:14].reshape(-1, 5, 2)
    with np.errstate(invalid="ignore"):  # a comparison with NaN is false
        spread = (landmarks.max(axis=1) - landmarks.min(axis=1)).max(axis=1)
        side = (rows[:, 2:4] - rows[:, :2]).min(axis=1)
        apart: NDArray[np.bool_] = (side > 0) & (spread > LEAST_SPREAD * side)
    return apart & np.isfinite(rows).all(axis=1)


def _load(weights: NDArray[np.uint8], score: float) -> cv2.FaceDetectorYN:
    with _loading:  # the log level is the process's
        level = cv2.utils.logging.getLogLevel()
        # OpenCV 5 warns, on stderr, that it ignores a target nobody asked for
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            nothing = np.zeros(0, np.uint8)
            return cv2.FaceDetectorYN.create(
                "onnx", weights, nothing, (320, 320), score, OVERLAP, CANDIDATES
            )
        except cv2.error as err:
            raise ModelError(
                f"OpenCV {cv2.__version__} cannot load the face detector; "
                "install opencv-python 5.0 or newer"
            ) from err
        finally:
            cv2.utils.logging.setLogLevel(level)


def _verified(path: Path) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror}); reinstall facesearch") from err
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ModelError(f"{path}: not the detector that ships (sha256); reinstall facesearch")
    return np.frombuffer(data, np.uint8)
