"""What the index reads: every face at one revision, or what changed since another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from sqlalchemy import Row, func, select

from facesearch.store import vectors
from facesearch.store.collections import Collection, require_unchanged
from facesearch.store.database import Database
from facesearch.store.tables import CollectionRow, FaceRow, RemovalRow
from facesearch.values import Changes, FaceRows

BATCH = 16_384
"""Rows read from the database at a time."""


@contextmanager
def snapshot(
    database: Database, collection: Collection
) -> Iterator[tuple[int, Iterator[FaceRows]]]:
    """The collection's revision and all its faces at it, in batches by ascending face id.

    The batches are read inside one transaction: consume them before the block ends.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    with database.read() as connection:
        require_unchanged(connection, collection)
        revision = connection.execute(
            select(CollectionRow.revision).where(CollectionRow.id == collection.id)
        ).scalar_one()
        result = connection.execution_options(yield_per=BATCH).execute(
            vectors.faces(collection)
            .where(FaceRow.collection_id == collection.id)
            .order_by(FaceRow.id)
        )
        yield revision, (_rows(part, collection.contract.dim) for part in result.partitions())


def changes(database: Database, collection: Collection, since: int) -> Changes:
    """Everything that happened to the collection's faces after revision `since`.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    with database.read() as connection:
        require_unchanged(connection, collection)
        revision = connection.execute(
            select(CollectionRow.revision).where(CollectionRow.id == collection.id)
        ).scalar_one()
        if revision == since:
            rows: Sequence[Row[int, int | None, bytes]] = []
            removed: list[int] = []
        else:
            rows = connection.execute(
                vectors.faces(collection)
                .where(vectors.changed_since(collection, since))
                .order_by(FaceRow.id)
            ).all()
            removed = list(
                connection.execute(
                    select(RemovalRow.face_id).where(
                        RemovalRow.collection_id == collection.id, RemovalRow.revision > since
                    )
                ).scalars()
            )
        return Changes(
            revision, _rows(rows, collection.contract.dim), np.array(removed, dtype=np.int64)
        )


def faces(database: Database, collection: Collection, face_ids: Sequence[int]) -> FaceRows:
    """Those of the faces that exist, by ascending id.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    query = vectors.faces(collection).where(FaceRow.id.in_(face_ids)).order_by(FaceRow.id)
    with database.read() as connection:
        require_unchanged(connection, collection)
        rows = connection.execute(query).all()
    return _rows(rows, collection.contract.dim)


def one_face_a_person(database: Database, collection: Collection, limit: int) -> FaceRows:
    """The oldest face of each of the `limit` people who have been enrolled longest.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    first = (
        select(func.min(FaceRow.id))
        .where(FaceRow.collection_id == collection.id, FaceRow.identity_id.is_not(None))
        .group_by(FaceRow.identity_id)
        .order_by(FaceRow.identity_id)
        .limit(limit)
    )
    query = vectors.faces(collection).where(FaceRow.id.in_(first)).order_by(FaceRow.id)
    with database.read() as connection:
        require_unchanged(connection, collection)
        rows = connection.execute(query).all()
    return _rows(rows, collection.contract.dim)


def _rows(rows: Sequence[Row[int, int | None, bytes]], dim: int) -> FaceRows:
    n = len(rows)
    return FaceRows(
        np.fromiter((row[0] for row in rows), np.int64, n),
        np.fromiter((row[1] or 0 for row in rows), np.int64, n),
        np.frombuffer(b"".join(row[2] for row in rows), dtype="<f2").reshape(n, dim),
    )
