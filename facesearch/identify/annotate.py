"""The annotated picture: boxes, names and scores drawn on the probe photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facesearch.errors import LibraryError, UsageError
from facesearch.identify.decide import Identification
from facesearch.values import Decision, Photo, Pixels, ProbeFace

MATCH_COLOUR = (34, 160, 70)
UNKNOWN_COLOUR = (205, 60, 40)


def annotate(photo: Photo, identification: Identification) -> Pixels:
    """A copy of the photo's pixels with every probe face boxed and labelled.

    Green boxes carry the name of the match; red ones say "unknown" and, smaller, the best candidate
    below the threshold. Text never leaves the picture and labels do not cover each other where
    there is room.

    Args:
        photo: the probe, at any decode scale.
        identification: its answer; boxes are in pixels of the original.

    Returns:
        (H, W, 3) uint8 BGR, the size of `photo.pixels`.
    """
    canvas = Image.fromarray(np.ascontiguousarray(photo.pixels[..., ::-1]))
    draw = ImageDraw.Draw(canvas)
    unit = max(canvas.size) / 100
    scale = np.array(photo.scale * 2)
    placed: list[tuple[float, float, float, float]] = []
    for number, face in enumerate(identification.faces):
        x1, y1, x2, y2 = (np.array(face.box) * scale).tolist()
        colour = MATCH_COLOUR if face.decision is Decision.MATCH else UNKNOWN_COLOUR
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(2, round(unit / 4)))
        font = ImageFont.load_default(size=max(11.0, min(2.4 * unit, (x2 - x1) / 6)))
        label = _label(number, face)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), label, font=font)
        width, height = right - left + unit, bottom - top + unit
        spots = [(x1, y1 - height), (x1, y2), (x1, y1), (x1, y2 - height)]
        rectangles = [_inside(canvas.size, x, y, width, height) for x, y in spots]
        free = [r for r in rectangles if not any(_overlap(r, other) for other in placed)]
        spot = (free or rectangles)[0]
        placed.append(spot)
        draw.rectangle(spot, fill=colour)
        draw.multiline_text(
            (spot[0] + unit / 2 - left, spot[1] + unit / 2 - top), label, fill="white", font=font
        )
    return np.ascontiguousarray(np.asarray(canvas)[..., ::-1])


def _label(number: int, face: ProbeFace) -> str:
    if face.decision is Decision.MATCH:
        return f"{face.candidates[0].name}\n{face.candidates[0].score:.3f} (#{number})"
    if face.decision is Decision.INSUFFICIENT:
        return f"too poor to say (#{number})"
    if face.candidates:
        best = face.candidates[0]
        return f"unknown (#{number})\nbest {best.score:.3f} < {face.threshold.value:.3f}"
    return f"unknown (#{number})"


def _inside(
    size: tuple[int, int], x: float, y: float, width: float, height: float
) -> tuple[float, float, float, float]:
    x = min(max(0.0, x), max(0.0, size[0] - width))
    y = min(max(0.0, y), max(0.0, size[1] - height))
    return x, y, x + width, y + height


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def save(pixels: Pixels, path: Path) -> None:
    """Write (H, W, 3) uint8 BGR pixels in the format that the suffix of `path` names.

    Raises:
        UsageError: no format has that suffix.
        LibraryError: the file cannot be written.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)
    except ValueError as err:
        raise UsageError(f"{path}: write the picture as .jpg, .png or .webp") from err
    except OSError as err:
        raise LibraryError(f"{path}: the picture cannot be written ({err.strerror})") from err
