"""Re-embedding of a collection by another model: who has which photo in hand, and what came of it.

Photos are claimed as files are at ingestion (`facesearch.store.leases`): a row of `reembeddings`
with the worker's id; it goes when the photo's vectors are stored, and stays, with a reason, where
they could not be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, or_, select, update

from facesearch.store import jobs, vectors
from facesearch.store.collections import Collection, bump
from facesearch.store.database import Database, insert_new
from facesearch.store.paths import from_text, to_text
from facesearch.store.tables import FaceRow, FileRow, PhotoRow, ReembeddingRow, VectorRow
from facesearch.values import F32, I64, Detections, Failure

CLAIM_PHOTOS = 64
"""Photos taken in hand at once."""


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """A photo whose faces are to be embedded anew.

    Attributes:
        id: of the photo.
        sha256: of its bytes.
        size: (width, height), pixels.
        paths: files that hold it.
        face_ids: (N,) int64 of the faces that lack a vector.
        detections: the same N faces.
    """

    id: int
    sha256: str
    size: tuple[int, int]
    paths: tuple[str, ...]
    face_ids: I64
    detections: Detections


@dataclass(frozen=True, slots=True)
class Embedded:
    """New vectors, (N, D) float32, of a photo's faces, (N,) int64."""

    photo: int
    face_ids: I64
    vectors: F32


def free(database: Database, of: Collection) -> None:
    """Let photos that failed before, and those of dead workers, be claimed again."""
    mine = ReembeddingRow.set_number == of.vectors, ReembeddingRow.photo_id.in_(photos_of(of))
    with database.write() as connection:
        connection.execute(delete(ReembeddingRow).where(*mine, ReembeddingRow.lease.is_(None)))


def claim(database: Database, of: Collection, worker: int, after: int) -> list[StoredPhoto]:
    """Take photos in hand of which a face lacks a vector in the set, by ascending id.

    Args:
        database: the store.
        of: a view of the collection by the set.
        worker: the caller.
        after: only photos of larger ids.

    Returns:
        At most `CLAIM_PHOTOS`; none if there are none, or all are in others' hands or failed.
    """
    row = ReembeddingRow
    with database.write() as connection:
        held = select(row.lease).where(row.set_number == of.vectors, row.lease.is_not(None))
        holders = {lease for lease in connection.execute(held.distinct()).scalars() if lease}
        gone = jobs.dead(connection, holders - {worker})
        taken = (
            select(row.id)
            .where(row.set_number == of.vectors, row.photo_id == FaceRow.photo_id)
            .where(row.reason.is_not(None) | (row.lease.is_not(None) & row.lease.not_in(gone)))
        )
        wanted = connection.execute(
            select(FaceRow.photo_id)
            .where(vectors.lacking(of), FaceRow.photo_id > after, ~taken.exists())
            .distinct()
            .order_by(FaceRow.photo_id)
            .limit(CLAIM_PHOTOS)
        ).scalars()
        photos = list(wanted)
        if not photos:
            return []
        stale = (row.set_number == of.vectors) & row.photo_id.in_(photos)
        connection.execute(delete(row).where(stale, or_(row.lease.is_(None), row.lease.in_(gone))))
        claimed = connection.execute(
            insert_new(connection, row).returning(row.photo_id),
            [
                {"set_number": of.vectors, "photo_id": photo, "lease": worker, "attempts": 0}
                for photo in photos
            ],
        ).scalars()
        return _stored(connection, of, sorted(claimed))


def in_hand(database: Database, of: Collection, worker: int) -> bool:
    """Whether another living worker has photos of this set in hand."""
    row = ReembeddingRow
    with database.read() as connection:
        held = select(row.lease).where(
            row.set_number == of.vectors,
            row.lease.is_not(None),
            row.lease != worker,
            row.photo_id.in_(photos_of(of)),
        )
        holders = {lease for lease in connection.execute(held.distinct()).scalars() if lease}
        return bool(holders - jobs.dead(connection, holders))


