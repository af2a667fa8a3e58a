"""Leases: which worker has which file in hand, so that no file is read by two at once.

A file is claimed by writing the worker's id beside it. Recording what became of it takes the lease
away. A lease lasts as long as its worker is heard of (`jobs`); then whoever meets the file takes it
over, and the first worker, should it come back, finds that its outcome is no longer wanted.

A worker that died may have died of a file. Which one is not known, so all that it had in hand are
suspects: each is claimed alone from then on, by a worker that has nothing else in hand, until it
has been read. So of the deaths that are counted for a file, only the first can be another's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, update

from facesearch.store import jobs, ledger
from facesearch.store.collections import Collection
from facesearch.store.database import Database, insert_new
from facesearch.store.ledger import PENDING, Known
from facesearch.store.outcomes import Failed, FileStamp
from facesearch.store.paths import to_text
from facesearch.store.tables import FileRow, now

Work = FileStamp | Failed
"""A file to be read, or one already seen to be unreachable."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of an attempt to claim some files.

    Attributes:
        mine: to be processed by the caller.
        held: in the hands of other workers.
        settled: what the ledger says of those that need nothing any more.
        suspects: those that a worker died with, and how many did; nobody has them in hand, and each
            is to be claimed alone.
    """

    mine: list[Work]
    held: list[Work]
    settled: list[Known]
    suspects: list[tuple[Work, int]]


def claim(
    database: Database,
    collection: Collection,
    work: Sequence[Work],
    worker: int,
    wanted: Callable[[Known, Work], bool],
    *,
    alone: bool = False,
) -> Claim:
    """Take files in hand, in one transaction; those of dead workers are taken from them.

    Args:
        database: the store.
        collection: of the files.
        work: a few hundred files at most; each path once.
        worker: the caller.
        wanted: whether a file that the ledger knows is to be processed.
        alone: `work` is one file, and the caller has nothing else in hand: it may be a suspect.

    Raises:
        StoreError, LibraryError, DiskFullError: nothing was claimed.
    """
    with database.write() as connection:
        # a row that another transaction is writing is as good as held: do not wait for it
        rows = connection.execute(
            ledger.SELECT_KNOWN.where(ledger.by_paths(collection, [stamp_of(w).path for w in work]))
            .order_by(FileRow.id)
            .with_for_update(skip_locked=True)
        ).all()
        known = {row[0]: (row[1], ledger.known_row(row)) for row in rows}
        holders = {k.lease for _, k in known.values() if k.lease not in (None, worker)}
        gone = jobs.dead(connection, [holder for holder in holders if holder is not None])
        new = _insert(connection, collection, [w for w in work if _text(w) not in known], worker)
        result = Claim([], [], [], [])
        taken, bereft = [], []
        for item in work:
            text = _text(item)
            if text not in known:
                (result.mine if text in new else result.held).append(item)
                continue
            row_id, before = known[text]
            if not wanted(before, item):
                result.settled.append(before)
                continue
            died = before.lease in gone
            if not died and before.lease not in (None, worker):
                result.held.append(item)
                continue
            if died:
                bereft.append(row_id)
            if alone or not before.deaths + died:
                taken.append(row_id)
                result.mine.append(item)
            else:
                result.suspects.append((item, before.deaths + died))
        if bereft:
            change = update(FileRow).where(FileRow.id.in_(bereft))
            connection.execute(change.values(lease=None, deaths=FileRow.deaths + 1))
        if taken:
            connection.execute(update(FileRow).where(FileRow.id.in_(taken)).values(lease=worker))
        return result


def _insert(
    connection: Connection, collection: Collection, work: Iterable[Work], worker: int
) -> set[str]:
    """Rows for files that have none; the texts of those that nobody else inserted meanwhile."""
    rows = [
        {
            "collection_id": collection.id,
            "path": _text(item),
            "size": stamp_of(item).size,
            "mtime_ns": stamp_of(item).mtime_ns,
            "state": PENDING,
            "attempts": 0,
            "updated_at": now(),
            "lease": worker,
        }
        for item in sorted(work, key=_text)
    ]
    if not rows:
        return set()
    statement = insert_new(connection, FileRow).returning(FileRow.path)
    return set(connection.execute(statement, rows).scalars())


def stamp_of(item: Work) -> FileStamp:
    """The file that a piece of work is about."""
    return item.file if isinstance(item, Failed) else item


def _text(item: Work) -> str:
    return to_text(stamp_of(item).path)
