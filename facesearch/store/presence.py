"""Files that are not where they were: moved, or gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, or_, select, update

from facesearch.store import photo_rows
from facesearch.store.collections import Collection, bump
from facesearch.store.database import Database
from facesearch.store.ledger import DONE, FAILED, GONE, NO_FACE
from facesearch.store.paths import from_text, prefixes, to_text
from facesearch.store.tables import FaceRow, FileRow, now


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file in the ledger."""

    id: int
    path: str


def under(
    database: Database, collection: Collection, roots: Sequence[str], after: int, limit: int
) -> list[Recorded]:
    """Files at or under `roots` that were read once and that nobody has in hand, by id.

    Args:
        database: the store.
        collection: where to look.
        roots: absolute paths.
        after: only files whose id is larger.
        limit: how many at most.
    """
    query = (
        select(FileRow.id, FileRow.path)
        .where(
            FileRow.collection_id == collection.id,
            FileRow.id > after,
            FileRow.state.in_([DONE, NO_FACE, FAILED]),
            FileRow.lease.is_(None),
            _at(roots),
        )
        .order_by(FileRow.id)
        .limit(limit)
    )
    with database.read() as connection:
        return [Recorded(id_, from_text(path)) for id_, path in connection.execute(query)]


def missing(database: Database, files: Sequence[Recorded]) -> tuple[int, int]:
    """Record that files are not there any more.

    A file whose bytes lie elsewhere too leaves that place alone behind; one of which nothing was
    stored, that never could be read or is a video (its frames are files of their own), leaves
    nothing; any other is marked gone, and what was stored of it stays.

    Args:
        database: the store.
        files: those that are missing.

    Returns:
        The number of files whose bytes lie elsewhere, moved there or as a copy, and of files gone;
        videos are not counted, their frames are.
    """
    ids = [file.id for file in files]
    with database.write() as connection:
        there = (FileRow.id.in_(ids)) & FileRow.lease.is_(None)
        empty = delete(FileRow).where(there, FileRow.photo_id.is_(None))
        videos = connection.execute(empty.where(FileRow.state != FAILED)).rowcount
        connection.execute(empty)
        connection.execute(update(FileRow).where(there).values(state=GONE, updated_at=now()))
        photos = dict(
            connection.execute(
                select(FileRow.id, FileRow.photo_id).where(there, FileRow.state == GONE)
            ).all()
        )
        held = {photo for photo in photos.values() if photo is not None}
        other = select(FileRow.photo_id).where(FileRow.photo_id.in_(held), FileRow.state != GONE)
        elsewhere = set(connection.execute(other).scalars())
        leaving = [file for file, photo in photos.items() if photo in elsewhere]
        connection.execute(delete(FileRow).where(FileRow.id.in_(leaving)))
    return len(leaving), len(files) - len(leaving) - videos


def gone(database: Database, collection: Collection, roots: Sequence[str]) -> int:
    """How many files at or under `roots` are marked gone and still have something stored."""
    query = select(func.count()).select_from(FileRow).where(*_gone(collection, roots))
    with database.read() as connection:
        return connection.execute(query).scalar_one()


def prune(database: Database, collection: Collection, roots: Sequence[str]) -> tuple[int, int]:
    """Delete the photos of files at or under `roots` that are gone, with their faces.

    A photo from which somebody is enrolled stays: people are removed by name.

    Returns:
        The number of faces removed, and of photos kept.
    """
    enrolled = (
        select(FaceRow.id)
        .where(FaceRow.photo_id == FileRow.photo_id, FaceRow.identity_id.is_not(None))
        .exists()
    )
    with database.write() as connection:
        revision = bump(connection, collection.id)
        rows = connection.execute(
            select(FileRow.id, FileRow.photo_id, enrolled).where(*_gone(collection, roots))
        ).all()
        leaving = {file: photo for file, photo, kept in rows if not kept and photo is not None}
        connection.execute(update(FileRow).where(FileRow.id.in_(leaving)).values(photo_id=None))
        removed, _ = photo_rows.drop_orphans(
            connection, collection.id, revision, set(leaving.values())
        )
    database.scrub()
    return removed, len(rows) - len(leaving)


def _gone(collection: Collection, roots: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    return (
        FileRow.collection_id == collection.id,
        FileRow.state == GONE,
        FileRow.photo_id.is_not(None),
        _at(roots),
    )


def _at(roots: Sequence[str]) -> ColumnElement[bool]:
    """Condition: a path at or under one of `roots`."""
    same = FileRow.path.in_([to_text(root) for root in roots])
    lengths: dict[int, list[str]] = {}  # an OR of each by itself is deeper than SQLite goes
    for text in (text for root in roots for text in prefixes(root)):
        lengths.setdefault(len(text), []).append(text)
    return or_(same, *(func.substr(FileRow.path, 1, n).in_(texts) for n, texts in lengths.items()))
