"""A collection's ledger in few lines: files by state, failures by reason."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.ledger import FAILED
from facesearch.store.paths import from_text
from facesearch.store.tables import FileRow
from facesearch.values import Failure


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason of failures: its name, how many files failed for it, and the first of them."""

    reason: str
    files: int
    examples: tuple[Failure, ...]


def states(database: Database, collection: Collection) -> dict[str, int]:
    """How many files are in each state; frames of videos are files."""
    query = select(FileRow.state, func.count()).where(FileRow.collection_id == collection.id)
    with database.read() as connection:
        return {s: n for s, n in connection.execute(query.group_by(FileRow.state))}


def causes(database: Database, collection: Collection, examples: int) -> list[Cause]:
    """The reasons of all failures there are, most frequent first, each with so many examples."""
    failed = FileRow.collection_id == collection.id, FileRow.state == FAILED
    count = select(FileRow.reason, func.count()).where(*failed).group_by(FileRow.reason)
    some = select(FileRow.path, FileRow.detail, FileRow.attempts).order_by(FileRow.path)
    found = []
    with database.read() as connection:
        for reason, files in connection.execute(count).all():
            rows = connection.execute(some.where(*failed, FileRow.reason == reason).limit(examples))
            shown = (Failure(from_text(p), reason or "", d or "", n) for p, d, n in rows)
            found.append(Cause(reason or "", files, tuple(shown)))
    return sorted(found, key=lambda cause: (-cause.files, cause.reason))
