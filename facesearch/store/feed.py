"""What the index reads: every face at one revision, or what changed since another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, func, select
from sqlalchemy.orm import InstrumentedAttribute

from facesearch.store import vectors
from facesearch.store.collections import Collection, of, require_unchanged
from facesearch.store.database import Database
from facesearch.store.tables import CollectionRow, FaceRow, RemovalRow
from facesearch.values import I64, Changes, FaceRows

BATCH = 16_384
"""Rows read from the database at a time."""
_LOOKUP = 16_384
"""Ids named in one statement; SQLite takes 32,766, Postgres 65,535."""


@contextmanager
def snapshot(
    database: Database, collection: Collection
) -> Iterator[tuple[int, Iterator[FaceRows]]]:
    """The collection's revision and all its faces at it, in batches by ascending face id.

    The batches are read inside one transaction, which ends with them: while it lasts, SQLite's
    write-ahead log only grows. Consume them before the block ends.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    with remaining(database, collection, 0, 0) as rest:
        yield rest.revision, rest.batches


@dataclass(frozen=True, slots=True)
class Remaining:
    """What whoever copied a part of the faces has still to copy.

    Attributes:
        revision: the collection's revision that this is at.
        size: faces of the collection.
        removed: (N,) int64 faces that were removed since it was begun.
        batches: the faces to copy, in batches by ascending id.
    """

    revision: int
    size: int
    removed: I64
    batches: Iterator[FaceRows]


@contextmanager
def remaining(
    database: Database, collection: Collection, since: int, after: int
) -> Iterator[Remaining]:
    """What is left of a copy that was begun: `snapshot`, without what is copied and as it was.

    Args:
        database: the store.
        collection: whose faces.
        since: the revision that the copy was begun at; 0 for a new one.
        after: the face id up to which it came; 0 for a new one.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    with database.read() as connection:
        require_unchanged(connection, collection)
        revision = connection.execute(
            select(CollectionRow.revision).where(CollectionRow.id == collection.id)
        ).scalar_one()
        size = _size(connection, collection)
        removed = _removed(connection, collection, since) if since else []
        wanted = vectors.faces(collection).where(FaceRow.collection_id == collection.id)
        if after:
            wanted = wanted.where((FaceRow.id > after) | vectors.changed_since(collection, since))
        result = connection.execution_options(yield_per=BATCH).execute(wanted.order_by(FaceRow.id))

        def batches() -> Iterator[FaceRows]:
            for part in result.partitions():
                yield _rows(part, collection.contract.dim)
            connection.rollback()

        yield Remaining(revision, size, np.array(removed, np.int64), batches())


def changes(database: Database, collection: Collection, since: int) -> Changes:
    """Everything that happened to the collection's faces after revision `since`.

    Raises:
        ModelChangedError: the collection went over to another model since it was looked up.
    """
    return changes_and_size(database, collection, since, sized=False)[0]


def changes_and_size(
    database: Database, collection: Collection, since: int, *, sized: bool = True
) -> tuple[Changes, int]:
    """`changes`, and how many faces the collection has then; 0 unless `sized`."""
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
            removed = _removed(connection, collection, since)
        size = _size(connection, collection) if sized else 0
        return Changes(
            revision, _rows(rows, collection.contract.dim), np.array(removed, dtype=np.int64)
        ), size


def size(database: Database, collection: Collection) -> tuple[int, int]:
    """The collection's revision, and how many faces it has at it."""
    with database.read() as connection:
        revision = connection.execute(
            select(CollectionRow.revision).where(CollectionRow.id == collection.id)
        ).scalar_one()
        return revision, _size(connection, collection)


def changed(database: Database, collection: Collection, since: int) -> int:
    """How many faces were added, changed or removed after revision `since`."""
    upserts = select(func.count()).select_from(FaceRow)
    upserts = upserts.where(vectors.changed_since(collection, since))
    removed = select(func.count()).where(
        RemovalRow.collection_id == collection.id, RemovalRow.revision > since
    )
    with database.read() as connection:
        return connection.execute(upserts).scalar_one() + connection.execute(removed).scalar_one()


