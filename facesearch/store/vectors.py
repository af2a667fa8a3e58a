"""Vectors of the same faces by several models.

A collection searches the vectors of one model: the set whose number `collections.vectors` is. Set 0
is of the model it was created with and lies in `faces.embedding`; the others lie in `vectors`. To
go over to another model is to fill its set beside the one in use, and then to change that number.

Whatever reads or writes vectors of a collection checks, in its transaction, that the number is
still the one it knows (`collections.require_unchanged`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, select, union

from facesearch.store import bulk
from facesearch.store.collections import Collection
from facesearch.store.tables import FaceRow, VectorRow

NONE = b""
"""`faces.embedding` of a face that has no vector in set 0."""


def faces(collection: Collection) -> Select[int, int | None, bytes]:
    """Id, identity and vector of the faces that have one in the collection's set."""
    if collection.vectors == 0:
        columns = select(FaceRow.id, FaceRow.identity_id, FaceRow.embedding)
        return columns.where(func.length(FaceRow.embedding) > 0)
    both = (VectorRow.face_id == FaceRow.id) & (VectorRow.set_id == collection.vectors)
    return select(FaceRow.id, FaceRow.identity_id, VectorRow.embedding).join(VectorRow, both)


def lacking(collection: Collection) -> ColumnElement[bool]:
    """Condition: faces of the collection that have no vector in its set."""
    mine = FaceRow.collection_id == collection.id
    if collection.vectors == 0:
        return mine & (func.length(FaceRow.embedding) == 0)
    there = select(VectorRow.face_id).where(
        VectorRow.face_id == FaceRow.id, VectorRow.set_id == collection.vectors
    )
    return mine & ~there.exists()


def changed_since(collection: Collection, revision: int) -> ColumnElement[bool]:
    """Condition: faces of the collection that changed, or whose vector came, after a revision."""
    changed = (FaceRow.collection_id == collection.id) & (FaceRow.changed > revision)
    if collection.vectors == 0:
        return changed
    came = select(VectorRow.face_id).where(
        VectorRow.set_id == collection.vectors, VectorRow.changed > revision
    )
    return FaceRow.id.in_(union(select(FaceRow.id).where(changed), came))


def insert_faces(
    connection: Connection, collection: Collection, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert faces, each with its vector as `embedding`, which goes to the collection's set."""
    if collection.vectors == 0:
        bulk.insert_rows(connection, FaceRow, [dict(row) for row in rows])
        return
    made = connection.execute(
        insert(FaceRow).returning(FaceRow.id, FaceRow.photo_id, FaceRow.ordinal),
        [{**row, "embedding": NONE} for row in rows],
    )
    ids = {(photo, ordinal): face for face, photo, ordinal in made}
    connection.execute(
        insert(VectorRow),
        [
            {
                "face_id": ids[row["photo_id"], row["ordinal"]],
                "set_id": collection.vectors,
                "embedding": row["embedding"],
                "changed": row["changed"],
            }
            for row in rows
        ],
    )
