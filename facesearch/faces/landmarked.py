"""A photo's faces with 68 landmarks each, what these say of the heads, and the picture of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facesearch.faces.head import head
from facesearch.faces.landmarks import Landmarker
from facesearch.values import Detections, Photo, Pixels

LINES = (
    *(tuple(range(17)), tuple(range(17, 22)), tuple(range(22, 27))),
    *(tuple(range(27, 31)), tuple(range(31, 36)), (*range(36, 42), 36), (*range(42, 48), 42)),
    *((*range(48, 60), 48), (*range(60, 68), 60)),
)
"""Points that are joined in a picture: jaw, brows, nose, eyes, lips."""
COLOUR = (60, 220, 90)
UNSURE_COLOUR = (250, 160, 40)


@dataclass(frozen=True, slots=True)
class LandmarkedFace:
    """One face.

    Attributes:
        box: x1 y1 x2 y2 in pixels of the upright original.
        detection_score: detector's confidence, 0..1.
        landmarks68: 68 (x, y) pairs, same pixels, in the order of iBUG's 300-W; they may lie
            outside the photo.
        yaw: degrees; positive where the face looks to the picture's right.
        pitch: degrees; positive where it looks down.
        roll: degrees; positive where it is turned clockwise in the picture.
        eyes_opening: of the eyes, over their width.
        eyes_closed: whether that is little.
        mouth_opening: between the lips, over the inner mouth's width.
        mouth_open: whether that is much.
        hidden: share of landmarks that seem covered or out of sight, a hint; None where the network
            does not say.
    """

    box: tuple[float, ...]
    detection_score: float
    landmarks68: tuple[tuple[float, float], ...]
    yaw: float
    pitch: float
    roll: float
    eyes_opening: float
    eyes_closed: bool
    mouth_opening: float
    mouth_open: bool
    hidden: float | None


@dataclass(frozen=True, slots=True)
class Landmarked:
    """A photo's faces, most confident first.

    Attributes:
        photo: its path.
        size: (width, height) of the upright original in pixels.
        network: which network found the landmarks.
        faces: with 68 landmarks each.
    """

    photo: str
    size: tuple[int, int]
    network: str
    faces: tuple[LandmarkedFace, ...]


def landmarked(photo: Photo, found: Detections, landmarker: Landmarker) -> Landmarked:
    """The landmarks of the faces found in a photo, and what they say.

    Args:
        photo: decoded so that its faces have the pixels of a crop.
        found: its faces.
        landmarker: finds the landmarks.
    """
    landmarks = landmarker(photo, found)
    heads = head(landmarks)
    angles = zip(heads.yaw.tolist(), heads.pitch.tolist(), heads.roll.tolist(), strict=True)
    faces = tuple(
        LandmarkedFace(
            box=tuple(round(v, 2) for v in found.boxes[n].tolist()),
            detection_score=float(found.scores[n]),
            landmarks68=tuple((round(x, 2), round(y, 2)) for x, y in landmarks.points[n].tolist()),
            yaw=round(yaw, 1),
            pitch=round(pitch, 1),
            roll=round(roll, 1),
            eyes_opening=round(float(heads.eyes[n]), 3),
            eyes_closed=bool(heads.eyes_closed[n]),
            mouth_opening=round(float(heads.mouth[n]), 3),
            mouth_open=bool(heads.mouth_open[n]),
            hidden=None if math.isnan(heads.hidden[n]) else round(float(heads.hidden[n]), 3),
        )
        for n, (yaw, pitch, roll) in enumerate(angles)
    )
    return Landmarked(photo.name, photo.original_size, landmarker.network, faces)


def draw(photo: Photo, answer: Landmarked) -> Pixels:
    """A copy of the photo's pixels with every face's landmarks joined to lines, and its number.

    Args:
        photo: at any decode scale.
        answer: its faces, in pixels of the original.

    Returns:
        (H, W, 3) uint8 BGR, the size of `photo.pixels`.
    """
    canvas = Image.fromarray(np.ascontiguousarray(photo.pixels[..., ::-1]))
    pen = ImageDraw.Draw(canvas)
    for number, face in enumerate(answer.faces):
        points = photo.to_decoded(np.array(face.landmarks68))
        size = float(np.linalg.norm(points[36] - points[45]))
        width = max(1, round(size / 60))
        colour = UNSURE_COLOUR if (face.hidden or 0) > 0.5 else COLOUR
        for line in LINES:
            pen.line([tuple(points[n]) for n in line], fill=colour, width=width)
        dot = max(1.0, size / 50)
        for x, y in points.tolist():
            pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=(255, 255, 255))
        font = ImageFont.load_default(size=max(11.0, size / 5))
        x, y = points[:, 0].min(), points[:, 1].max() + dot + 2
        label = f"#{number}"
        box = pen.textbbox((x, y), label, font=font)
        pen.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), fill=(30, 30, 30))
        pen.text((x, y), label, fill=(255, 255, 255), font=font)
    return np.ascontiguousarray(np.asarray(canvas)[..., ::-1])
