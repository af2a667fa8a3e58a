"""Going over to another model: its set of vectors beside the one in use, then the swap.

Photos are claimed as files are at ingestion (`facesearch.store.leases`): a row of `reembeddings`
with the worker's id; it goes when the photo's vectors are stored, and stays, with a reason, where
they could not be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, or_, select, update

from facesearch.errors import NotFoundError, UsageError
from facesearch.store import jobs, vectors
from facesearch.store.collections import Collection, bump, require_unchanged
from facesearch.store.database import Database, insert_new
from facesearch.store.paths import from_text, to_text
from facesearch.store.tables import (
    CalibrationRow,
    CollectionRow,
    FaceRow,
    FileRow,
    PhotoRow,
    ReembeddingRow,
    VectorRow,
    VectorSetRow,
    now,
)
from facesearch.values import F32, I64, Detections, Failure, JSONValue, ModelContract

CLAIM_PHOTOS = 64
"""Photos taken in hand at once."""


@dataclass(frozen=True, slots=True)
class VectorSet:
    """A collection's vectors by one model.

    Attributes:
        number: of the set.
        contract: of the model.
        active: whether it is searched.
        faces: that have a vector in it.
        lacking: faces of the collection that have none.
        report: how it compared with the set before it; None until that was measured.
        created: when it was begun, UTC.
        activated: when it was last taken into use, UTC; None if it never was.
    """

    number: int
    contract: ModelContract
    active: bool
    faces: int
    lacking: int
    report: dict[str, JSONValue] | None
    created: datetime
    activated: datetime | None


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


def begin(database: Database, collection: Collection, contract: ModelContract) -> Collection:
    """A view of the collection by the set of that model, which is made if there is none."""
    with database.write() as connection:
        _lock(connection, collection)
        known = _sets(connection, collection)
        if collection.vectors not in {row.number for row in known}:
            _insert_set(connection, collection, collection.contract, collection.vectors)
        for row in known:
            if _contract(row) == contract:
                return view(collection, row.number, contract)
        number = _insert_set(connection, collection, contract, None)
        return view(collection, number, contract)


def view(collection: Collection, number: int, contract: ModelContract) -> Collection:
    """The collection as if it searched the set of that number."""
    return replace(collection, contract=contract, vectors=number, aside=True)


def sets(database: Database, collection: Collection) -> list[VectorSet]:
    """The collection's sets, oldest first; the one in use is always among them."""
    with database.read() as connection:
        found = []
        for row in _sets(connection, collection):
            of = view(collection, row.number, _contract(row))
            found.append(
                VectorSet(
                    row.number,
                    of.contract,
                    row.number == collection.vectors,
                    _count(connection, of, lacking=False),
                    _count(connection, of, lacking=True),
                    row.report,
                    row.created_at.replace(tzinfo=UTC),
                    row.activated_at.replace(tzinfo=UTC) if row.activated_at else None,
                )
            )
        if not any(one.active for one in found):
            faces, lacking = (
                _count(connection, collection, lacking=which) for which in (False, True)
            )
            of = collection
            made = connection.execute(
                select(CollectionRow.created_at).where(CollectionRow.id == collection.id)
            ).scalar_one()
            made = made.replace(tzinfo=UTC)
            found.append(VectorSet(of.vectors, of.contract, True, faces, lacking, None, made, made))
        return found


def views(database: Database, collection: Collection) -> list[Collection]:
    """Views of the collection by each set that is not in use."""
    with database.read() as connection:
        return [
            view(collection, row.number, _contract(row))
            for row in _sets(connection, collection)
            if row.number != collection.vectors
        ]


def former(database: Database, collection: Collection) -> Collection:
    """A view by the set that was in use last before the present one.

    Raises:
        NotFoundError: there is none.
    """
    with database.read() as connection:
        rows = [
            row
            for row in _sets(connection, collection)
            if row.number != collection.vectors and row.activated_at is not None
        ]
    if not rows:
        raise NotFoundError(
            f"collection '{collection.name}' has no vectors of a former model to go back to"
        )
    last = max(rows, key=lambda row: row.activated_at)
    return view(collection, last.number, _contract(last))


def free(database: Database, of: Collection) -> None:
    """Let photos that failed before, and those of dead workers, be claimed again."""
    mine = ReembeddingRow.set_number == of.vectors, ReembeddingRow.photo_id.in_(_photos(of))
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
            row.photo_id.in_(_photos(of)),
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
            ReembeddingRow.photo_id.in_(_photos(of)),
        )
        .order_by(path)
    )
    with database.read() as connection:
        return [
            Failure(from_text(where or "(no file)"), reason or "", detail or "")
            for where, reason, detail in connection.execute(query)
        ]


def lacking(database: Database, of: Collection) -> int:
    """Faces of the collection that have no vector in the set."""
    with database.read() as connection:
        return _count(connection, of, lacking=True)


