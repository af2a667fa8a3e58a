"""The ingestion worker: find -> skip what is known -> claim -> read, align -> embed -> record.

Reading, decoding, detecting and aligning run on a pool of threads (the libraries release the
interpreter lock); embedding and writing on the caller's thread, in batches. What is in flight is
bounded by `WINDOW` photos a thread, so memory does not grow with the archive. Every batch is one
transaction of the ledger: kill the process at any instant, run it again, and it goes on from there.

Any number of workers, in this or other processes or machines, may run on the same photos at once:
each claims a few files at a time (`facesearch.store.leases`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from facesearch.errors import FacesearchError, ModelChangedError, PhotoError, Reason
from facesearch.faces.embedder import Embedder, embed_each, nothing
from facesearch.faces.extract import Extraction
from facesearch.ingest.gate import ELSEWHERE, Gate, assessed
from facesearch.ingest.report import Report
from facesearch.ingest.shift import Shift
from facesearch.ingest.watch import WatchedPool
from facesearch.photos import place
from facesearch.photos.video import is_video
from facesearch.store import leases, ledger
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.leases import Work, stamp_of
from facesearch.store.ledger import Known
from facesearch.store.outcomes import (
    Container,
    Duplicate,
    Extracted,
    Failed,
    FileStamp,
    Outcome,
)
from facesearch.store.tables import now
from facesearch.values import Crops, Embeddings, Failure

WINDOW = 4
"""Photos in flight a worker thread."""
BATCH_FACES = 64
"""Faces embedded and written together."""
BATCH_FILES = 256
"""Files looked up, or written, together at the most."""
BATCH_SECONDS = 5.0
"""A batch is written after this long even if it is not full."""
CLAIM_FILES = 64
"""Files taken in hand at once: few, so that workers finish together; a transaction each time."""
MANY_HELD = 4096
"""Files met in other workers' hands that are looked at again before the end."""
POLL_SECONDS = 0.5
"""Pause before looking again for files that other workers still have in hand."""

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class Extract(Protocol):
    """Reads one photo: file to aligned faces. Called from many threads at once."""

    def __call__(self, path: str, known: Callable[[str], bool]) -> Extraction | str:
        """The photo's faces; or its sha256 alone where `known(sha256)` says it is stored.

        Raises:
            PhotoError: the photo cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """Which unchanged files are read again.

    Attributes:
        retry_failed: those that failed because of their content; those that failed for a reason
            that may have passed (`TRANSIENT`) are always tried again.
        restore_erased: those of which a face was erased; only enrolment, where the user names the
            person, does this.
        began: when the job began: what was recorded since is this job's, or another's that runs
            at the same time, and is not tried again.
    """

    retry_failed: bool = False
    restore_erased: bool = False
    began: datetime = field(default_factory=now)

    def wanted(self, before: Known, item: Work) -> bool:
        """Whether a file that the ledger knows is to be processed."""
        if before.state == ledger.PENDING:
            return True
        if isinstance(item, Failed):  # what was stored before it vanished stands
            return before.state == ledger.FAILED and before.recorded_at < self.began
        if before.state == ledger.GONE or before.stamp != item:
            return True
        if before.state == ledger.FAILED:
            again = self.retry_failed or before.reason in ledger.TRANSIENT
            return again and before.recorded_at < self.began
        return self.restore_erased and before.state == ledger.ERASED


@dataclass(slots=True)
class Target:
    """Where faces go, and by which model: the collection may go over to another meanwhile.

    Attributes:
        collection: where faces go.
        embedder: gives what makes vectors of aligned faces, of the collection's contract; asked
            for when the first face is there.
        look_up: gives both as they are now.
    """

    collection: Collection
    embedder: Callable[[], Embedder]
    look_up: Callable[[], tuple[Collection, Callable[[], Embedder]]]

    def follow(self) -> None:
        """Look both up again."""
        self.collection, self.embedder = self.look_up()


@dataclass(frozen=True, slots=True)
class Worker:
    """One ingestion worker, wired.

    Attributes:
        database: the store.
        target: where faces go.
        extract: file to aligned faces.
        threads: size of the pool that extracts.
        shift: this process's part in the job.
        film: a video to its outcome and those of its frames that are kept; calls its second
            argument with every frame.
        limit_s: how long a photo may take, or a video between two frames, until it is given up;
            0 for any time.
        gate: which faces are stored.
        progress: called with the report so far, after every batch and every few hundred files.
        load: makes `extract` ready; called before every photo, its time does not count.
    """

    database: Database
    target: Target
    extract: Extract
    threads: int
    shift: Shift
    film: Callable[[FileStamp, Callable[[], None]], list[Outcome]]
    limit_s: float = 0.0
    gate: Gate = field(default_factory=Gate)
    progress: Callable[[Report], None] = lambda report: None
    load: Callable[[], None] = lambda: None

    @property
    def collection(self) -> Collection:
        """Where faces go, as last looked up."""
        return self.target.collection

    def run(self, paths: Iterable[str | Failure], report: Report, plan: Plan = Plan()) -> Report:
        """Process every path that is not done yet; failures are recorded and the rest goes on.

        Files that another worker has in hand are left to it; at the end this one waits for them,
        and takes them over if the other dies.

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
        pool = WatchedPool[Work](self.threads, self.limit_s, _overdue)
        others = _Others()
        try:
            self._process(pool, self._to_do(paths, report, plan, others), report, plan, others)
            while others.holding:
                mine = self._left(report, plan, others)
                self._process(pool, mine, report, plan, others)
                if others.holding and not mine:
                    time.sleep(POLL_SECONDS)
        finally:
            pool.shutdown()
            report.seconds += time.monotonic() - started
        return report

    def _process(
        self,
        pool: WatchedPool[Work],
        work: Iterable[Work],
        report: Report,
        plan: Plan,
        others: _Others,
    ) -> None:
        """Extract, embed and record claimed work, in batches."""
        pending: list[Outcome | tuple[FileStamp, Extraction]] = []
        faces, since = 0, time.monotonic()
        try:
            one = partial(self._one, pool=pool, plan=plan)
            photos = _Counted(self._photos(pool, work, report, plan, others))
            for done, item in enumerate(bounded_map(pool, one, photos, WINDOW * self.threads), 1):
                pending.append(item)
                report.reading = pool.depth
                report.ready = max(0, photos.count - done - report.reading) + len(pending)
                faces += len(item[1].detections) if isinstance(item, tuple) else 0
                full = faces >= BATCH_FACES or len(pending) >= BATCH_FILES
                if full or time.monotonic() - since > BATCH_SECONDS:
                    self._flush(pending, report, others)
                    pending, faces, since = [], 0, time.monotonic()
            report.reading = report.ready = 0
            self._flush(pending, report, others)
        except KeyboardInterrupt:
            pool.shutdown()
            self._flush(pending, report, others)
            raise

    def _to_do(
        self, paths: Iterable[str | Failure], report: Report, plan: Plan, others: _Others
    ) -> Iterator[Work]:
        """Files that are to be read, as this worker has claimed them."""
        remaining = iter(paths)
        while chunk := list(islice(remaining, BATCH_FILES)):
            work = {stamp_of(item).path: item for item in map(_stamp, chunk)}
            known = self._ask(ledger.known, self.collection, work)
            report.files += len(chunk)
            report.unchanged += len(chunk) - len(work)  # named twice
            self.progress(replace(report))
            fresh = []
            for path, item in work.items():
                before = known.get(path)
                if before is None:
                    fresh.append(item)
                elif not plan.wanted(before, item):
                    self._settled(before, report, plan)
                elif before.lease in (None, self.shift.worker):
                    fresh.append(item)
                else:
                    others.holding.append(item)
            for hand in _hands(fresh):
                yield from self._claim(hand, report, plan, others)
            if len(others.holding) > MANY_HELD:
                yield from self._left(report, plan, others)

    def _claim(
        self, work: Sequence[Work], report: Report, plan: Plan, others: _Others
    ) -> list[Work]:
        got = self._ask(leases.claim, self.collection, work, self.shift.worker, plan.wanted)
        others.holding += got.held
        for before in got.settled:
            self._settled(before, report, plan)
        return got.mine

    def _left(self, report: Report, plan: Plan, others: _Others) -> list[Work]:
        """Take over what workers that died since had in hand; forget what is done by now."""
        held, others.holding = others.holding, []
        mine: list[Work] = []
        for start in range(0, len(held), BATCH_FILES):
            mine += self._claim(held[start : start + BATCH_FILES], report, plan, others)
        return mine

    def _photos(
        self,
        pool: WatchedPool[Work],
        work: Iterable[Work],
        report: Report,
        plan: Plan,
        others: _Others,
    ) -> Iterator[Work]:
        """The work but for videos, which are done here and now, each in one transaction."""
        for item in work:
            if isinstance(item, Failed) or not is_video(item.path):
                yield item
                continue
            self._follow_up(partial(self._whole_video, item, pool, report, plan, others))

    def _whole_video(
        self,
        video: FileStamp,
        pool: WatchedPool[Work],
        report: Report,
        plan: Plan,
        others: _Others,
    ) -> None:
        def film(item: Work) -> list[Outcome] | Failed:
            return self.film(stamp_of(item), pool.alive)

        seen = pool.submit(film, video).result()
        found = [seen] if isinstance(seen, Failed) else seen  # the former: it took too long
        outcomes = [o for o in found if not self._was_erased(o, plan)]
        self._record(outcomes, report, others, video)

    def _follow_up(self, embed_and_record: Callable[[], None]) -> None:
        """Do it, by the new model if the collection went over to one; each is a transaction."""
        while True:
            try:
                return embed_and_record()
            except ModelChangedError:
                self.target.follow()

    def _was_erased(self, outcome: Outcome, plan: Plan) -> bool:
        """Whether a frame is of a video read before, and a face in it was erased since."""
        if plan.restore_erased or not isinstance(outcome, Extracted):
            return False
        stored, whole = (
            self._ask(ledger.is_stored, self.collection, outcome.sha256, whole=whole)
            for whole in (False, True)
        )
        return stored and not whole

    def _settled(self, before: Known, report: Report, plan: Plan) -> None:
        """Count a file that needs nothing."""
        if before.recorded_at < plan.began:
            report.unchanged += 1
            report.failed_before += before.state == ledger.FAILED
        else:
            report.elsewhere += 1

    def _one(
        self, file: Work, pool: WatchedPool[Work], plan: Plan
    ) -> Outcome | tuple[FileStamp, Extraction]:
        if isinstance(file, Failed):
            return file

        def is_stored(sha256: str) -> bool:
            whole = plan.restore_erased
            with pool.untimed():  # the server may be away
                return self._ask(ledger.is_stored, self.collection, sha256, whole=whole)

        with pool.untimed():
            self.load()
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

    def _flush(
        self,
        pending: list[Outcome | tuple[FileStamp, Extraction]],
        report: Report,
        others: _Others,
    ) -> None:
        if pending:
            self._follow_up(partial(self._embed_and_record, pending, report, others))

    def _embed_and_record(
        self,
        pending: list[Outcome | tuple[FileStamp, Extraction]],
        report: Report,
        others: _Others,
    ) -> None:
        extractions = [item[1] for item in pending if isinstance(item, tuple)]
        embedded = iter(self._embedded([e.crops for e in extractions]))
        outcomes: list[Outcome] = [
            item if not isinstance(item, tuple) else assessed(self.gate, *item, next(embedded))
            for item in pending
        ]
        self._record(outcomes, report, others)

    def _record(
        self,
        outcomes: Sequence[Outcome],
        report: Report,
        others: _Others,
        video: FileStamp | None = None,
    ) -> None:
        """Record outcomes, of photos or of one video and its frames, and count them."""
        done = self._ask(
            ledger.record_leased,
            self.collection,
            outcomes,
            self.shift.worker,
            video.path if video else None,
        )
        others.holding += done.again
        report.photos += done.photos
        report.frames += done.photos if video else 0
        report.faces += done.faces
        report.changed += done.changed
        report.faces_removed += done.faces_removed
        report.enrolled_kept += done.enrolled_kept
        read = sum(isinstance(outcome, Extracted) for outcome in done.outcomes)
        report.duplicates += 0 if video else read - done.photos
        for outcome in done.outcomes:
            match outcome:
                case Failed(file, reason, detail):
                    report.add_failure(Failure(file.path, reason.value, detail))
                case Duplicate():
                    report.duplicates += 1
                case Extracted(detections=detections, rejected=rejected):
                    report.rejected += sum(why not in ("", ELSEWHERE) for why in rejected)
                    report.no_face += len(detections) == 0
                case Container(faces=faces):
                    report.videos += 1
                    report.no_face += faces == 0
        lost = len(outcomes) - len(done.outcomes) - len(done.again)
        report.elsewhere += lost if video is None else lost > 0
        self.progress(replace(report))

    def _embedded(self, groups: list[Crops]) -> list[Embeddings]:
        """The embeddings of each photo's faces; without any, the model is not even loaded."""
        if not any(len(crops) for crops in groups):
            return [nothing(self.collection.contract)] * len(groups)
        return embed_each(self.target.embedder(), groups)

    def _ask(
        self, operation: Callable[Concatenate[Database, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """An operation on the store, waiting for a server that is away."""
        return self.database.patiently(partial(operation, self.database, *args, **kwargs))


@dataclass(slots=True)
class _Others:
    """Work that is in other workers' hands, and what was taken over from them."""

    holding: list[Work] = field(default_factory=list)


class _Counted(Iterator[T]):
    """An iterator that knows how many it has given."""

    def __init__(self, items: Iterable[T]) -> None:
        self.count = 0
        self._items = iter(items)

    def __next__(self) -> T:
        item = next(self._items)
        self.count += 1
        return item


def bounded_map(
    pool: ThreadPoolExecutor | WatchedPool[T],
    function: Callable[[T], R],
    items: Iterable[T],
    window: int,
) -> Iterator[R]:
    """`map` on a pool, in order, with at most `window` results computed ahead."""
    source = iter(items)
    futures: deque[Future[R]] = deque(pool.submit(function, x) for x in islice(source, window))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, x) for x in islice(source, 1))
        yield result


def _overdue(item: Work, limit_s: float) -> Failed:
    return Failed(stamp_of(item), Reason.TIMEOUT, f"took longer than {limit_s:g} s")


def _hands(fresh: Sequence[Work]) -> Iterator[Sequence[Work]]:
    """What is claimed together: a few photos, or one video, which takes long."""
    photos = [item for item in fresh if not is_video(stamp_of(item).path)]
    for start in range(0, len(photos), CLAIM_FILES):
        yield photos[start : start + CLAIM_FILES]
    for item in fresh:
        if is_video(stamp_of(item).path):
            yield [item]


def _stamp(path: str | Failure) -> FileStamp | Failed:
    if isinstance(path, Failure):
        return Failed(FileStamp(path.path, 0, 0), Reason(path.reason), path.detail)
    try:
        return FileStamp(path, *place.stamp(path))
    except PhotoError as err:
        return Failed(FileStamp(path, 0, 0), err.reason, err.detail)
