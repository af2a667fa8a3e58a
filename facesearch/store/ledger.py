"""The ledger: which files were seen, what became of each, and the faces found in them.

A batch of outcomes is one transaction: a file is recorded together with its photo and faces or not
at all, so that a process killed at any instant leaves nothing half-written and a second run picks
up exactly the files that are not yet recorded.

Batches are of a few hundred files; callers that have more call more often.
"""

from __future__ import annotations

from collections.abc import Collection as SizedIterable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from facesearch.errors import Reason
from facesearch.store.collections import Collection, bump
from facesearch.store.database import Database
from facesearch.store.paths import from_text, to_text
from facesearch.store.tables import FaceRow, FileRow, IdentityRow, PhotoRow, RejectionRow, now
from facesearch.values import F32, Detections, Embeddings, Failure, PhotoFacts

DONE, NO_FACE, FAILED, ERASED = "done", "no_face", "failed", "erased"
"""States of a file. Erased: a face in it was deleted; only enrolling it anew reads it again."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as the file system shows it: a change of size or time means new content.

    Attributes:
        path: absolute path.
        size: bytes.
        mtime_ns: modification time, nanoseconds since the epoch.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Extracted:
    """A file that was read, with every face in it.

    Attributes:
        file: the file.
        sha256: hex digest of its bytes.
        size: (width, height) of the upright photo in pixels.
        detections: N faces; their order becomes their ordinal.
        embeddings: of the same N faces.
        quality: (N,) of the same faces, 0 to 1.
        rejected: why each of them is not to be stored, "" for those that are; N of them.
        facts: what else the photo says.
    """

    file: FileStamp
    sha256: str
    size: tuple[int, int]
    detections: Detections
    embeddings: Embeddings
    quality: F32
    rejected: tuple[str, ...]
    facts: PhotoFacts = field(default_factory=PhotoFacts)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A file whose bytes the collection already holds."""

    file: FileStamp
    sha256: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be processed."""

    file: FileStamp
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Container:
    """A video that was read to its end; its frames are files of their own."""

    file: FileStamp
    faces: int


Outcome = Extracted | Duplicate | Failed | Container


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says of a file: how it was stamped, what became of it, and why."""

    stamp: FileStamp
    state: str
    reason: str | None


def known(
    database: Database, collection: Collection, paths: SizedIterable[str]
) -> dict[str, Known]:
    """What the ledger says of those of `paths` that it has, by path."""
    with database.read() as connection:
        rows = connection.execute(
            select(
                FileRow.path, FileRow.size, FileRow.mtime_ns, FileRow.state, FileRow.reason
            ).where(
                FileRow.collection_id == collection.id, FileRow.path.in_([*map(to_text, paths)])
            )
        )
        found = (
            Known(FileStamp(from_text(path), size, mtime_ns), state, reason)
            for path, size, mtime_ns, state, reason in rows
        )
        return {file.stamp.path: file for file in found}


def is_stored(database: Database, collection: Collection, sha256: str, *, whole: bool) -> bool:
    """Whether the collection holds the photo of these bytes.

    Args:
        database: the store.
        collection: where to look.
        sha256: hex digest of the bytes.
        whole: a photo of which a face was erased does not count.
    """
    with database.read() as connection:
        photo_id = _photo_ids(connection, collection.id, [sha256]).get(sha256)
        if photo_id is None or not whole:
            return photo_id is not None
        erased = select(FileRow.id).where(FileRow.photo_id == photo_id, FileRow.state == ERASED)
        return connection.execute(erased.limit(1)).first() is None