def swap(database: Database, collection: Collection, of: Collection, *, allow_missing: bool) -> int:
    """Search another set from now on, if every face is in it; one transaction.

    Args:
        database: the store.
        collection: as it is.
        of: a view of it by the set to be searched.
        allow_missing: faces of photos that failed may lack.

    Returns:
        How many faces lack a vector: 0 if the collection went over.

    Raises:
        ModelChangedError: it went over to another model meanwhile.
    """
    failed = select(ReembeddingRow.photo_id).where(
        ReembeddingRow.set_number == of.vectors, ReembeddingRow.reason.is_not(None)
    )
    contract = of.contract
    with database.write() as connection:
        bump(connection, collection.id)
        require_unchanged(connection, collection)
        query = select(func.count()).select_from(FaceRow).where(vectors.lacking(of))
        if allow_missing:
            query = query.where(FaceRow.photo_id.not_in(failed))
        if lack := connection.execute(query).scalar_one():
            return lack
        connection.execute(
            update(CollectionRow)
            .where(CollectionRow.id == collection.id)
            .values(
                vectors=of.vectors,
                model_name=contract.name,
                model_sha256=contract.sha256,
                model_preprocessing=contract.preprocessing,
                model_dim=contract.dim,
            )
        )
        _of_set(connection, of, {"activated_at": now()})
        return 0


def keep_report(database: Database, of: Collection, report: dict[str, JSONValue]) -> None:
    """Note how a set compared with the one in use."""
    with database.write() as connection:
        _of_set(connection, of, {"report": report})


def drop(database: Database, of: Collection) -> None:
    """Delete a set that is not in use: its vectors, and what calibrated it.

    Raises:
        UsageError: it is in use.
    """
    with database.write() as connection:
        if _lock(connection, of) == of.vectors:
            raise UsageError(f"model '{of.contract.name}' is in use in collection '{of.name}'")
        if of.vectors == 0:
            connection.execute(
                update(FaceRow)
                .where(FaceRow.collection_id == of.id, func.length(FaceRow.embedding) > 0)
                .values(embedding=vectors.NONE)
            )
        else:
            connection.execute(delete(VectorRow).where(VectorRow.set_id == of.vectors))
        connection.execute(
            delete(ReembeddingRow).where(
                ReembeddingRow.set_number == of.vectors, ReembeddingRow.photo_id.in_(_photos(of))
            )
        )
        connection.execute(
            delete(VectorSetRow).where(
                VectorSetRow.collection_id == of.id, VectorSetRow.number == of.vectors
            )
        )
        scores = CalibrationRow.contract
        connection.execute(
            update(CalibrationRow)
            .where(
                CalibrationRow.collection_id == of.id,
                (scores == of.contract.key)
                | scores.startswith(f"{of.contract.key}|", autoescape=True),
            )
            .values(active=False)
        )
    database.scrub()


def _lock(connection: Connection, collection: Collection) -> int:
    """The number of the set in use; nobody changes it before this transaction ends."""
    query = select(CollectionRow.vectors).where(CollectionRow.id == collection.id)
    return connection.execute(query.with_for_update()).scalar_one()


def _sets(connection: Connection, collection: Collection) -> Sequence[Row[*tuple[object, ...]]]:
    query = select(
        VectorSetRow.number,
        VectorSetRow.model_name,
        VectorSetRow.model_sha256,
        VectorSetRow.model_preprocessing,
        VectorSetRow.model_dim,
        VectorSetRow.report,
        VectorSetRow.created_at,
        VectorSetRow.activated_at,
    ).where(VectorSetRow.collection_id == collection.id)
    return connection.execute(query.order_by(VectorSetRow.id)).all()


def _contract(row: Row[*tuple[object, ...]]) -> ModelContract:
    return ModelContract(row.model_name, row.model_sha256, row.model_preprocessing, row.model_dim)


def _insert_set(
    connection: Connection, collection: Collection, contract: ModelContract, number: int | None
) -> int:
    """A new set; of that number, in use already, or of its own id where that is None."""
    set_id = connection.execute(
        insert(VectorSetRow)
        .values(
            collection_id=collection.id,
            number=-1 if number is None else number,
            model_name=contract.name,
            model_sha256=contract.sha256,
            model_preprocessing=contract.preprocessing,
            model_dim=contract.dim,
            created_at=now(),
            activated_at=None if number is None else now(),
        )
        .returning(VectorSetRow.id)
    ).scalar_one()
    if number is None:
        mine = VectorSetRow.id == set_id
        connection.execute(update(VectorSetRow).where(mine).values(number=set_id))
        return set_id
    return number


def _of_set(connection: Connection, of: Collection, values: dict[str, object]) -> None:
    mine = VectorSetRow.collection_id == of.id, VectorSetRow.number == of.vectors
    connection.execute(update(VectorSetRow).where(*mine).values(values))


def _photos(of: Collection):  # type: ignore[no-untyped-def]
    return select(PhotoRow.id).where(PhotoRow.collection_id == of.id)


def _count(connection: Connection, of: Collection, *, lacking: bool) -> int:
    lack = vectors.lacking(of)
    query = select(func.count()).select_from(FaceRow).where(FaceRow.collection_id == of.id)
    return connection.execute(query.where(lack if lacking else ~lack)).scalar_one()


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
