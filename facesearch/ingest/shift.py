"""A worker's shift: from joining a job to leaving it, with a heartbeat in between."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from facesearch.errors import FacesearchError
from facesearch.ingest.report import Report
from facesearch.store import jobs
from facesearch.store.database import Database

BEAT_S = 5.0
"""Seconds between two heartbeats; a dozen may fail before a worker is taken for dead."""


class Shift:
    """One process's part in a job. In its `with` block the worker counts as alive.

    Leaving the block gives back every file it still has in hand.

    Args:
        database: the store.
        job: the job's id.
        report: what the worker counts in; every heartbeat writes it down.
    """

    def __init__(self, database: Database, job: int, report: Report) -> None:
        self.report = report
        self.worker = 0
        self._database = database
        self._job = job
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="facesearch-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.worker = self._database.patiently(partial(jobs.join, self._database, self._job))
        self.report.job = self._job
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._heart.join()
        leave = partial(jobs.leave, self._database, self.worker, self.report.counts())
        if value is None:
            self._database.patiently(leave)
        else:
            with suppress(FacesearchError):  # the first error is the one to tell
                leave()

    def beat(self) -> None:
        """Note that the worker lives, and what it has done, now."""
        with suppress(FacesearchError):  # the next may get through; if none does, others take over
            jobs.beat(self._database, self.worker, self.report.counts())

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            self.beat()
