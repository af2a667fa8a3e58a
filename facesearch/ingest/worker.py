"""The ingestion worker: find -> skip what is known -> read, detect, align -> embed -> record.

Reading, decoding, detecting and aligning run on a pool of threads (the libraries release the
interpreter lock); embedding and writing on the caller's thread, in batches. What is in flight is
bounded by `WINDOW` photos a thread, so memory does not grow with the archive. Every batch is one
transaction of the ledger: kill the process at any instant, run it again, and it goes on from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from facesearch.errors import FacesearchError, PhotoError, Reason
from facesearch.faces.embedder import Embedder, embed_each
from facesearch.faces.extract import Extraction
from facesearch.faces.quality import quality
from facesearch.ingest.gate import Gate
from facesearch.photos import place
from facesearch.store import ledger
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.ledger import Duplicate, Extracted, Failed, FileStamp, Known, Outcome
from facesearch.values import Embeddings, Failure

WINDOW = 16
"""Photos in flight a worker thread."""
BATCH_FACES = 64
"""Faces embedded and written together."""
BATCH_FILES = 256
"""Files looked up, or written, together at the most."""
BATCH_SECONDS = 5.0
"""A batch is written after this long even if it is not full."""

TRANSIENT = frozenset({Reason.MISSING, Reason.UNREADABLE, Reason.TIMEOUT, Reason.INTERNAL})
"""Reasons that may be gone at the next run, though the file has not changed."""

T = TypeVar("T")
R = TypeVar("R")


class Extract(Protocol):
    """Reads one photo: file to aligned faces. Called from many threads at once."""

    def __call__(self, path: str, known: Callable[[str], bool]) -> Extraction | str:
        """The photo's faces; or its sha256 alone where `known(sha256)` says it is stored.

        Raises:
            PhotoError: the photo cannot be read.
        """


@dataclass(slots=True)
class Report:
    """What an ingestion did.

    Attributes:
        files: files looked at.
        unchanged: of these, known from an earlier run and skipped.
        failed_before: of these, files that failed in an earlier run and were not tried again.
        photos: photos added.
        duplicates: files whose bytes were there already under another path.
        faces: faces added.
        rejected: faces found and not stored, because of the policy.
        no_face: files in which no face was found.
        failed: number of files that could not be processed.
        failures: the first `MAX_FAILURES` of them; the ledger has all.
        ignored: files passed over in folders because they are not photos, by suffix.
        seconds: wall time.
    """

    files: int = 0
    unchanged: int = 0
    failed_before: int = 0
    photos: int = 0
    duplicates: int = 0
    faces: int = 0
    rejected: int = 0
    no_face: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    MAX_FAILURES = 1000

    def add_failure(self, failure: Failure) -> None:
        """Count a failure, and keep it if there is room."""
        self.failed += 1
        if len(self.failures) < self.MAX_FAILURES:
            self.failures.append(failure)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which unchanged files are read again.

    Attributes:
        retry_failed: those that failed because of their content; those that failed for a reason
            that may have passed (`TRANSIENT`) are always tried again.
        restore_erased: those of which a face was erased; only enrolment, where the user names the
            person, does this.
    """

    retry_failed: bool = False
    restore_erased: bool = False

    def again(self, before: Known) -> bool:
        """Whether a file the ledger knows, and that has not changed, is read again."""
        if before.state == ledger.FAILED:
            return self.retry_failed or before.reason in TRANSIENT
        return self.restore_erased and before.state == ledger.ERASED