def record(database: Database, collection: Collection, outcomes: Sequence[Outcome]) -> int:
    """Store a batch of outcomes in one transaction; a file seen before is brought up to date.

    A photo that the collection already holds is linked, and only those of its faces are added that
    are not there: none if another process stored it meanwhile, those erased if it is enrolled anew.

    Returns:
        The number of faces added.

    Raises:
        StoreError, LibraryError, DiskFullError: nothing of the batch was stored.
    """
    if not outcomes:
        return 0
    with database.write() as connection:
        revision = bump(connection, collection.id)
        read = {o.sha256: o for o in outcomes if isinstance(o, Extracted)}
        digests = {o.sha256 for o in outcomes if isinstance(o, Extracted | Duplicate)}
        photo_ids = _photo_ids(connection, collection.id, digests)
        new = [o for digest, o in read.items() if digest not in photo_ids]
        photo_ids |= _insert_photos(connection, collection.id, new)
        stored = _stored_faces(connection, photo_ids.values())
        found = [
            row | {"collection_id": collection.id, "photo_id": photo_ids[digest]}
            for digest, o in read.items()
            for row in _face_rows(o, revision)
            if (photo_ids[digest], row["ordinal"]) not in stored
        ]
        rows = [row for row in found if not row["reason"]]
        if rows:
            connection.execute(insert(FaceRow), _without(rows, "reason"))
        _write_rejections(connection, found, [photo_ids[digest] for digest in read])
        with_faces = {photo for photo, _ in stored} | {row["photo_id"] for row in found}
        _write_files(connection, collection.id, outcomes, photo_ids, with_faces)
        return len(rows)


def failures(database: Database, collection: Collection | None = None) -> Iterator[Failure]:
    """Every file that could not be processed, by path."""
    query = select(FileRow.path, FileRow.reason, FileRow.detail, FileRow.attempts).where(
        FileRow.state == FAILED
    )
    if collection is not None:
        query = query.where(FileRow.collection_id == collection.id)
    with database.read() as connection:
        for path, reason, detail, attempts in connection.execute(query.order_by(FileRow.path)):
            yield Failure(from_text(path), reason or "", detail or "", attempts)


