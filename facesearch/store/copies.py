"""Photos that are copies: which files hold the same bytes, and what photos look like."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.paths import from_text
from facesearch.store.tables import FileRow, PhotoRow
from facesearch.values import I64

_LOOKUP = 500


def same_bytes(database: Database, collection: Collection) -> list[list[str]]:
    """The paths of every photo that several files hold, by path."""
    several = (
        select(FileRow.photo_id)
        .where(FileRow.collection_id == collection.id, FileRow.photo_id.is_not(None))
        .group_by(FileRow.photo_id)
        .having(func.count() > 1)
    )
    query = select(FileRow.photo_id, FileRow.path).where(FileRow.photo_id.in_(several))
    found: dict[int, list[str]] = {}
    with database.read() as connection:
        for photo_id, path in connection.execute(query.order_by(FileRow.path)):
            found.setdefault(photo_id or 0, []).append(from_text(path))
    return list(found.values())


def hashes(database: Database, collection: Collection) -> tuple[I64, NDArray[np.uint64], int]:
    """Photo ids, their perceptual hashes, and how many photos have none."""
    query = select(PhotoRow.id, PhotoRow.phash).where(PhotoRow.collection_id == collection.id)
    with database.read() as connection:
        hashed = query.where(PhotoRow.phash.is_not(None)).order_by(PhotoRow.id)
        rows = np.array([tuple(row) for row in connection.execute(hashed)], np.int64)
        missing = query.where(PhotoRow.phash.is_(None)).with_only_columns(func.count())
        without = connection.execute(missing).scalar_one()
    rows = rows.reshape(-1, 2)
    return rows[:, 0], rows[:, 1].astype(np.uint64), without


def paths_of(database: Database, photo_ids: Iterable[int]) -> dict[int, str]:
    """One path, the first, of each photo."""
    wanted = list(photo_ids)
    found: dict[int, str] = {}
    with database.read() as connection:
        for start in range(0, len(wanted), _LOOKUP):
            part = wanted[start : start + _LOOKUP]
            query = select(FileRow.photo_id, func.min(FileRow.path)).group_by(FileRow.photo_id)
            for photo_id, path in connection.execute(query.where(FileRow.photo_id.in_(part))):
                found[photo_id or 0] = from_text(path)
    return found
