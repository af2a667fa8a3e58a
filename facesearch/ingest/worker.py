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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Concatenate, ParamSpec, TypeVar

from facesearch.errors import ModelChangedError, PhotoError, Reason
from facesearch.faces.embedder import embed_each, nothing
from facesearch.faces.extract import Extraction
from facesearch.ingest.alone import Alone, too_many
from facesearch.ingest.flow import Counted, bounded_map
from facesearch.ingest.gate import ELSEWHERE, Gate, assessed
from facesearch.ingest.photo import Extract, read
from facesearch.ingest.plan import Plan, Target
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

R = TypeVar("R")
P = ParamSpec("P")


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
        alone: a process in which suspects are read, one at a time.
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
    alone: Callable[[], Alone]
    limit_s: float = 0.0
    gate: Gate = field(default_factory=Gate)
    progress: Callable[[Report], None] = lambda report: None
    load: Callable[[], None] = lambda: None

    @property
    def collection(self) -> Collection:
        """Where faces go, as last looked up."""
        return self.target.collection

    def run(self, paths: Iterable[str | Failure], report: Report, plan: Plan) -> Report:
        """Process every path that is not done yet; failures are recorded and the rest goes on.

        Files that another worker has in hand are left to it; at the end this one waits for them,
        and takes them over if the other dies. What a worker died with is read last, one at a time,
        in a process of its own.

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
            remaining = iter(paths)
            while not others.walked or others.holding or others.suspects:
                mine = self._to_do(remaining, report, plan, others)
                self._process(pool, mine, report, plan, others)
                read_alone = self._suspects(report, plan, others)
                left = self._left(report, plan, others)
                self._process(pool, left, report, plan, others)
                if others.walked and others.holding and not left and not read_alone:
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
            photos = Counted(self._photos(pool, work, report, plan, others))
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
        self, remaining: Iterator[str | Failure], report: Report, plan: Plan, others: _Others
    ) -> Iterator[Work]:
        """Files that are to be read, as this worker has claimed them; until suspects are many."""
        while len(others.suspects) <= MANY_HELD:
            chunk = list(islice(remaining, BATCH_FILES))
            if not chunk:
                others.walked = True
                return
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
        self,
        work: Sequence[Work],
        report: Report,
        plan: Plan,
        others: _Others,
        *,
        alone: bool = False,
    ) -> list[Work]:
        got = self._ask(
            leases.claim, self.collection, work, self.shift.worker, plan.wanted, alone=alone
        )
        others.holding += got.held
        others.suspects += got.suspects
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

    def _suspects(self, report: Report, plan: Plan, others: _Others) -> int:
        """Read what workers died with, the least suspicious first; returns how many it read.

        Nothing else must be in hand.
        """
        suspects = sorted(others.suspects, key=lambda suspect: suspect[1])
        others.suspects = []
        report.suspects, before = len(suspects), report.alone
        if suspects:
            self.progress(replace(report))
        with self.alone() as reader:
            for item, deaths in suspects:
                mine = self._claim([item], report, plan, others)
                if others.suspects:  # it is free still; in hand only when it can be read at once
                    item, deaths = others.suspects.pop()
                    if not too_many(stamp_of(item), deaths):
                        reader.start()
                    mine = self._claim([item], report, plan, others, alone=True)
                for file in mine:
                    self._follow_up(
                        partial(self._one_alone, reader, file, deaths, report, plan, others)
                    )
                    report.alone += 1
                report.suspects -= 1
        return report.alone - before

    def _one_alone(
        self,
        reader: Alone,
        file: Work,
        deaths: int,
        report: Report,
        plan: Plan,
        others: _Others,
    ) -> None:
        """Read a suspect, and record it."""
        if isinstance(file, Failed):
            return self._record([file], report, others)
        seen = too_many(file, deaths) or reader.read(file)
        if isinstance(seen, list):
            outcomes = [o for o in seen if not self._was_erased(o, plan)]
            return self._record(outcomes, report, others, file)
        if isinstance(seen, tuple):
            sha256, whole = seen[1].sha256, plan.restore_erased
            if self._ask(ledger.is_stored, self.collection, sha256, whole=whole):
                seen = Duplicate(file, sha256)
        return self._embed_and_record([seen], report, others)

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
        if plan.is_earlier(before):
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
        return read(self.extract, file, is_stored)

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
    """What this worker does not read with the rest.

    Attributes:
        holding: in other workers' hands.
        suspects: what workers died with, and how many did.
        walked: whether there are no more files to come.
    """

    holding: list[Work] = field(default_factory=list)
    suspects: list[tuple[Work, int]] = field(default_factory=list)
    walked: bool = False


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
