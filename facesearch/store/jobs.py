"""Jobs: runs of `ingest`, `enroll` and `models activate`, and the processes at work on them.

A worker beats: it notes every few seconds that it lives and what it has done. One that has not been
heard of for `SILENCE_S`, or whose process on this machine is gone, is dead, and what it had in hand
is free. Beats are timed by the database's clock, so machines need not agree on theirs.
"""

from __future__ import annotations

from collections.abc import Collection as SizedIterable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, literal_column, select, update

from facesearch.errors import NotFoundError
from facesearch.store import processes
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.paths import from_text, to_text
from facesearch.store.tables import (
    CollectionRow,
    FileRow,
    JobRow,
    ReembeddingRow,
    WorkerRow,
    now,
)
from facesearch.values import JSONValue

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
"""States of a job as stored. Stopped: by Ctrl-C. Failed: by an error, which is kept."""
DEAD = "dead"
"""State of a job that never ended, but has no living worker left: it was killed."""

SILENCE_S = 60.0
"""A worker not heard of for this long is taken for dead."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A process at work on a job.

    Attributes:
        id: the store's id.
        host: the machine it runs on.
        process: its number there.
        alive: whether it is still at work.
        counts: what it had done at its last beat, by field of `facesearch.ingest.report.Report`.
    """

    id: int
    host: str
    process: int
    alive: bool
    counts: Mapping[str, JSONValue]


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    Attributes:
        id: the store's id.
        collection: name of the collection.
        kind: "ingest", "enroll" or "upgrade".
        sources: what was asked to be read.
        state: running, done, stopped, failed or dead.
        detail: why it failed.
        started_at: when, UTC.
        finished_at: when, UTC; None while it runs, and for one that was killed.
        workers: the processes, oldest first.
    """

    id: int
    collection: str
    kind: str
    sources: tuple[str, ...]
    state: str
    detail: str | None
    started_at: datetime
    finished_at: datetime | None
    workers: tuple[WorkerStatus, ...]


def start(database: Database, collection: Collection, kind: str, sources: Sequence[str]) -> int:
    """Record a new job, running; returns its id."""
    with database.write() as connection:
        return connection.execute(
            insert(JobRow)
            .values(
                collection_id=collection.id,
                kind=kind,
                sources=[to_text(source) for source in sources],
                state=RUNNING,
                started_at=now(),
            )
            .returning(JobRow.id)
        ).scalar_one()


def finish(database: Database, job: int, state: str, detail: str | None = None) -> None:
    """Record how a job ended."""
    with database.write() as connection:
        connection.execute(
            update(JobRow)
            .where(JobRow.id == job)
            .values(state=state, detail=to_text(detail) if detail else None, finished_at=now())
        )


def join(database: Database, job: int) -> int:
    """Record this process as a worker of a job; returns the worker's id."""
    with database.write() as connection:
        return connection.execute(
            insert(WorkerRow)
            .values(
                job_id=job,
                host=processes.HOST,
                process=processes.myself(),
                seen_ms=_clock_ms(connection),
                counts={},
                started_at=now(),
            )
            .returning(WorkerRow.id)
        ).scalar_one()


def beat(database: Database, worker: int, counts: Mapping[str, JSONValue]) -> None:
    """Note that a worker lives, and what it has done."""
    with database.write() as connection:
        connection.execute(
            update(WorkerRow)
            .where(WorkerRow.id == worker)
            .values(seen_ms=_clock_ms(connection), counts=dict(counts))
        )


def leave(database: Database, worker: int, counts: Mapping[str, JSONValue]) -> None:
    """Record that a worker is done; what it still has in hand is free for others."""
    with database.write() as connection:
        for row in (FileRow, ReembeddingRow):
            connection.execute(update(row).where(row.lease == worker).values(lease=None))
        connection.execute(
            update(WorkerRow)
            .where(WorkerRow.id == worker)
            .values(seen_ms=_clock_ms(connection), counts=dict(counts), finished_at=now())
        )


def dead(connection: Connection, workers: SizedIterable[int]) -> set[int]:
    """Those of the workers that have ended, or are not heard of any more."""
    if not workers:
        return set()
    rows = connection.execute(_workers(connection).where(WorkerRow.id.in_(workers)))
    living = {row[0] for row in rows if _alive(row)}
    return set(workers) - living


def every(database: Database, collection: Collection | None = None) -> list[Job]:
    """All jobs, of one collection or of all, newest first."""
    with database.read() as connection:
        condition = () if collection is None else (JobRow.collection_id == collection.id,)
        return _jobs(connection, *condition)


def get(database: Database, number: int) -> Job:
    """A job.

    Raises:
        NotFoundError: there is none of that number.
    """
    with database.read() as connection:
        found = _jobs(connection, JobRow.id == number)
    if not found:
        raise NotFoundError(f"no job {number}; 'facesearch jobs list' shows those there are")
    return found[0]


def _jobs(connection: Connection, *conditions: ColumnElement[bool]) -> list[Job]:
    rows = connection.execute(
        select(
            JobRow.id,
            CollectionRow.name,
            JobRow.kind,
            JobRow.sources,
            JobRow.state,
            JobRow.detail,
            JobRow.started_at,
            JobRow.finished_at,
        )
        .join(CollectionRow, CollectionRow.id == JobRow.collection_id)
        .where(*conditions)
        .order_by(JobRow.id.desc())
    ).all()
    workers: dict[int, list[WorkerStatus]] = {}
    query = _workers(connection).join(JobRow, JobRow.id == WorkerRow.job_id).where(*conditions)
    for row in connection.execute(query.order_by(WorkerRow.id)):
        worker, job, host, process, counts = row[:5]
        number = processes.number(process)
        status = WorkerStatus(worker, host, number, _alive(row), counts)
        workers.setdefault(job, []).append(status)
    jobs = []
    for id_, name, kind, sources, state, detail, started, finished in rows:
        mine = tuple(workers.get(id_, ()))
        killed = state == RUNNING and mine and not any(worker.alive for worker in mine)
        status_ = DEAD if killed else state
        named = tuple(map(from_text, sources))
        jobs.append(Job(id_, name, kind, named, status_, detail, started, finished, mine))
    return jobs


def _workers(connection: Connection) -> Any:
    return select(
        WorkerRow.id,
        WorkerRow.job_id,
        WorkerRow.host,
        WorkerRow.process,
        WorkerRow.counts,
        WorkerRow.finished_at,
        _clock_ms(connection) - WorkerRow.seen_ms,
    )


def _alive(row: Row[*tuple[Any, ...]]) -> bool:
    _, _, host, process, _, finished_at, silent_ms = row
    if finished_at is not None or silent_ms > SILENCE_S * 1000:
        return False
    return host != processes.HOST or processes.runs(process)


def _clock_ms(connection: Connection) -> ColumnElement[int]:
    """The database's clock, in milliseconds since the epoch."""
    if connection.dialect.name == "sqlite":
        return literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)")
    return literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)")
