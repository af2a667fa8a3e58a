"""Identities: who is enrolled, with which faces."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from facesearch.errors import NotFoundError, UsageError
from facesearch.store.collections import Collection, bump, of
from facesearch.store.database import Database
from facesearch.store.ledger import ERASED, FAILED, by_paths
from facesearch.store.paths import from_text
from facesearch.store.tables import (
    BigId,
    FaceRow,
    FileRow,
    IdentityRow,
    PhotoRow,
    RejectionRow,
    RemovalRow,
    now,
)
from facesearch.values import F32, Detections, Identity, JSONValue


@dataclass(frozen=True, slots=True)
class Person:
    """Who a photo is said to show.

    Attributes:
        name: display name.
        external_id: the caller's own id; identities are told apart by it where given, by name
            otherwise.
        metadata: JSON object; keys given replace those stored, others stay.
    """

    name: str
    external_id: str | None = None
    metadata: Mapping[str, JSONValue] | None = None


@dataclass(frozen=True, slots=True)
class StoredFaces:
    """The faces of one stored photo.

    Attributes:
        size: (width, height) of the photo.
        face_ids: (N,) int64, by ordinal; 0 for a face that was found and rejected.
        identity_ids: (N,) int64, 0 for none.
        detections: the same N faces.
        ordinals: (N,) int64 number of each in the photo; erased ones are missing.
    """

    size: tuple[int, int]
    face_ids: NDArray[np.int64]
    identity_ids: NDArray[np.int64]
    detections: Detections
    ordinals: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """A face with its photo, as shown to a user; taken when, by the camera's clock."""

    face_id: int
    identity_id: int
    ordinal: int
    box: tuple[float, float, float, float]
    score: float
    quality: float
    photo: str
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Who a face is enrolled as, and a file that holds its photo."""

    identity_id: int
    name: str
    external_id: str | None
    metadata: Mapping[str, JSONValue]
    photo: str


def faces_of(
    database: Database, collection: Collection, paths: Sequence[str]
) -> dict[str, StoredFaces]:
    """The stored faces of each of `paths` that was processed, by path."""
    wanted = by_paths(collection, paths), FileRow.state != FAILED
    grouped: dict[str, list[tuple[object, ...]]] = {}
    with database.read() as connection:
        for columns, table in ((_FACE_COLUMNS, FaceRow), (_REJECTED_COLUMNS, RejectionRow)):
            query = (
                select(FileRow.path, PhotoRow.width, PhotoRow.height, *columns)
                .join(PhotoRow, PhotoRow.id == FileRow.photo_id)
                .outerjoin(table, table.photo_id == PhotoRow.id)
                .where(*wanted)
                .order_by(FileRow.path)
            )
            for row in connection.execute(query):
                grouped.setdefault(from_text(row[0]), []).append(tuple(row[1:]))
    return {path: _stored(rows) for path, rows in grouped.items()}


def _columns(table: type[FaceRow] | type[RejectionRow]) -> tuple[Any, ...]:
    t = table
    return t.x1, t.y1, t.x2, t.y2, t.landmarks, t.score, t.ordinal


_FACE_COLUMNS = (FaceRow.id, FaceRow.identity_id, *_columns(FaceRow))
_REJECTED_COLUMNS = (literal(0), literal(0), *_columns(RejectionRow))


def _stored(rows: Sequence[tuple[object, ...]]) -> StoredFaces:
    """Faces of one photo, of rows (width, height, then the columns above); no face: no ordinal."""
    faces: list[Any] = [row[2:] for row in rows if row[10] is not None]
    faces.sort(key=lambda face: face[8])
    n = len(faces)
    return StoredFaces(
        size=(int(rows[0][0]), int(rows[0][1])),  # type: ignore[call-overload]
        face_ids=np.array([face[0] for face in faces], np.int64),
        identity_ids=np.array([face[1] or 0 for face in faces], np.int64),
        detections=Detections(
            np.array([face[2:6] for face in faces], np.float32).reshape(n, 4),
            np.frombuffer(b"".join(face[6] for face in faces), "<f4").reshape(n, 5, 2),
            np.array([face[7] for face in faces], np.float32),
        ),
        ordinals=np.array([face[8] for face in faces], np.int64),
    )


def assign(database: Database, collection: Collection, people: Sequence[tuple[int, Person]]) -> int:
    """Enrol faces, each `(face_id, person)`, in one transaction; creates the identities needed.

    Returns:
        The number of faces whose identity changed; 0 when everything stood so already.
    """
    if not people:
        return 0
    with database.write() as connection:
        distinct: dict[tuple[str | None, str], Person] = {}
        for _, p in people:
            before = distinct.get((p.external_id, p.name), p)
            merged = {**(before.metadata or {}), **(p.metadata or {})}
            distinct[p.external_id, p.name] = Person(p.name, p.external_id, merged)
        identity_ids = {
            key: _ensure(connection, collection.id, person) for key, person in distinct.items()
        }
        wanted = {face_id: identity_ids[p.external_id, p.name] for face_id, p in people}
        current = connection.execute(
            select(FaceRow.id, FaceRow.identity_id).where(FaceRow.id.in_(wanted))
        )
        moved = {face_id: wanted[face_id] for face_id, now_ in current if now_ != wanted[face_id]}
        if moved:
            revision = bump(connection, collection.id)
            for face_id, identity_id in moved.items():
                connection.execute(
                    update(FaceRow)
                    .where(FaceRow.id == face_id)
                    .values(identity_id=identity_id, changed=revision)
                )
        return len(moved)


def _ensure(connection: Connection, collection_id: int, person: Person) -> int:
    same = (
        IdentityRow.external_id == person.external_id
        if person.external_id is not None
        else (IdentityRow.external_id.is_(None)) & (IdentityRow.name == person.name)
    )
    row = connection.execute(
        select(IdentityRow.id, IdentityRow.name, IdentityRow.details)
        .where(IdentityRow.collection_id == collection_id, same)
        .order_by(IdentityRow.id)
    ).first()
    if row is None:
        return connection.execute(
            insert(IdentityRow)
            .values(
                collection_id=collection_id,
                name=person.name,
                external_id=person.external_id,
                details=dict(person.metadata or {}),
                created_at=now(),
            )
            .returning(IdentityRow.id)
        ).scalar_one()
    identity_id, name, before = row
    details = {**before, **(person.metadata or {})}
    if (person.name, details) != (name, before):
        connection.execute(
            update(IdentityRow)
            .where(IdentityRow.id == identity_id)
            .values(name=person.name, details=details)
        )
    return identity_id


def listing(
    database: Database, collection: Collection, where: Mapping[str, JSONValue] | None = None
) -> list[Identity]:
    """The identities whose metadata has every key and value of `where`, by name."""
    with database.read() as connection:
        mine = IdentityRow.collection_id == collection.id
        return _identities(connection, mine, *_metadata(where or {}))


def ids_where(
    database: Database, collection: Collection, where: Mapping[str, JSONValue]
) -> NDArray[np.int64]:
    """(M,) int64, ascending: the identities whose metadata has every key and value of `where`."""
    with database.read() as connection:
        found = connection.execute(
            select(IdentityRow.id)
            .where(IdentityRow.collection_id == collection.id, *_metadata(where))
            .order_by(IdentityRow.id)
        ).scalars()
        return np.fromiter(found, np.int64)


def find(database: Database, collection: Collection, key: str) -> Identity:
    """The identity with that external id, name or `#id`.

    Raises:
        NotFoundError: nobody.
        UsageError: several people have that name.
    """
    by_number = key[1:].isdecimal() and key.startswith("#")
    conditions: list[ColumnElement[bool]] = (
        [IdentityRow.id == int(key[1:])]
        if by_number
        else [IdentityRow.external_id == key, IdentityRow.name == key]
    )
    with database.read() as connection:
        for condition in conditions:
            mine = IdentityRow.collection_id == collection.id
            people = _identities(connection, mine, condition)
            if len(people) > 1:
                numbers = ", ".join(f"#{person.id}" for person in people)
                raise UsageError(f"several identities are named '{key}': choose one of {numbers}")
            if people:
                return people[0]
    raise NotFoundError(f"no identity '{key}' in collection '{collection.name}'")


def faces_by_identity(database: Database, identity_id: int) -> list[FaceRecord]:
    """The enrolled faces of an identity, by face id."""
    return _records(database, FaceRow.identity_id == identity_id)


def faces_by_id(database: Database, face_ids: Iterable[int]) -> dict[int, FaceRecord]:
    """Those of the faces that still exist, by id."""
    ids = list(face_ids)
    return {f.face_id: f for f in _records(database, FaceRow.id.in_(ids))} if ids else {}


def candidates(database: Database, face_ids: Sequence[int]) -> dict[int, Enrolled]:
    """Who is enrolled with each of these faces, by face id; those that are gone are missing."""
    ids = list(dict.fromkeys(face_ids))
    parts = [ids[start : start + _MANY] for start in range(0, len(ids), _MANY)]
    if len(parts) < 2:
        return _enrolled(database, ids) if ids else {}
    found: dict[int, Enrolled] = {}
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
        for part in pool.map(partial(_enrolled, database), parts):
            found |= part
    return found


def _enrolled(database: Database, ids: list[int]) -> dict[int, Enrolled]:
    """`candidates` for at most `_MANY` different faces."""
    size = len(ids) if len(ids) <= _FEW else _MANY
    given = ids + ids[-1:] * (size - len(ids))
    rows = database.peek(_candidates(size), **dict(zip(_names(size), given, strict=True)))
    if len(rows) > len({row[0] for row in rows}):  # of a photo's files the first is told
        rows.sort(key=lambda row: row[5] or "", reverse=True)
    texts = [row[4] for row in rows]
    if rows and isinstance(texts[0], str):  # SQLite has JSON as text
        texts = json.loads(f"[{','.join(texts)}]")
    return {
        face: Enrolled(identity, name, external, details, from_text(path or ""))
        for (face, identity, name, external, _, path), details in zip(rows, texts, strict=True)
    }


def identities_by_id(
    database: Database, collection: Collection, ids: Iterable[int]
) -> dict[int, Identity]:
    """Those of the identities that still exist, by id."""
    wanted = list(ids)
    if not wanted:
        return {}
    with database.read() as connection:
        mine = of(collection, IdentityRow.collection_id)
        return {p.id: p for p in _identities(connection, mine, IdentityRow.id.in_(wanted))}


def change(
    database: Database,
    identity_id: int,
    *,
    name: str | None = None,
    metadata: Mapping[str, JSONValue] | None = None,
) -> None:
    """Rename an identity or merge `metadata` into its metadata."""
    with database.write() as connection:
        details = connection.execute(
            select(IdentityRow.details).where(IdentityRow.id == identity_id)
        ).scalar_one()
        values: dict[str, object] = {"details": {**details, **(metadata or {})}}
        if name is not None:
            values["name"] = name
        connection.execute(update(IdentityRow).where(IdentityRow.id == identity_id).values(values))


def erase(database: Database, collection: Collection, identity_id: int) -> list[int]:
    """Delete an identity and its faces; the ids of the faces stay as removals.

    Files those faces were in are marked erased in the ledger: ingesting them again does not bring
    the faces back; enrolling them again does.

    Returns:
        The face ids that are gone.
    """
    with database.write() as connection:
        revision = bump(connection, collection.id)
        face_ids = list(
            connection.execute(
                select(FaceRow.id).where(FaceRow.identity_id == identity_id)
            ).scalars()
        )
        if face_ids:
            connection.execute(
                insert(RemovalRow),
                [
                    {"face_id": f, "collection_id": collection.id, "revision": revision}
                    for f in face_ids
                ],
            )
        photos = select(FaceRow.photo_id).where(FaceRow.identity_id == identity_id)
        connection.execute(update(FileRow).where(FileRow.photo_id.in_(photos)).values(state=ERASED))
        connection.execute(delete(FaceRow).where(FaceRow.identity_id == identity_id))
        connection.execute(delete(IdentityRow).where(IdentityRow.id == identity_id))
    database.scrub()
    return face_ids


def qualities(database: Database, collection: Collection) -> F32:
    """(N,) float32, 0 to 1: the quality of every enrolled face, in any order."""
    query = select(FaceRow.quality).where(
        FaceRow.collection_id == collection.id, FaceRow.identity_id.is_not(None)
    )
    with database.read() as connection:
        return np.fromiter(connection.execute(query).scalars(), np.float32)


def enrolled_faces(
    database: Database, collection: Collection, where: Mapping[str, JSONValue] | None = None
) -> int:
    """How many faces the identities have whose metadata has every key and value of `where`."""
    query = select(func.count()).where(
        FaceRow.collection_id == collection.id, FaceRow.identity_id.is_not(None)
    )
    if where:
        query = query.join(IdentityRow, IdentityRow.id == FaceRow.identity_id)
        query = query.where(*_metadata(where))
    with database.read() as connection:
        return connection.execute(query.select_from(FaceRow)).scalar_one()


_PATH = (
    select(func.min(FileRow.path))
    .where(FileRow.photo_id == FaceRow.photo_id)
    .correlate(FaceRow)
    .scalar_subquery()
)
_FEW, _MANY = 8, 512
"""Faces looked up together: a statement for each number up to the former and one for all others,
filled up, so that the database prepares each once."""


@cache
def _names(size: int) -> tuple[str, ...]:
    return tuple(f"id{i}" for i in range(size))


@cache
def _candidates(size: int) -> Select[int, int, str, str | None, Any, str]:
    ids = [bindparam(name, type_=BigId) for name in _names(size)]
    return (
        select(
            FaceRow.id,
            IdentityRow.id,
            IdentityRow.name,
            IdentityRow.external_id,
            IdentityRow.details,
            FileRow.path,
        )
        .join(IdentityRow, IdentityRow.id == FaceRow.identity_id)
        .outerjoin(FileRow, FileRow.photo_id == FaceRow.photo_id)
        .where(FaceRow.id.in_(ids))
    )


def _metadata(where: Mapping[str, JSONValue]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for key, value in where.items():
        field = IdentityRow.details[key]
        if value is None:
            conditions.append(field.as_string().is_(None))
        elif isinstance(value, bool):
            conditions.append(field.as_boolean() == value)
        elif isinstance(value, int | float):
            conditions.append(field.as_float() == value)
        elif isinstance(value, str):
            conditions.append(field.as_string() == value)
        else:
            raise UsageError(f"metadata filter '{key}': compare with a text, a number or a boolean")
    return conditions


def _identities(connection: Connection, *conditions: ColumnElement[bool]) -> list[Identity]:
    faces = (
        select(func.count())
        .where(FaceRow.identity_id == IdentityRow.id)
        .correlate(IdentityRow)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(
            IdentityRow.id, IdentityRow.name, IdentityRow.external_id, IdentityRow.details, faces
        ).where(*conditions)
    )
    people = [Identity(id_, name, external, details, n) for id_, name, external, details, n in rows]
    # sorted here: to save sorting, SQLite would walk the names of the whole collection
    return sorted(people, key=lambda person: (person.name, person.id))


def _records(database: Database, condition: ColumnElement[bool]) -> list[FaceRecord]:
    query = (
        select(*_FACE_COLUMNS, FaceRow.quality, _PATH, PhotoRow.taken_at)
        .join(PhotoRow, PhotoRow.id == FaceRow.photo_id)
        .where(condition)
    )
    with database.read() as connection:
        return [
            FaceRecord(
                face_id=row[0],
                identity_id=row[1] or 0,
                ordinal=row[8],
                box=(row[2], row[3], row[4], row[5]),
                score=row[7],
                quality=row[9],
                photo=from_text(row[10] or ""),
                taken_at=row[11],
            )
            for row in connection.execute(query.order_by(FaceRow.id))
        ]