def record(
    database: Database,
    of: Collection,
    worker: int,
    done: Sequence[Embedded],
    failed: Sequence[tuple[int, str, str]],
) -> int:
    """Store vectors of photos that `worker` still has in hand, and why others have none.

    Args:
        database: the store.
        of: a view of the collection by the set.
        worker: the caller.
        done: a few hundred photos at most.
        failed: (photo, reason, detail).

    Returns:
        The number of vectors stored. Faces erased meanwhile get none.
    """
    row = ReembeddingRow
    with database.write() as connection:
        revision = bump(connection, of.id)
        mine = row.set_number == of.vectors, row.lease == worker
        held = set(
            connection.execute(
                delete(row)
                .where(*mine, row.photo_id.in_([one.photo for one in done]))
                .returning(row.photo_id)
            ).scalars()
        )
        found = {
            face: vector.tobytes()
            for one in done
            if one.photo in held
            for face, vector in zip(one.face_ids.tolist(), one.vectors.astype("<f2"), strict=True)
        }
        there = connection.execute(
            select(FaceRow.id).where(FaceRow.id.in_(found), vectors.lacking(of))
        ).scalars()
        stored = [(face, found[face]) for face in there]
        _write(connection, of, stored, revision)
        for photo, reason, detail in failed:
            connection.execute(
                update(row)
                .where(*mine, row.photo_id == photo)
                .values(
                    lease=None, reason=reason, detail=to_text(detail), attempts=row.attempts + 1
                )
            )
        return len(stored)


def failures(database: Database, of: Collection) -> list[Failure]:
    """The photos whose faces could not be embedded, a path each, with the reason."""
    path = (
        select(func.min(FileRow.path))
        .where(FileRow.photo_id == ReembeddingRow.photo_id)
        .scalar_subquery()
    )
    query = (
        select(path, ReembeddingRow.reason, ReembeddingRow.detail)
        .where(
            ReembeddingRow.set_number == of.vectors,
            ReembeddingRow.reason.is_not(None),
            ReembeddingRow.photo_id.in_(photos_of(of)),
        )
        .order_by(path)
    )
    with database.read() as connection:
        return [
            Failure(from_text(where or "(no file)"), reason or "", detail or "")
            for where, reason, detail in connection.execute(query)
        ]


def photos_of(of: Collection):  # type: ignore[no-untyped-def]
    """Selects the ids of the collection's photos."""
    return select(PhotoRow.id).where(PhotoRow.collection_id == of.id)


def _write(
    connection: Connection, of: Collection, stored: Sequence[tuple[int, bytes]], revision: int
) -> None:
    """Store vectors, each of a face, in the set."""
    if not stored:
        return
    if of.vectors == 0:
        connection.execute(
            update(FaceRow)
            .where(FaceRow.id == bindparam("face"))
            .values(embedding=bindparam("vector"), changed=revision),
            [{"face": face, "vector": vector} for face, vector in stored],
        )
        return
    connection.execute(
        insert(VectorRow),
        [
            {"face_id": face, "set_id": of.vectors, "embedding": vector, "changed": revision}
            for face, vector in stored
        ],
    )


def _stored(connection: Connection, of: Collection, photos: Sequence[int]) -> list[StoredPhoto]:
    """The photos, with the faces that lack a vector in the set."""
    sizes = {
        photo: (sha256, (width, height))
        for photo, sha256, width, height in connection.execute(
            select(PhotoRow.id, PhotoRow.sha256, PhotoRow.width, PhotoRow.height).where(
                PhotoRow.id.in_(photos)
            )
        )
    }
    paths: dict[int, list[str]] = {}
    files = select(FileRow.photo_id, FileRow.path).where(FileRow.photo_id.in_(photos))
    for photo, path in connection.execute(files.order_by(FileRow.path)):
        paths.setdefault(photo or 0, []).append(from_text(path))
    f = FaceRow
    rows: dict[int, list[Row[*tuple[object, ...]]]] = {}
    query = select(f.photo_id, f.id, f.x1, f.y1, f.x2, f.y2, f.score, f.landmarks)
    query = query.where(vectors.lacking(of), f.photo_id.in_(photos))
    for row in connection.execute(query.order_by(f.photo_id, f.ordinal)):
        rows.setdefault(row.photo_id, []).append(row)
    return [
        StoredPhoto(
            photo,
            *sizes[photo],
            tuple(paths.get(photo, ())),
            np.array([row.id for row in found], np.int64),
            Detections(
                np.array([(row.x1, row.y1, row.x2, row.y2) for row in found], np.float32),
                np.frombuffer(b"".join(row.landmarks for row in found), "<f4").reshape(-1, 5, 2),
                np.array([row.score for row in found], np.float32),
            ),
        )
        for photo, found in rows.items()
    ]
