"""Cached pictures to training crops: moved, mirrored, lit, covered, blurred and compressed."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.faces.landmark_crops import MIRRORED, SIDE
from facesearch.values import Pixels

TURN, TURN_SOME = 6.0, 20.0
"""Standard deviation of a turn, degrees, and the bound of the greater turns of a few."""
SCALE = 0.05
"""Standard deviation of the logarithm of a scale."""
SHIFT = 0.02
"""Standard deviation of a shift, in sides of the crop, beside that of the detector's landmarks."""


def placed(
    picture: Pixels, points: NDArray[np.float64], matrix: NDArray[np.float64]
) -> tuple[Pixels, NDArray[np.float64]]:
    """The crop through a (2, 3) map from the picture, and the points as parts of its side."""
    crop = cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(crop, np.uint8), (moved + 0.5) / SIDE


def centred(stored: int, angle: float = 0.0, scale: float = 1.0) -> NDArray[np.float64]:
    """The map from a picture of that side to the crop in its middle, turned and scaled there."""
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    middle = (stored - 1) / 2
    return np.column_stack([linear, np.full(2, (SIDE - 1) / 2) - linear @ [middle, middle]])


def augmented(
    picture: Pixels, points: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.float64]]:
    """A training crop, (128, 128, 3) uint8, and its points as parts of its side."""
    turn = rng.normal(0, TURN) if rng.random() < 0.9 else rng.uniform(-TURN_SOME, TURN_SOME)
    scale = math.exp(np.clip(rng.normal(0, SCALE), -0.2, 0.2))
    matrix = centred(len(picture), math.radians(turn), scale)
    matrix[:, 2] += np.clip(rng.normal(0, SHIFT, 2), -0.08, 0.08) * SIDE
    crop, points = placed(picture, points, matrix)
    if rng.random() < 0.5:
        crop, points = mirrored(crop, points)
    return degraded(crop, rng), points


def mirrored(crop: Pixels, points: NDArray[np.float64]) -> tuple[Pixels, NDArray[np.float64]]:
    """The mirror image; the points, parts of its side, keep their meaning."""
    flipped = points[MIRRORED] * [-1.0, 1.0] + [1.0, 0.0]
    return np.asarray(cv2.flip(crop, 1), np.uint8), flipped


def degraded(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """The crop in other light, partly covered, blurred, noisy and compressed, by chance."""
    crop = lit(crop, rng)
    if rng.random() < 0.3:
        crop = covered(crop, rng)
    if rng.random() < 0.25:
        crop = blurred(crop, rng)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(2, 12), crop.shape)
        crop = np.clip(crop + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = int(rng.integers(12, 70))
        ok, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if ok:
            crop = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return crop


def lit(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Contrast, brightness and gamma; tints; grey; a shade across; by a table a channel."""
    levels = np.arange(256) / 255
    gain, gamma = math.exp(rng.normal(0, 0.2)), math.exp(rng.normal(0, 0.2))
    tints = np.exp(rng.normal(0, 0.08, 3))
    curve = np.clip(levels[:, None] ** gamma * gain * tints + rng.normal(0, 0.06), 0, 1)
    table = np.round(curve * 255).astype(np.uint8)
    crop = np.asarray(cv2.LUT(crop, np.ascontiguousarray(table[None])), np.uint8)
    if rng.random() < 0.15:
        grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
        crop = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    if rng.random() < 0.25:
        angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.8)
        axis = np.linspace(-1, 1, SIDE)
        across = math.cos(angle) * axis[None] + math.sin(angle) * axis[:, None]
        shade = 1 - depth * np.clip(across + rng.uniform(-0.3, 0.3), 0, 1)
        crop = (crop * shade[..., None]).astype(np.uint8)
    return crop


def covered(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """One to three patches: of one colour, of noise, or of another place of the picture."""
    crop = crop.copy()
    for _ in range(rng.integers(1, 4)):
        width, height = (int(v) for v in rng.integers(10, 56, 2))
        x, y = int(rng.integers(0, SIDE - width)), int(rng.integers(0, SIDE - height))
        kind = rng.integers(3)
        if kind == 0:
            patch = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
        elif kind == 1:
            patch = rng.integers(0, 256, (height, width, 3), np.uint8)
        else:
            u, v = int(rng.integers(0, SIDE - width)), int(rng.integers(0, SIDE - height))
            patch = crop[v : v + height, u : u + width].copy()
        target = crop[y : y + height, x : x + width]
        if rng.random() < 0.5:
            target[:] = patch
        else:
            inside = np.zeros((height, width), np.uint8)
            centre, axes = (width // 2, height // 2), (width // 2, height // 2)
            cv2.ellipse(inside, centre, axes, 0, 0, 360, 1, -1)
            target[inside > 0] = patch[inside > 0]
    return crop


def blurred(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Out of focus, moved, or from few pixels."""
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.6, 2.5)), np.uint8)
    if kind == 1:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, rng.uniform(0, 180), 1)
        turned = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
        return np.asarray(cv2.filter2D(crop, -1, turned / max(turned.sum(), 1e-6)), np.uint8)
    side = int(rng.integers(32, 96))
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
