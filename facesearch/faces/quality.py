"""How well a face can be recognised: what is measured of it, and one figure from 0 to 1.

The figure is a logistic function of a weighted sum of the measures below, standardised on
`lfw-dev`. The weights were fitted so that it predicts the cosine of a probe to its mate
(`benchmarks/quality.py` fits and validates them; docs/quality.md has the figures): 0.5 is the
ordinary press photo of LFW; at 0.1 a search misses as many people as it finds.

The length of the embedding before it is normalised says most, and its scale belongs to the model:
it counts only for models it was measured for (`NORMS`); for others, quality is what the picture
and the pose say.

Pose is estimated from the five landmarks alone, in a picture seen from afar: the nose tip stands
out from the plane of eyes and mouth by `NOSE_DEPTH`, and moves sideways and up in the picture as
the head turns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.faces.mirror import MARK, UNMOVED, mark_of
from facesearch.values import F32, Crops, Detections, Embeddings

NOSE_DEPTH = 0.42
"""How far the nose tip stands out, in distances between the eyes. From how eyes draw together as
the nose moves aside, on `lfw-dev` (`benchmarks/quality.py`)."""
NOSE_HEIGHT = 0.5626
"""Where the nose tip is on the way from the eyes to the mouth, seen from the front: `lfw-dev`'s
median."""
FAR = 4.0
"""Beyond so many standard deviations a measure counts no more."""
_INNER = (slice(28, 104), slice(20, 92))
"""Rows and columns of a crop that show the face itself: brows to chin."""
_PIXELS = 76 * 72
_DARK, _BRIGHT = 8, 247
"""Grey levels beyond which nothing is drawn."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of N faces, each (N,) float32.

    Attributes:
        eyes: distance between the eyes, pixels of the original photo.
        yaw: head turned to the side, degrees; positive: the nose points to the image's right.
        pitch: head raised or lowered, degrees; positive: lowered.
        roll: head tilted, degrees; positive: clockwise in the image.
        sharpness: natural logarithm of 1 + the variance of the crop's Laplacian.
        contrast: standard deviation of grey levels, 0..255.
        brightness: their mean.
        clipped: share of pixels that are black or white.
        confidence: the detector's, 0..1.
    """

    eyes: F32
    yaw: F32
    pitch: F32
    roll: F32
    sharpness: F32
    contrast: F32
    brightness: F32
    clipped: F32
    confidence: F32


def measure(crops: Crops, detections: Detections) -> Measures:
    """What can be seen of N faces.

    Args:
        crops: (N, 112, 112, 3) uint8, aligned.
        detections: the same faces.
    """
    eyes, yaw, pitch, roll = pose(detections.landmarks)
    grey = [cv2.cvtColor(crop[_INNER], cv2.COLOR_BGR2GRAY) for crop in crops]
    levels = np.array(grey, np.float32).reshape(len(crops), _PIXELS)
    edges = [cv2.Laplacian(face, cv2.CV_32F).var() for face in grey]
    dark_or_bright = (levels < _DARK) | (levels > _BRIGHT)
    return Measures(
        eyes=eyes,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        sharpness=np.log1p(np.array(edges, np.float32)),
        contrast=levels.std(axis=1),
        brightness=levels.mean(axis=1),
        clipped=dark_or_bright.mean(axis=1, dtype=np.float32),
        confidence=detections.scores,
    )


def pose(landmarks: F32) -> tuple[F32, F32, F32, F32]:
    """Distance between the eyes, and yaw, pitch and roll in degrees, each (N,), of (N, 5, 2)."""
    points = np.asarray(landmarks, np.float64)
    across = points[:, 1] - points[:, 0]
    eyes = np.hypot(across[:, 0], across[:, 1])
    roll = np.arctan2(across[:, 1], across[:, 0])
    cos, sin = np.cos(-roll), np.sin(-roll)
    upright = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    middle = points[:, :2].mean(axis=1)

    def placed(point: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = np.einsum("nij,nj->ni", upright, point - middle)
        return np.asarray(turned / np.maximum(eyes, 1e-6)[:, None])

    nose, mouth = placed(points[:, 2]), placed(points[:, 3:].mean(axis=1))
    height = np.where(np.abs(mouth[:, 1]) < 1e-6, 1e-6, mouth[:, 1])
    aside = nose[:, 0] - mouth[:, 0] * nose[:, 1] / height
    down = nose[:, 1] / height - NOSE_HEIGHT
    angles = np.arctan2(aside, NOSE_DEPTH), np.arctan2(down, NOSE_DEPTH), roll
    yaw, pitch, tilt = (np.degrees(angle).astype(np.float32) for angle in angles)
    return eyes.astype(np.float32), yaw, pitch, tilt


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the sum: weight x (value - middle) / spread."""

    weight: float
    middle: float
    spread: float


