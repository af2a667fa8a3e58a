"""How an engine ingests on a Ray cluster: its workers, placed and replaced by Ray."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from facesearch import library
from facesearch.crew import Crew, Task
from facesearch.errors import ClusterError, FacesearchError, StoreError, UsageError
from facesearch.store import jobs
from facesearch.values import Failure, JSONValue

if TYPE_CHECKING:
    from facesearch.ingest.hands import Finder, Work
    from facesearch.ingest.report import Report
    from facesearch.settings import Settings

LISTED_FILES = 16_384
"""Paths of a list that one task of the cluster looks up."""


class Fleet(Crew):
    """A crew that can work on the machines of a Ray cluster."""

    def _shared(
        self,
        on: str | None,
        task: Task,
        workers: int | None,
        progress: Callable[[Report], None],
    ) -> Report:
        """Do a task on a Ray cluster, or on this machine."""
        if on is None:
            return self._share(task, workers, progress)
        return self._share_on(on, task, workers, progress)

    def _share_on(
        self, on: str, task: Task, workers: int | None, progress: Callable[[Report], None]
    ) -> Report:
        """Do a task on a Ray cluster.

        Args:
            on: where Ray is, as `facesearch.ingest.cluster.connected` takes it.
            task: what is to be done.
            workers: how many there are to be; None: as many as there is room for.
            progress: told how the whole gets on.

        Raises:
            UsageError: Ray is not installed; the store is for one machine and the cluster is not
                it; or a node does not see the photos.
            ClusterError: the cluster does not answer, or gave up.
            FacesearchError: a worker's.
        """
        try:
            from facesearch.ingest import cluster, hands
        except ModuleNotFoundError as err:
            raise UsageError(f"--on needs '{err.name}': pip install 'facesearch[ray]'") from err
        with cluster.connected(on):
            if self.database.url.get_backend_name() == "sqlite" and not cluster.is_here():
                raise UsageError(
                    f"--on {on}: a store in SQLite is for one machine, and this cluster is not "
                    'this machine alone; set store.url = "postgresql+psycopg://..." '
                    "('facesearch migrate' copies a library there)"
                )
            where = hands.places(cluster.nodes(), self.settings.embed.device, workers)
            device = "cuda" if where.gpus else self.settings.embed.device.replace("auto", "cpu")
            settings = self.settings.override(
                embed_device=device, embed_threads=self.settings.embed.threads or where.cpus
            )
            member = partial(
                _member, self.root, settings, self._model_given, replace(task, listed=())
            )

            def told() -> None:
                try:
                    counts = self._counts(task.job)
                except StoreError:  # it is away: the workers wait for it, too
                    return
                progress(gathered(task.job, counts))
                if len(counts) > where.workers * (1 + hands.DEATHS):
                    died = len(counts) - where.workers
                    raise ClusterError(
                        f"workers on Ray died {died} times (perhaps for want of memory); what was "
                        "recorded stands: run the same command again to go on"
                    )

            began = time.monotonic()
            try:
                walked = cluster.run(_finders(task), member, where, told)
            finally:
                with suppress(FacesearchError):
                    self._dismiss(task.job)
        counts = self.database.patiently(partial(self._counts, task.job))
        report = gathered(task.job, counts, walked)
        report.seconds = time.monotonic() - began
        progress(report)
        return report

    def _counts(self, job: int) -> list[Mapping[str, JSONValue]]:
        return [worker.counts for worker in jobs.get(self.database, job).workers]

    def _dismiss(self, job: int) -> None:
        """Note that the workers of a job have ended; what they had in hand is free."""
        for worker in jobs.get(self.database, job).workers:
            jobs.leave(self.database, worker.id, worker.counts)


def _finders(task: Task) -> list[Finder]:
    """What looks for the photos of a task, in parts that can be looked for at once."""
    from facesearch.photos.find import find, find_listed

    listed = iter(task.listed)
    pieces = iter(lambda: tuple(islice(listed, LISTED_FILES)), ())
    return [
        *(partial(find, (root,)) for root in task.paths),
        *(partial(find_listed, piece) for piece in pieces),
    ]


@contextmanager
def _member(root: Path, settings: Settings, model_given: bool, task: Task) -> Iterator[Work]:
    """A worker of a fleet, in a process on whatever machine it was placed."""
    from facesearch.ingest.report import Report
    from facesearch.photos.find import find

    try:
        find(task.paths)
    except UsageError as err:  # better than every photo of this node recorded as missing
        raise UsageError(f"node {platform.node()}: {err}") from err
    report = Report()

    def told(_: Report) -> None:
        worker.shift.beat()  # after every batch, so that little is forgotten of one that dies

    def work(paths: Sequence[str | Failure]) -> Report:
        before, known = replace(report), len(report.failures)
        worker.run(paths, report, task.plan)
        worker.shift.beat()
        return Report(
            files=report.files - before.files,
            unchanged=report.unchanged - before.unchanged,
            failed_before=report.failed_before - before.failed_before,
            failures=report.failures[known:],
        )

    with (
        Fleet(library.reopened(root, settings, model_given)) as fleet,
        fleet._worker(task.job, task.collection, report, told) as worker,
    ):
        yield work


def gathered(
    job: int, workers: Iterable[Mapping[str, JSONValue]], walked: Report | None = None
) -> Report:
    """One report of workers none of which looks at the files of another.

    Args:
        job: number of their job.
        workers: what each has counted, those that died among them.
        walked: at the end, what is counted of hands: each once, also where two had a go at it.
    """
    from facesearch.ingest.report import Report

    whole = Report(job=job, workers=0)
    for counts in workers:
        whole.workers += 1
        for name in counts.keys() - {"job", "workers", "elsewhere", "seconds"}:
            setattr(whole, name, getattr(whole, name) + counts[name])
    if walked is not None:
        whole.files, whole.unchanged = walked.files, walked.unchanged
        whole.failed_before = walked.failed_before
        whole.failures, whole.ignored = walked.failures, walked.ignored
        whole.reading = whole.ready = whole.suspects = 0
        whole.elsewhere = max(0, whole.files - whole.unchanged - whole.processed)
    return whole
