"""What 68 landmarks say of a head: where it is turned, whether eyes and mouth are open.

All are pure functions of points; docs/landmarks.md says how far they can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.faces.face_shape import SHAPE
from facesearch.faces.landmarks import Landmarks

F64 = NDArray[np.float64]

RIGID = np.array([17, 21, 22, 26, *range(27, 37), 39, 42, 45, 48, 54])
"""Points that pose is estimated from: brows' ends, nose, corners of eyes and mouth."""
AWAY = 20.0
"""Distance of the camera that is assumed, in distances between the eyes: far, since how a photo was
cropped is unknown."""
EYES = ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47))
"""Of each eye: a corner, two points of the upper lid, the other corner, two of the lower lid."""
LIPS = ((61, 67), (62, 66), (63, 65))
"""Pairs of points above each other on the lips' inner edges; 60 and 64 are the corners."""
CLOSED = 0.17
"""Opening of the eyes, over their width, below which they count as closed."""
OPEN = 0.25
"""Opening between the lips, over the inner mouth's width, above which it counts as open."""
HIDDEN = 0.25
"""A point as unsure as this counts as hidden."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the landmarks of N faces say.

    Attributes:
        yaw: (N,) degrees, positive where the face looks to the picture's right.
        pitch: (N,) degrees, positive where it looks down.
        roll: (N,) degrees, positive where it is turned clockwise in the picture.
        eyes: (N,) opening of the eyes over their width (eye aspect ratio); of the wider eye where
            the head is turned.
        mouth: (N,) opening between the lips over the inner mouth's width.
        hidden: (N,) share of points that the network is unsure of: a hint that something covers
            them, or that they are out of sight; NaN where the network does not say.
    """

    yaw: F64
    pitch: F64
    roll: F64
    eyes: F64
    mouth: F64
    hidden: F64

    @property
    def eyes_closed(self) -> NDArray[np.bool_]:
        """(N,) whether the eyes seem closed."""
        return np.asarray(self.eyes < CLOSED)

    @property
    def mouth_open(self) -> NDArray[np.bool_]:
        """(N,) whether the mouth seems open."""
        return np.asarray(self.mouth > OPEN)


def head(landmarks: Landmarks) -> Head:
    """What the landmarks of N faces say of their heads."""
    points = landmarks.points.astype(np.float64)
    angles = np.array([pose(face) for face in points]).reshape(-1, 3)
    knows = (landmarks.unsure > 0).any(axis=1)
    hidden = np.where(knows, (landmarks.unsure > HIDDEN).mean(axis=1), np.nan)
    yaw, pitch, roll = angles.T
    return Head(yaw, pitch, roll, eyes_opening(points), mouth_opening(points), hidden)


def pose(points: F64) -> tuple[float, float, float]:
    """Yaw, pitch and roll, degrees, of one face's (68, 2) points; signs as in `Head`.

    The rotation that takes the mean face to these points, by solvePnP, is taken apart as a turn in
    the picture (roll) of a head turned aside (yaw) that nods (pitch).
    """
    seen = points[RIGID]
    seen = seen - seen.mean(axis=0)
    size = np.sqrt((seen**2).sum(axis=1).mean())
    solid = SHAPE[RIGID] * [1.0, -1.0, -1.0]  # y down and z away from the camera, as OpenCV has it
    solid = solid - solid.mean(axis=0)
    flat = np.sqrt((solid[:, :2] ** 2).sum(axis=1).mean())
    if not np.isfinite(size) or size < 1e-6:
        return 0.0, 0.0, 0.0
    lens = np.array([[AWAY, 0.0, 0.0], [0.0, AWAY, 0.0], [0.0, 0.0, 1.0]])
    found, turn, _ = cv2.solvePnP(
        solid, np.ascontiguousarray(seen * (flat / size)), lens, None, flags=cv2.SOLVEPNP_SQPNP
    )
    if not found:
        return 0.0, 0.0, 0.0
    r = np.asarray(cv2.Rodrigues(turn)[0], np.float64)
    yaw = np.arcsin(np.clip(r[2, 0], -1, 1))
    pitch = np.arctan2(r[2, 1], r[2, 2])
    roll = np.arctan2(r[1, 0], r[0, 0])
    return tuple(float(np.degrees(a)) for a in (yaw, pitch, roll))  # type: ignore[return-value]


def eyes_opening(points: F64) -> F64:
    """(N,) opening of the eyes over their width: the mean of both, the wider weighing more.

    Soukupova and Cech, "Real-Time Eye Blink Detection using Facial Landmarks", 2016. A turned head
    shows the far eye narrow; its ratio says little.
    """
    ratios, widths = [], []
    for a, b, c, d, e, f in EYES:
        width = np.linalg.norm(points[:, a] - points[:, d], axis=1)
        height = np.linalg.norm(points[:, b] - points[:, f], axis=1)
        height = (height + np.linalg.norm(points[:, c] - points[:, e], axis=1)) / 2
        ratios.append(height / np.maximum(width, 1e-6))
        widths.append(width**2)
    weights = np.maximum(np.array(widths), 1e-12)
    return np.asarray((np.array(ratios) * weights).sum(axis=0) / weights.sum(axis=0))


def mouth_opening(points: F64) -> F64:
    """(N,) opening between the lips over the inner mouth's width."""
    gaps = [np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in LIPS]
    width = np.linalg.norm(points[:, 60] - points[:, 64], axis=1)
    return np.asarray(np.mean(gaps, axis=0) / np.maximum(width, 1e-6))