NORM = "norm"
TERMS = {
    NORM: Term(0.9389, 0.0, 1.0),
    "yaw": Term(0.1794, 12.531, 9.4445),
    "contrast": Term(-0.1474, 3.6589, 0.2421),
    "pitch": Term(-0.1111, 2.4779, 1.9317),
    "sharpness": Term(0.0999, 5.0727, 0.5375),
    "roll": Term(-0.0865, 2.4333, 2.4121),
    "brightness": Term(0.0398, 128.6299, 22.4339),
    "confidence": Term(0.0375, 0.9275, 0.0072),
}
"""As `benchmarks/quality.py` fits them, each beside the others: a turned head or a flat picture
shortens the embedding by more than it costs in recognition, and gets a part of that back."""
NORMS = {
    ("sface", ""): (12.626, 1.0597),
    ("sface", UNMOVED): (12.626, 1.0597),
    ("sface", MARK): (12.4563, 1.0814),
}
"""A model's name and what is done to its embeddings (`faces.mirror`) -> mean and standard deviation
of the lengths on `lfw-dev`."""


def standardised(measures: Measures) -> dict[str, NDArray[np.float64]]:
    """The values that the terms weigh: turned heads by how far, contrast by its logarithm."""
    values = {f.name: np.asarray(getattr(measures, f.name), np.float64) for f in fields(measures)}
    for angle in ("yaw", "pitch", "roll"):
        values[angle] = np.abs(values[angle])
    values["contrast"] = np.log1p(values["contrast"])
    return values


def quality(measures: Measures, embeddings: Embeddings) -> F32:
    """(N,) float32, 0 to 1: how well each face can be recognised.

    Args:
        measures: of N faces.
        embeddings: of the same faces.
    """
    values = standardised(measures)
    contract = embeddings.contract
    spread = NORMS.get((contract.name, mark_of(contract)))
    if spread is not None:
        values[NORM] = (embeddings.quality.astype(np.float64) - spread[0]) / spread[1]
    total = np.zeros(len(embeddings))
    for name, term in TERMS.items():
        if name in values:
            from_middle = (values[name] - term.middle) / term.spread
            total += term.weight * from_middle.clip(-FAR, FAR)
    figure: F32 = (1 / (1 + np.exp(-total))).astype(np.float32)
    return figure


def why(measures: Measures, row: int) -> str:
    """What is most amiss with a face of low quality, in words."""
    values = {name: float(column[row]) for name, column in standardised(measures).items()}
    complaints = (
        (values["eyes"] < 20, f"small: its eyes are {values['eyes']:.0f} pixels apart"),
        (values["yaw"] > 35, f"turned away by about {values['yaw']:.0f} degrees"),
        (values["brightness"] < 45, "dark"),
        (values["brightness"] > 215, "overexposed"),
        (values["clipped"] > 0.3, "black or white in large parts"),
        (values["contrast"] < 2.5, "without contrast"),
        (values["sharpness"] < 3.2, "blurred"),
    )
    return next((text for holds, text in complaints if holds), "covered, distorted or no face")
