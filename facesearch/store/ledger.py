"""The ledger: which files were seen, what became of each, and the faces found in them.

A batch of outcomes is one transaction: a file is recorded together with its photo and faces or not
at all, so that a process killed at any instant leaves nothing half-written and a second run picks
up exactly the files that are not yet recorded.

Batches are of a few hundred files; callers that have more call more often.
"""

from __future__ import annotations

from collections.abc import Collection as SizedIterable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from facesearch.errors import Reason
from facesearch.store import crops, photo_rows, vectors
from facesearch.store.collections import Collection, bump, require_unchanged
from facesearch.store.database import Database
from facesearch.store.outcomes import Container, Duplicate, Extracted, Failed, FileStamp, Outcome
from facesearch.store.paths import beginnings, from_text, to_text
from facesearch.store.tables import FaceRow, FileRow, IdentityRow, PhotoRow, now
from facesearch.values import Failure

PENDING, DONE, NO_FACE = "pending", "done", "no_face"
FAILED, ERASED, GONE = "failed", "erased", "gone"
"""States of a file. Pending: found, not read yet. Erased: a face in it was deleted; only enrolling
it anew reads it again. Gone: `--rescan` found it missing; what was stored of it is still there."""

TRANSIENT = frozenset({Reason.MISSING, Reason.UNREADABLE, Reason.TIMEOUT, Reason.INTERNAL})
"""Reasons of a failure that may have passed at the next run, though the file has not changed."""
UNKNOWN = TRANSIENT | {Reason.CRASHED}
"""Reasons of a failure that leave open what the file holds."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says of a file: how it was stamped, what became of it, why, and when.

    `lease` is the id of the worker that has it in hand, if any; `deaths` is how many died so since
    it was last read.
    """

    stamp: FileStamp
    state: str
    reason: str | None
    lease: int | None
    recorded_at: datetime
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recording a batch did.

    Attributes:
        outcomes: those recorded; others belonged to files that another worker has taken over.
        again: files that must be read again, because the photo they were said to hold went
            meanwhile; nobody has them in hand.
        photos: photos added; other files read held bytes that were there, or that another of the
            batch holds too.
        faces: faces added.
        changed: files whose bytes are not those of before.
        faces_removed: faces of photos that no file holds any more.
        enrolled_kept: photos that no file holds any more, kept because somebody is enrolled from
            them.
    """

    outcomes: Sequence[Outcome]
    again: Sequence[FileStamp]
    photos: int
    faces: int
    changed: int
    faces_removed: int
    enrolled_kept: int


def known(
    database: Database, collection: Collection, paths: SizedIterable[str]
) -> dict[str, Known]:
    """What the ledger says of those of `paths` that it has, by path."""
    if not paths:
        return {}
    with database.read() as connection:
        rows = connection.execute(SELECT_KNOWN.where(by_paths(collection, paths)))
        found = (known_row(row) for row in rows)
        return {file.stamp.path: file for file in found}


SELECT_KNOWN = select(
    FileRow.path,
    FileRow.id,
    FileRow.size,
    FileRow.mtime_ns,
    FileRow.state,
    FileRow.reason,
    FileRow.lease,
    FileRow.updated_at,
    FileRow.deaths,
)
"""What `known_row` makes a `Known` of."""


def by_paths(collection: Collection, paths: SizedIterable[str]) -> ColumnElement[bool]:
    """Condition: files of a collection at these paths."""
    return (FileRow.collection_id == collection.id) & FileRow.path.in_([*map(to_text, paths)])


def known_row(row: Row[*tuple[Any, ...]]) -> Known:
    """A row of `SELECT_KNOWN` as a value."""
    path, _, size, mtime_ns, state, reason, lease, at, deaths = row
    at = at.replace(tzinfo=at.tzinfo or UTC)  # SQLite stores no time zone
    return Known(FileStamp(from_text(path), size, mtime_ns), state, reason, lease, at, deaths)


def is_stored(database: Database, collection: Collection, sha256: str, *, whole: bool) -> bool:
    """Whether the collection holds the photo of these bytes.

    Args:
        database: the store.
        collection: where to look.
        sha256: hex digest of the bytes.
        whole: a photo of which a face was erased does not count.
    """
    with database.read() as connection:
        asked = {"collection_id": collection.id, "sha256": sha256}
        photo_id = connection.execute(_PHOTO, asked).scalar()
        if photo_id is None or not whole:
            return photo_id is not None
        erased = select(FileRow.id).where(FileRow.photo_id == photo_id, FileRow.state == ERASED)
        return connection.execute(erased.limit(1)).first() is None


_PHOTO = select(PhotoRow.id).where(
    PhotoRow.collection_id == bindparam("collection_id"), PhotoRow.sha256 == bindparam("sha256")
)
"""Made once: it is asked for every file, and making it takes longer than the answer."""


def record(database: Database, collection: Collection, outcomes: Sequence[Outcome]) -> int:
    """Store a batch of outcomes in one transaction; a file seen before is brought up to date.

    A photo that the collection already holds is linked, and only those of its faces are added that
    are not there: none if another process stored it meanwhile, those erased if it is enrolled anew.

    Returns:
        The number of faces added.

    Raises:
        ModelChangedError: the collection went over to another model; nothing was stored.
        StoreError, LibraryError, DiskFullError: nothing of the batch was stored.
    """
    return _record(database, collection, outcomes, None, None).faces if outcomes else 0


def record_leased(
    database: Database,
    collection: Collection,
    outcomes: Sequence[Outcome],
    worker: int,
    video: str | None = None,
) -> Recorded:
    """`record`, of those files alone that `worker` still has in hand; it has them no longer then.

    Where a file's bytes have changed, the photo it held before goes with its faces, unless another
    file holds it too or somebody is enrolled from it.

    Args:
        database: the store.
        collection: of the files.
        outcomes: a few hundred at most.
        worker: the caller.
        video: path of the video that all outcomes are of, itself and its frames: who has it in hand
            has them all. Frames of it that were kept before and are not among them go.

    Raises:
        As `record`.
    """
    return _record(database, collection, outcomes, worker, video)


def _record(
    database: Database,
    collection: Collection,
    outcomes: Sequence[Outcome],
    worker: int | None,
    video: str | None,
) -> Recorded:
    with database.write() as connection:
        revision = bump(connection, collection.id)
        require_unchanged(connection, collection)
        before = _files_before(connection, collection, outcomes)
        if worker is not None:
            held = {path for path, row in before.items() if row.lease == worker}
            outcomes = [o for o in outcomes if to_text(video or o.file.path) in held]
        read = {o.sha256: o for o in outcomes if isinstance(o, Extracted)}
        digests = {o.sha256 for o in outcomes if isinstance(o, Extracted | Duplicate)}
        photo_ids = photo_rows.ids(connection, collection.id, digests)
        again = [
            o.file
            for o in outcomes
            if isinstance(o, Duplicate) and o.sha256 not in photo_ids and o.sha256 not in read
        ]
        if again:  # the photo went meanwhile, with the last other file that held it
            outcomes = [o for o in outcomes if o.file not in again]
            paths = by_paths(collection, [file.path for file in again])
            connection.execute(update(FileRow).where(paths).values(lease=None))
        new = {digest: (o.size, o.facts) for digest, o in read.items() if digest not in photo_ids}
        photo_ids |= photo_rows.insert_photos(connection, collection.id, new)
        stored = photo_rows.stored_faces(connection, photo_ids.values())
        found = [
            row | {"collection_id": collection.id, "photo_id": photo_ids[digest]}
            for digest, o in read.items()
            for row in photo_rows.face_values(
                o.detections, o.embeddings, o.quality, o.rejected, revision
            )
            if (photo_ids[digest], row["ordinal"]) not in stored
        ]
        rows = [row for row in found if not row["reason"]]
        if rows:
            vectors.insert_faces(connection, collection, photo_rows.without(rows, "reason"))
            pictures = {
                (photo_ids[digest], i): crop
                for digest, o in read.items()
                for i, crop in enumerate(() if o.crops is None else o.crops)
            }
            added = {(row["photo_id"], row["ordinal"]) for row in rows}
            crops.write(connection, {key: pictures[key] for key in added & pictures.keys()})
        photo_rows.write_rejections(connection, found, [photo_ids[digest] for digest in read])
        with_faces = photo_rows.with_faces(connection, photo_ids.values())
        left = _write_files(connection, collection.id, outcomes, photo_ids, with_faces, before)
        if video is not None and any(row.attempts for row in before.values()):
            left += _drop_frames(connection, collection, video, outcomes)
        dropped = photo_rows.drop_orphans(connection, collection.id, revision, set(left))
        return Recorded(outcomes, again, len(new), len(rows), len(left), *dropped)


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
    must not stay listed. A file of which something is stored is not forgotten: what it holds would
    belong to no file any more.
    """
    roots = tuple(source.rstrip("/") + end for source in sources for end in ("/", "!/"))
    with database.write() as connection:
        rows = connection.execute(
            select(FileRow.id, FileRow.path).where(
                FileRow.collection_id == collection.id,
                FileRow.state == FAILED,
                FileRow.photo_id.is_(None),
                FileRow.lease.is_(None),
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


@dataclass(frozen=True, slots=True)
class _Before:
    """A file's row before a batch is recorded."""

    row_id: int
    attempts: int
    photo_id: int | None
    lease: int | None


def _files_before(
    connection: Connection, collection: Collection, outcomes: Sequence[Outcome]
) -> dict[str, _Before]:
    """The rows there are of the outcomes' files, by path as text."""
    rows = connection.execute(
        select(FileRow.path, FileRow.id, FileRow.attempts, FileRow.photo_id, FileRow.lease)
        .where(by_paths(collection, {o.file.path for o in outcomes}))
        .order_by(FileRow.id)
        .with_for_update()
    )
    return {row[0]: _Before(row[1], row[2], row[3], row[4]) for row in rows}


def _write_files(
    connection: Connection,
    collection_id: int,
    outcomes: Sequence[Outcome],
    photo_ids: dict[str, int],
    with_faces: set[int],
    before: dict[str, _Before],
) -> list[int]:
    """Bring the files' rows up to date; returns the photos that changed files held before."""
    added, changed, left = [], [], []
    for path, o in {to_text(o.file.path): o for o in outcomes}.items():
        was = before.get(path)
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
            "lease": None,
            # tried again, one that crashed must be read alone still
            "deaths": int(isinstance(o, Failed) and o.reason is Reason.CRASHED),
        }
        if was is None:
            added.append(row | {"collection_id": collection_id, "path": path, "attempts": 1})
            continue
        if isinstance(o, Failed) and o.reason in UNKNOWN:
            row["photo_id"] = was.photo_id  # what it holds now is not known: nothing goes
        elif was.photo_id not in (None, photo_id):
            left.append(was.photo_id)
        changed.append(row | {"row_id": was.row_id, "attempts": was.attempts + 1})
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
    return left


def _drop_frames(
    connection: Connection, collection: Collection, video: str, outcomes: Sequence[Outcome]
) -> list[int]:
    """Forget the frames of a video that are not among the outcomes; returns the photos they held.

    Those of which a face was erased stay, so that it does not come back.
    """
    paths = {to_text(o.file.path) for o in outcomes}
    unsure = any(isinstance(o, Failed) and o.reason in UNKNOWN for o in outcomes)
    if to_text(video) not in paths or unsure:
        return []
    begins = beginnings(video, "#t=")
    rows = connection.execute(
        select(FileRow.id, FileRow.path, FileRow.photo_id).where(
            FileRow.collection_id == collection.id,
            FileRow.state != ERASED,
            or_(*(func.substr(FileRow.path, 1, len(text)) == text for text in begins)),
        )
    ).all()
    gone = [(row_id, photo_id) for row_id, path, photo_id in rows if path not in paths]
    connection.execute(delete(FileRow).where(FileRow.id.in_([row_id for row_id, _ in gone])))
    return [photo_id for _, photo_id in gone if photo_id is not None]


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
            files=count(connection, FileRow, FileRow.state != PENDING),
            faces=count(connection, FaceRow),
            enrolled_faces=count(connection, FaceRow, FaceRow.identity_id.is_not(None)),
            identities=count(connection, IdentityRow),
            no_face=count(connection, FileRow, FileRow.state == NO_FACE),
            failures=count(connection, FileRow, FileRow.state == FAILED),
        )
