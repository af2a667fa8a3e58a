"""Stored crops: the aligned pixels of faces, as they were embedded, for those who ask for them.

They lie in the database, beside their faces: stored in the same transaction, gone with them, and
overwritten as they are. PNG, so that a face embedded from its crop comes out as from its photo.
OpenCV is imported where a crop is: few libraries store any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, func, select

from facesearch.errors import StoreError
from facesearch.store import bulk
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.tables import CropRow, FaceRow
from facesearch.values import Crops, Pixels

_COMPRESSION = 1
"""Of PNG. 0.8 ms and 21 KB a face; the best compression saves 4 % and takes three times as long."""
_LOOKUP = 500


def write(connection: Connection, pictures: Mapping[tuple[int, int], Pixels]) -> None:
    """Store the crops of new faces, by (photo id, ordinal)."""
    photos = {photo for photo, _ in pictures}
    if not photos:
        return
    query = select(FaceRow.id, FaceRow.photo_id, FaceRow.ordinal)
    rows = [
        {"face_id": face_id, "png": _encoded(pictures[key])}
        for face_id, *place in connection.execute(query.where(FaceRow.photo_id.in_(photos)))
        if (key := (place[0], place[1])) in pictures
    ]
    bulk.insert_rows(connection, CropRow, rows)


def of_faces(database: Database, face_ids: Iterable[int]) -> dict[int, Crops]:
    """The crops of those of the faces that have one, each (112, 112, 3) BGR, by face id.

    Raises:
        StoreError: one is damaged.
    """
    wanted, found = list(face_ids), {}
    with database.read() as connection:
        for start in range(0, len(wanted), _LOOKUP):
            part: Sequence[int] = wanted[start : start + _LOOKUP]
            query = select(CropRow.face_id, CropRow.png).where(CropRow.face_id.in_(part))
            for face_id, png in connection.execute(query):
                found[face_id] = _decoded(face_id, png)
    return found


def damaged(database: Database, collection: Collection) -> list[str]:
    """What is wrong with the stored crops of a collection, a line each."""
    problems = []
    faces = select(FaceRow.id).where(FaceRow.collection_id == collection.id)
    query = select(CropRow.face_id, CropRow.png).where(CropRow.face_id.in_(faces))
    with database.read() as connection:
        for face_id, png in connection.execute(query.execution_options(yield_per=_LOOKUP)):
            try:
                _decoded(face_id, png)
            except StoreError as err:
                problems.append(str(err))
    return problems


def count(database: Database, collection: Collection) -> int:
    """How many faces of a collection have a stored crop."""
    query = select(func.count(CropRow.face_id)).join(FaceRow, FaceRow.id == CropRow.face_id)
    with database.read() as connection:
        return connection.execute(query.where(FaceRow.collection_id == collection.id)).scalar_one()


def _encoded(picture: Pixels) -> bytes:
    import cv2

    return cv2.imencode(".png", picture, (cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION))[1].tobytes()


def _decoded(face_id: int, png: bytes) -> Crops:
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape != (112, 112, 3):
        raise StoreError(f"face {face_id}: its stored crop is damaged; re-read its photo")
    return np.asarray(pixels, np.uint8)