def forget_unreachable(
    database: Database, collection: Collection, sources: SizedIterable[str]
) -> None:
    """Drop failures to reach or list things at or under `sources` (absolute paths) before a walk.

    The walk records anew what still cannot be reached; what is reachable again, or no longer there,
    must not stay listed.
    """
    roots = tuple(source.rstrip("/") + end for source in sources for end in ("/", "!/"))
    with database.write() as connection:
        rows = connection.execute(
            select(FileRow.id, FileRow.path).where(
                FileRow.collection_id == collection.id,
                FileRow.state == FAILED,
                FileRow.reason.in_([Reason.MISSING.value, Reason.UNREADABLE.value])
                | ((FileRow.size == 0) & (FileRow.mtime_ns == 0)),
            )
        ).all()
        for row_id, path in rows:
            if (from_text(path) + "/").startswith(roots):
                connection.execute(delete(FileRow).where(FileRow.id == row_id))


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a collection, or a whole library, holds."""

    photos: int
    files: int
    faces: int
    enrolled_faces: int
    identities: int
    no_face: int
    failures: int


def _photo_ids(
    connection: Connection, collection_id: int, digests: SizedIterable[str]
) -> dict[str, int]:
    if not digests:
        return {}
    rows = connection.execute(
        select(PhotoRow.sha256, PhotoRow.id).where(
            PhotoRow.collection_id == collection_id, PhotoRow.sha256.in_(digests)
        )
    )
    return {digest: photo_id for digest, photo_id in rows}


def _insert_photos(
    connection: Connection, collection_id: int, new: Sequence[Extracted]
) -> dict[str, int]:
    if not new:
        return {}
    rows = connection.execute(
        insert(PhotoRow).returning(PhotoRow.sha256, PhotoRow.id),
        [
            {
                "collection_id": collection_id,
                "sha256": o.sha256,
                "width": o.size[0],
                "height": o.size[1],
                "created_at": now(),
                **_facts(o.facts),
            }
            for o in new
        ],
    )
    return {digest: photo_id for digest, photo_id in rows}


def _face_rows(o: Extracted, revision: int) -> list[dict[str, Any]]:
    vectors = o.embeddings.vectors.astype("<f2")
    landmarks = o.detections.landmarks.astype("<f4")
    return [
        {
            "ordinal": i,
            **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
            "landmarks": landmarks[i].tobytes(),
            "score": float(o.detections.scores[i]),
            "quality": float(o.quality[i]),
            "reason": o.rejected[i],
            "embedding": vectors[i].tobytes(),
            "identity_id": None,
            "changed": revision,
        }
        for i, box in enumerate(o.detections.boxes.tolist())
    ]


def _facts(facts: PhotoFacts) -> dict[str, Any]:
    latitude, longitude = facts.position or (None, None)
    signed = None if facts.phash is None else facts.phash - (facts.phash >> 63 << 64)
    return {
        "phash": signed,
        "taken_at": facts.taken_at,
        "latitude": latitude,
        "longitude": longitude,
    }


def _without(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key not in columns} for row in rows]


def _write_rejections(
    connection: Connection, found: list[dict[str, Any]], photo_ids: list[int]
) -> None:
    """Replace what is known of rejected faces of photos that were read."""
    if photo_ids:
        connection.execute(delete(RejectionRow).where(RejectionRow.photo_id.in_(photo_ids)))
    rejected = [row for row in found if row["reason"]]
    if rejected:
        connection.execute(
            insert(RejectionRow), _without(rejected, "embedding", "identity_id", "changed")
        )


def _stored_faces(connection: Connection, photo_ids: SizedIterable[int]) -> set[tuple[int, int]]:
    """(photo id, ordinal) of every face stored of these photos."""
    if not photo_ids:
        return set()
    rows = connection.execute(
        select(FaceRow.photo_id, FaceRow.ordinal).where(FaceRow.photo_id.in_(photo_ids))
    )
    return {(photo_id, ordinal) for photo_id, ordinal in rows}


def _write_files(
    connection: Connection,
    collection_id: int,
    outcomes: Sequence[Outcome],
    photo_ids: dict[str, int],
    with_faces: set[int],
) -> None:
    latest = {to_text(o.file.path): o for o in outcomes}
    before = {
        path: (id_, attempts)
        for path, id_, attempts in connection.execute(
            select(FileRow.path, FileRow.id, FileRow.attempts).where(
                FileRow.collection_id == collection_id, FileRow.path.in_(latest)
            )
        )
    }
    added, changed = [], []
    for path, o in latest.items():
        photo_id = photo_ids[o.sha256] if isinstance(o, Extracted | Duplicate) else None
        found = o.faces > 0 if isinstance(o, Container) else photo_id in with_faces
        row = {
            "size": o.file.size,
            "mtime_ns": o.file.mtime_ns,
            "state": FAILED if isinstance(o, Failed) else DONE if found else NO_FACE,
            "reason": o.reason.value if isinstance(o, Failed) else None,
            "detail": to_text(o.detail) if isinstance(o, Failed) else None,
            "photo_id": photo_id,
            "updated_at": now(),
        }
        if path in before:
            id_, attempts = before[path]
            changed.append(row | {"row_id": id_, "attempts": attempts + 1})
        else:
            added.append(row | {"collection_id": collection_id, "path": path, "attempts": 1})
    if added:
        connection.execute(insert(FileRow), added)
    if changed:
        columns = [key for key in changed[0] if key != "row_id"]
        connection.execute(
            update(FileRow)
            .where(FileRow.id == bindparam("row_id"))
            .values({key: bindparam(key) for key in columns}),
            changed,
        )


def counts(database: Database, collection: Collection | None = None) -> Counts:
    """How much the collection holds, or every collection together."""

    def count(connection: Connection, table: type, *conditions: object) -> int:
        query = select(func.count()).select_from(table)
        if collection is not None:
            query = query.where(table.collection_id == collection.id)  # type: ignore[attr-defined]
        return connection.execute(query.where(*conditions)).scalar_one()  # type: ignore[arg-type]

    with database.read() as connection:
        return Counts(
            photos=count(connection, PhotoRow),
            files=count(connection, FileRow),
            faces=count(connection, FaceRow),
            enrolled_faces=count(connection, FaceRow, FaceRow.identity_id.is_not(None)),
            identities=count(connection, IdentityRow),
            no_face=count(connection, FileRow, FileRow.state == NO_FACE),
            failures=count(connection, FileRow, FileRow.state == FAILED),
        )
