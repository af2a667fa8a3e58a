"""Faces that were found and, by the policy at ingestion, not stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import func, select

from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.paths import from_text
from facesearch.store.tables import FileRow, RejectionRow


@dataclass(frozen=True, slots=True)
class Rejection:
    """A face that is not stored, and why.

    Attributes:
        photo: path of the photo.
        ordinal: its number in the photo, as `identify` prints it.
        box: x1 y1 x2 y2, pixels of the upright photo.
        quality: 0 to 1.
        reason: one line.
    """

    photo: str
    ordinal: int
    box: tuple[float, float, float, float]
    quality: float
    reason: str


def rejections(database: Database, collection: Collection | None = None) -> Iterator[Rejection]:
    """Every rejected face, by photo."""
    path = (
        select(func.min(FileRow.path))
        .where(FileRow.photo_id == RejectionRow.photo_id)
        .correlate(RejectionRow)
        .scalar_subquery()
    )
    r = RejectionRow
    query = select(path, r.ordinal, r.x1, r.y1, r.x2, r.y2, r.quality, r.reason)
    if collection is not None:
        query = query.where(r.collection_id == collection.id)
    with database.read() as connection:
        for row in connection.execute(query.order_by(path, r.ordinal)):
            box = (row[2], row[3], row[4], row[5])
            yield Rejection(from_text(row[0] or ""), row[1], box, row[6], row[7])
