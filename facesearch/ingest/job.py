"""A job: one ingestion from its first file to its end, however it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from facesearch.errors import FacesearchError
from facesearch.store import jobs
from facesearch.store.collections import Collection
from facesearch.store.database import Database


@contextmanager
def job(
    database: Database, collection: Collection, kind: str, sources: Sequence[str]
) -> Iterator[int]:
    """Record a job; the block does it. Its end is recorded, whatever it is but SIGKILL."""
    number = jobs.start(database, collection, kind, sources)
    try:
        yield number
    except KeyboardInterrupt:
        with suppress(FacesearchError):
            jobs.finish(database, number, jobs.STOPPED)
        raise
    except BaseException as err:
        with suppress(FacesearchError):
            jobs.finish(database, number, jobs.FAILED, str(err) or type(err).__name__)
        raise
    database.patiently(partial(jobs.finish, database, number, jobs.DONE))