@dataclass(frozen=True, slots=True)
class Worker:
    """One ingestion worker, wired.

    Attributes:
        database: the store.
        collection: where faces go.
        extract: file to aligned faces.
        embedder: aligned faces to vectors, of the collection's contract.
        threads: size of the pool that extracts.
        gate: which faces are stored.
        progress: called with the report so far after every batch.
    """

    database: Database
    collection: Collection
    extract: Extract
    embedder: Embedder
    threads: int
    gate: Gate = field(default_factory=Gate)
    progress: Callable[[Report], None] = lambda report: None

    def run(self, paths: Iterable[str | Failure], report: Report, plan: Plan = Plan()) -> Report:
        """Process every path that is not done yet; failures are recorded and the rest goes on.

        On Ctrl-C, what was extracted is embedded and recorded before KeyboardInterrupt goes on.

        Args:
            paths: absolute paths; a failure to find one is recorded.
            report: counts are added to it, and it is returned.
            plan: what counts as done.

        Raises:
            StoreError, LibraryError, DiskFullError: the store cannot be written; what was recorded
                before stands, and running again goes on from there.
        """
        started = time.monotonic()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="facesearch-extract")
        pending: list[Outcome | tuple[FileStamp, Extraction]] = []
        faces, since = 0, started
        try:
            work = self._to_do(paths, report, plan)
            one = partial(self._one, plan=plan)
            for item in bounded_map(pool, one, work, WINDOW * self.threads):
                pending.append(item)
                faces += len(item[1].detections) if isinstance(item, tuple) else 0
                full = faces >= BATCH_FACES or len(pending) >= BATCH_FILES
                if full or time.monotonic() - since > BATCH_SECONDS:
                    self._flush(pending, report)
                    pending, faces, since = [], 0, time.monotonic()
            self._flush(pending, report)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            self._flush(pending, report)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            report.seconds += time.monotonic() - started
        return report

    def _to_do(
        self, paths: Iterable[str | Failure], report: Report, plan: Plan
    ) -> Iterator[FileStamp | Failed]:
        """Files that the ledger does not have, has differently, or is to read again."""
        remaining = iter(paths)
        while chunk := list(islice(remaining, BATCH_FILES)):
            names = [item.path if isinstance(item, Failure) else item for item in chunk]
            known = ledger.known(self.database, self.collection, names)
            report.files += len(chunk)
            for path, item in zip(names, chunk, strict=True):
                stamp, before = _stamp(item), known.get(path)
                if isinstance(stamp, Failed):
                    if before is None or before.state == ledger.FAILED:
                        yield stamp
                    else:  # it was ingested and has vanished since: what is stored stands
                        report.unchanged += 1
                elif before is None or before.stamp != stamp or plan.again(before):
                    yield stamp
                else:
                    report.unchanged += 1
                    report.failed_before += before.state == ledger.FAILED

    def _one(self, file: FileStamp | Failed, plan: Plan) -> Outcome | tuple[FileStamp, Extraction]:
        if isinstance(file, Failed):
            return file
        is_stored = partial(
            ledger.is_stored, self.database, self.collection, whole=plan.restore_erased
        )
        try:
            extraction = self.extract(file.path, is_stored)
        except PhotoError as err:
            return Failed(file, err.reason, err.detail)
        except FacesearchError:
            raise
        except Exception as err:  # noqa: BLE001 - one photo must not end the job; recorded
            return Failed(file, Reason.INTERNAL, f"{type(err).__name__}: {err}")
        if isinstance(extraction, str):
            return Duplicate(file, extraction)
        return file, extraction

    def _flush(self, pending: list[Outcome | tuple[FileStamp, Extraction]], report: Report) -> None:
        if not pending:
            return
        extractions = [item[1] for item in pending if isinstance(item, tuple)]
        embedded = iter(embed_each(self.embedder, [e.crops for e in extractions]))
        outcomes: list[Outcome] = [
            item if not isinstance(item, tuple) else self._assessed(*item, next(embedded))
            for item in pending
        ]
        report.faces += ledger.record(self.database, self.collection, outcomes)
        for outcome in outcomes:
            match outcome:
                case Failed(file, reason, detail):
                    report.add_failure(Failure(file.path, reason.value, detail))
                case Duplicate():
                    report.duplicates += 1
                case Extracted(detections=detections, rejected=rejected):
                    report.photos += 1
                    report.rejected += sum(map(bool, rejected))
                    report.no_face += len(detections) == 0
        self.progress(replace(report))

    def _assessed(self, file: FileStamp, found: Extraction, embedded: Embeddings) -> Extracted:
        figures = quality(found.measures, embedded)
        rejected = self.gate(found.detections, found.measures, figures)
        return Extracted(
            file,
            found.sha256,
            found.size,
            found.detections,
            embedded,
            figures,
            rejected,
            found.facts,
        )


def bounded_map(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], window: int
) -> Iterator[R]:
    """`map` on a pool, in order, with at most `window` results computed ahead."""
    source = iter(items)
    futures: deque[Future[R]] = deque(pool.submit(function, x) for x in islice(source, window))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, x) for x in islice(source, 1))
        yield result


def _stamp(path: str | Failure) -> FileStamp | Failed:
    if isinstance(path, Failure):
        return Failed(FileStamp(path.path, 0, 0), Reason(path.reason), path.detail)
    try:
        return FileStamp(path, *place.stamp(path))
    except PhotoError as err:
        return Failed(FileStamp(path, 0, 0), err.reason, err.detail)
