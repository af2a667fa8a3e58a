"""Small pictures of faces, as data URIs for a page that stands alone."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from facesearch.engine import Engine
from facesearch.errors import PhotoError
from facesearch.evaluate.evaluation import Evaluation
from facesearch.evaluate.report import SHOWN, Pictures, worst
from facesearch.evaluate.run import Box, Run
from facesearch.photos.decode import read_photo
from facesearch.settings import PhotoLimits
from facesearch.store import gallery

SIDE = 96
"""Pixels of a picture's side."""
MARGIN = 0.3
"""Shown around a face, as a share of its box's longer side."""
QUALITY = 70
BUDGET = 2_500_000
"""Bytes of all pictures of a page, encoded; those that come later are left out."""


def pictures(engine: Engine, found: Run, measured: Evaluation) -> Pictures:
    """Pictures of the worst errors and of the labels in doubt, most telling first.

    Args:
        engine: that was searched.
        found: what was searched.
        measured: what came of it.
    """
    rows: list[int] = []
    people: list[str] = []
    for miss in worst(measured.budget):
        rows.append(miss.probe)
        people += [miss.person, miss.offered or ""]
    for suspect in (*measured.audit.strangers[:SHOWN], *measured.audit.swapped[:SHOWN]):
        rows.append(suspect.probe)
        people += [suspect.offered, suspect.person]
    for pair in measured.audit.twins[:SHOWN]:
        people += [pair.first, pair.second]
    wanted = [p for p in dict.fromkeys(people) if p in found.face_ids]
    faces = gallery.faces_by_id(engine.database, [found.face_ids[p] for p in wanted])
    enrolled = {p: faces[found.face_ids[p]] for p in wanted if found.face_ids[p] in faces}
    limits, room = engine.settings.photos, BUDGET
    probes: dict[int, str] = {}
    shown: dict[str, str] = {}
    for row in dict.fromkeys(rows):
        probes[row] = thumbnail(found.files[row], found.boxes[row], limits)
        room -= len(probes[row])
        if room < 0:
            del probes[row]
            break
    for person, face in enrolled.items():
        shown[person] = thumbnail(face.photo, face.box, limits)
        room -= len(shown[person])
        if room < 0:
            del shown[person]
            break
    return Pictures(probes, shown, {person: face.photo for person, face in enrolled.items()})


def thumbnail(path: str, box: Box | None, limits: PhotoLimits) -> str:
    """A face cut from its photo, or the whole photo, as a data URI; "" if it cannot be read."""
    try:
        photo = read_photo(path, limits, None if box else 4 * SIDE)
    except PhotoError:
        return ""
    image = Image.fromarray(np.ascontiguousarray(photo.pixels[..., ::-1]))
    if box is not None:
        x1, y1, x2, y2 = (np.array(box) * np.array(photo.scale * 2)).tolist()
        half = max(x2 - x1, y2 - y1) * (0.5 + MARGIN)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        image = image.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
