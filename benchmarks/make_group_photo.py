"""Makes the demo's group photo from three of its freely licensed portraits.

    python -m benchmarks.make_group_photo

Each person is cut out of a portrait and set before one backdrop, the one with the fewest pixels
smaller and behind. GrabCut finds the outline, started from where the detector sees the face; the
smallest portrait defeats it and has its outline drawn by hand. The result is a derivative of a
CC BY-SA work and is licensed as such (CREDITS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facesearch.faces.detect import Detector
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec
from facesearch.values import Pixels

PHOTOS = Path(__file__).resolve().parent.parent / "facesearch" / "demo" / "photos" / "probes"
WIDTH, HEIGHT = 1600, 900
TOP, BOTTOM = (176.0, 170.0, 160.0), (132.0, 124.0, 116.0)
"""The backdrop's colours, BGR: a grey near those that two of the three stood before."""
GRAIN = 1.5
FEATHER = 1.6
"""Softness of the cut, in pixels of the group photo."""
QUALITY = 90


@dataclass(frozen=True, slots=True)
class Place:
    """Where a person stands.

    Attributes:
        name: the portrait's file.
        scale: its size in the group photo, over its own.
        left: of the portrait in the group photo, pixels; its lower edge is the group photo's.
        light: brightness, over its own.
        outline: of the person, x y in the portrait's pixels; empty to find it.
    """

    name: str
    scale: float
    left: int
    light: float = 1.0
    outline: tuple[tuple[float, float], ...] = ()


MACRON = (
    *((0, 244), (0, 181), (18, 173), (35, 165), (52, 160), (64, 152), (71, 140), (70, 131)),
    *((67, 122), (62, 121), (59, 112), (55, 104), (55, 97), (56, 94), (53, 86), (51, 76)),
    *((51, 66), (52, 56), (56, 48), (62, 40), (70, 33), (80, 27), (90, 23), (100, 21.5)),
    *((110, 23), (120, 27), (130, 33), (138, 41), (143, 50), (146, 60), (146, 72), (145, 80)),
    *((146, 85), (147, 91), (146, 99), (144, 106), (141, 110), (139, 119), (137, 128)),
    *((135, 139), (139, 148), (148, 154), (160, 159), (175, 164), (190, 169), (204, 174)),
    (204, 244),
)
PLACES = (  # from back to front
    Place("emmanuel_macron_2014.jpg", 2.6, 515, outline=MACRON),
    Place("jacinda_ardern_2022.jpg", 0.92, -20),
    Place("rishi_sunak.jpg", 0.92, 925, light=1.08),
)


def person(pixels: Pixels, eyes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(H, W) mask of the person whose eyes, (2, 2) image-left first, are given."""
    height, width = pixels.shape[:2]
    x, y = eyes.mean(axis=0)
    unit = float(np.linalg.norm(eyes[1] - eyes[0]))
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)

    def ellipse(down: float, across: float, along: float, value: int) -> None:
        centre, axes = (round(x), round(y + down * unit)), (across * unit, along * unit)
        cv2.ellipse(mask, centre, (round(axes[0]), round(axes[1])), 0, 0, 360, value, -1)

    def body(wide: float, high: float, value: int) -> None:
        corners = [(-wide, 9.0), (-wide * 0.8, high + 0.9), (-0.6, high), (0.6, high)]
        corners += [(wide * 0.8, high + 0.9), (wide, 9.0)]
        outline = np.array([(x + a * unit, y + b * unit) for a, b in corners])
        cv2.fillPoly(mask, [outline.round().astype(np.int32)], value)

    body(6.0, 1.6, cv2.GC_PR_BGD)
    ellipse(0.6, 2.6, 3.4, cv2.GC_PR_BGD)
    body(3.4, 2.2, cv2.GC_PR_FGD)
    ellipse(0.2, 1.35, 1.9, cv2.GC_PR_FGD)
    body(1.6, 3.0, cv2.GC_FGD)
    ellipse(0.0, 1.0, 1.7, cv2.GC_FGD)
    cv2.setRNGSeed(0)
    model = np.zeros((1, 65))
    cv2.grabCut(pixels, mask, (0, 0, 0, 0), model, model.copy(), 8, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    assert count > 1
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    whole = (labels == largest).astype(np.uint8) * 255
    whole = np.asarray(cv2.morphologyEx(whole, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    return rounded(whole, unit)


def rounded(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """The mask with shoulders where the portrait's edge cuts arms off: its corners rounded."""
    height, width = mask.shape
    rows = np.arange(height)[:, None]
    inwards = np.minimum(np.arange(width), np.arange(width)[::-1])
    drop = radius - np.sqrt(np.maximum(radius**2 - np.maximum(radius - inwards, 0) ** 2, 0))
    first = np.where(mask.any(axis=0), mask.argmax(axis=0), height)
    return np.where(rows >= first + drop, mask, 0).astype(np.uint8)


def main() -> None:
    """Compose and write `probes/group.jpg`."""
    detector = Detector(DetectSpec())
    down = np.linspace(0, 1, HEIGHT)[:, None, None]
    canvas = np.broadcast_to(
        np.array(TOP) * (1 - down) + np.array(BOTTOM) * down, (HEIGHT, WIDTH, 3)
    )
    canvas = canvas + np.random.default_rng(0).normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    for place in PLACES:
        photo = read_photo(PHOTOS / place.name)
        if place.outline:
            mask = np.zeros(photo.pixels.shape[:2], np.uint8)
            points = np.array([place.outline]) * 16  # four fractional bits
            cv2.fillPoly(mask, list(points.round().astype(np.int32)), 255, cv2.LINE_AA, shift=4)
        else:
            mask = person(photo.pixels, detector.detect(photo).landmarks[0, :2].astype(np.float64))
        lower = HEIGHT + 4 - place.scale * photo.pixels.shape[0]
        matrix = np.array([[place.scale, 0, place.left], [0, place.scale, lower]])
        image = cv2.warpAffine(photo.pixels, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        alpha = cv2.warpAffine(mask / 255, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        alpha = cv2.GaussianBlur(alpha, (0, 0), FEATHER * max(1.0, place.scale))
        share = np.clip((alpha - 0.35) / 0.5, 0, 1)[:, :, None]  # a little inwards
        canvas = canvas * (1 - share) + image * (place.light * share)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    cv2.imwrite(str(PHOTOS / "group.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main()