def faces(database: Database, collection: Collection, face_ids: Sequence[int]) -> FaceRows:
    """Those of the collection's faces that exist, by ascending id."""
    return _chosen(database, collection, FaceRow.id, face_ids)


def faces_of(database: Database, collection: Collection, identity_ids: Sequence[int]) -> FaceRows:
    """Every face of these identities of the collection, by ascending id."""
    return _chosen(database, collection, FaceRow.identity_id, identity_ids)


def between(database: Database, collection: Collection, first: int, last: int) -> FaceRows:
    """The collection's faces with ids from `first` up to but not including `last`, ascending."""
    query = vectors.faces(collection).where(FaceRow.collection_id == collection.id)
    with database.read() as connection:
        require_unchanged(connection, collection)
        rows = connection.execute(
            query.where(FaceRow.id >= first, FaceRow.id < last).order_by(FaceRow.id)
        ).all()
    return _rows(rows, collection.contract.dim)


def last_face(database: Database, collection: Collection) -> int:
    """The largest face id of the collection; 0 if it has none."""
    query = select(func.max(FaceRow.id)).where(FaceRow.collection_id == collection.id)
    with database.read() as connection:
        return connection.execute(query).scalar() or 0


def enrolled(
    database: Database, collection: Collection, identity_ids: Sequence[int] | None = None
) -> tuple[int, int]:
    """How many identities have faces, and how many faces those are.

    Args:
        database: the store.
        collection: whose.
        identity_ids: distinct; count only these. None for all.
    """
    query = select(func.count(FaceRow.identity_id.distinct()), func.count()).where(
        FaceRow.identity_id.is_not(None)
    )
    people = faces = 0
    with database.read() as connection:
        if identity_ids is None:
            everybody = query.where(FaceRow.collection_id == collection.id)
            people, faces = connection.execute(everybody).one()
        query = query.where(of(collection, FaceRow.collection_id))
        for start in range(0, len(identity_ids or ()), _LOOKUP):
            some = (identity_ids or ())[start : start + _LOOKUP]
            found = connection.execute(query.where(FaceRow.identity_id.in_(some))).one()
            people, faces = people + found[0], faces + found[1]
    return people, faces


def owners(database: Database, collection: Collection, face_ids: Sequence[int]) -> I64:
    """Whose those of the faces are that exist: int64 identity ids, 0 for nobody's."""
    found: list[int] = []
    query = select(func.coalesce(FaceRow.identity_id, 0)).where(
        of(collection, FaceRow.collection_id)
    )
    with database.read() as connection:
        for start in range(0, len(face_ids), _LOOKUP):
            some = face_ids[start : start + _LOOKUP]
            found += connection.execute(query.where(FaceRow.id.in_(some))).scalars()
    return np.array(found, np.int64)


def _chosen(
    database: Database,
    collection: Collection,
    column: InstrumentedAttribute[Any],
    ids: Sequence[int],
) -> FaceRows:
    rows: list[Row[int, int | None, bytes]] = []
    query = vectors.faces(collection).where(of(collection, FaceRow.collection_id))
    with database.read() as connection:
        require_unchanged(connection, collection)
        for start in range(0, len(ids), _LOOKUP):
            rows += connection.execute(query.where(column.in_(ids[start : start + _LOOKUP])))
    return _rows(sorted(rows, key=lambda row: row[0]), collection.contract.dim)


def _removed(connection: Connection, collection: Collection, since: int) -> list[int]:
    """Faces that were removed after a revision."""
    query = select(RemovalRow.face_id).where(
        RemovalRow.collection_id == collection.id, RemovalRow.revision > since
    )
    return list(connection.execute(query).scalars())


def _size(connection: Connection, collection: Collection) -> int:
    """How many of its faces have a vector in the collection's set."""
    mine = vectors.faces(collection).where(FaceRow.collection_id == collection.id)
    return connection.execute(
        mine.with_only_columns(func.count(), maintain_column_froms=True)
    ).scalar_one()


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
