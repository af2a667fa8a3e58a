"""Aligned crops as other photos might show them: moved, lit, covered, blurred, small, compressed.

Expressions and other poses than a turn in the plane cannot be made from a single photo; a person's
several photos have to bring them.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from facesearch.faces.align import SIDE
from facesearch.values import Pixels

EYES = (36.0, 78.0, 51.6)
"""Outer ends and height of the eyes in a crop, pixels."""


def augmented(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """One crop, (112, 112, 3) uint8, changed by chance."""
    crop = lit(moved(crop, rng), rng)
    if rng.random() < 0.15:
        crop = covered(crop, rng)
    if rng.random() < 0.1:
        crop = with_glasses(crop, rng)
    if rng.random() < 0.2:
        crop = np.asarray(cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < 0.25:
        side = int(SIDE * rng.uniform(0.3, 0.8))
        small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        crop = np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))]
        crop = np.asarray(cv2.imdecode(cv2.imencode(".jpg", crop, quality)[1], 1), np.uint8)
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


def moved(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Turned, scaled, sheared and shifted a little, as landmarks and poses vary."""
    turn, scale = math.radians(rng.normal(0, 4)), math.exp(rng.normal(0, 0.03))
    stretch = math.exp(rng.normal(0, 0.03))  # a head turned aside is narrower
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    linear = np.array([[cos * stretch, -sin], [sin * stretch, cos + rng.normal(0, 0.01)]])
    middle = np.full(2, (SIDE - 1) / 2)
    matrix = np.column_stack([linear, middle - linear @ middle + rng.normal(0, 1.5, 2)])
    edge = cv2.BORDER_REFLECT
    return np.asarray(cv2.warpAffine(crop, matrix, (SIDE, SIDE), borderMode=edge), np.uint8)


def lit(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Brighter or darker, of more or less contrast, tinted; lit from a side; now and then grey."""
    levels = np.arange(256) / 255
    gain, gamma = math.exp(rng.normal(0, 0.15)), math.exp(rng.normal(0, 0.15))
    tints = np.exp(rng.normal(0, 0.05, 3))
    curve = gain * levels[:, None] ** gamma * tints + rng.normal(0, 0.04)
    table = (255 * curve.clip(0, 1)).astype(np.uint8)
    crop = np.stack([table[crop[..., c], c] for c in range(3)], axis=2)
    if rng.random() < 0.3:
        angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.5)
        x, y = np.meshgrid(*2 * (np.linspace(-1, 1, SIDE),))
        shade = 1 - depth * (1 + math.cos(angle) * x + math.sin(angle) * y).clip(0, 2) / 2
        crop = (crop * shade[..., None]).astype(np.uint8)
    if rng.random() < 0.1:
        crop = np.repeat(crop.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return crop


def covered(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """A rectangle of one colour over a part of the face."""
    crop = crop.copy()
    width, height = rng.integers(15, 50, 2)
    x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
    crop[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    return crop


def with_glasses(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Drawn glasses, clear or dark, where the eyes are."""
    left, right, height = EYES
    frame = [int(c) for c in rng.integers(0, 120, 3)]
    size = (int(rng.integers(11, 16)), int(rng.integers(8, 13)))
    centres = [(int(left + 2), int(height)), (int(right - 4), int(height))]
    glass = crop.copy()
    for centre in centres:
        cv2.ellipse(glass, centre, size, 0, 0, 360, frame, -1)
    dark = rng.uniform(0.5, 0.95) if rng.random() < 0.4 else 0.1
    drawn = cv2.addWeighted(glass, dark, crop, 1 - dark, 0)
    thick = int(rng.integers(1, 4))
    for centre in centres:
        cv2.ellipse(drawn, centre, size, 0, 0, 360, frame, thick, cv2.LINE_AA)
    bridge = [(centres[0][0] + size[0], centres[0][1]), (centres[1][0] - size[0], centres[1][1])]
    cv2.line(drawn, bridge[0], bridge[1], frame, thick, cv2.LINE_AA)
    return np.asarray(drawn, np.uint8)
