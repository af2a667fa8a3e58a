"""Embedding stored faces by another model: claim -> read the photo, align -> embed -> store.

Where the faces are is known, so nothing is detected and each photo is decoded once. As ingestion,
it may be killed at any instant and run again, and several processes may share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from facesearch.errors import FacesearchError, PhotoError, Reason
from facesearch.faces.embedder import Embedder, embed_each
from facesearch.ingest.flow import bounded_map
from facesearch.ingest.report import Report
from facesearch.ingest.shift import Shift
from facesearch.ingest.worker import BATCH_FACES, POLL_SECONDS, WINDOW
from facesearch.store import reembeddings
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.reembeddings import StoredPhoto
from facesearch.values import Crops, Failure

CHANGED = "changed"
"""Reason of a photo whose files hold other bytes now."""

P = ParamSpec("P")
R = TypeVar("R")
Outcome = tuple[StoredPhoto, Crops | Failure]


class PhotoGone(Exception):
    """The faces of a photo cannot be cut out again: why, in a word and in a line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Reembedder:
    """Fills a set of vectors.

    Attributes:
        database: the store.
        view: the collection by the set to be filled.
        crops: a stored photo's faces, aligned; raises PhotoGone. Called from many threads.
        embedder: of the set's contract.
        threads: size of the pool that reads.
        shift: this process's part in the job.
        progress: called with the report so far after every batch.
    """

    database: Database
    view: Collection
    crops: Callable[[StoredPhoto], Crops]
    embedder: Callable[[], Embedder]
    threads: int
    shift: Shift
    progress: Callable[[Report], None] = lambda report: None

    def run(self, report: Report) -> None:
        """Embed every face that lacks a vector in the set; photos that fail are recorded.

        Waits for photos that other workers have in hand, and takes them over if those die.

        Args:
            report: photos, faces and failures are added to it.

        Raises:
            StoreError, LibraryError, DiskFullError: the store cannot be written; what was recorded
                before stands.
        """
        began = time.monotonic()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="facesearch-reembed")
        try:
            while True:
                claimed = False
                pending: list[Outcome] = []
                faces = 0
                for item in bounded_map(pool, self._one, self._claims(), WINDOW * self.threads):
                    claimed = True
                    pending.append(item)
                    faces += len(item[0].face_ids)
                    if faces >= BATCH_FACES:
                        self._flush(pending, report)
                        pending, faces = [], 0
                self._flush(pending, report)
                if not claimed:
                    if not self._ask(reembeddings.in_hand, self.view, self.shift.worker):
                        return
                    time.sleep(POLL_SECONDS)
        finally:
            pool.shutdown(cancel_futures=True)
            report.seconds += time.monotonic() - began

    def _claims(self) -> Iterator[StoredPhoto]:
        last = 0
        while found := self._ask(reembeddings.claim, self.view, self.shift.worker, last):
            yield from found
            last = found[-1].id

    def _one(self, photo: StoredPhoto) -> Outcome:
        try:
            return photo, self.crops(photo)
        except PhotoGone as err:
            reason, detail = err.reason, err.detail
        except FacesearchError:
            raise
        except Exception as err:  # noqa: BLE001 - one photo must not end the job; recorded
            reason, detail = Reason.INTERNAL.value, f"{type(err).__name__}: {err}"
        return photo, Failure(photo.paths[0] if photo.paths else "(no file)", reason, detail)

    def _flush(self, pending: list[Outcome], report: Report) -> None:
        if not pending:
            return
        read = [(photo, found) for photo, found in pending if not isinstance(found, Failure)]
        failed = [(photo, found) for photo, found in pending if isinstance(found, Failure)]
        groups = [crops for _, crops in read]
        embedded = embed_each(self.embedder(), groups) if groups else []
        done = [
            reembeddings.Embedded(photo.id, photo.face_ids, vectors.vectors)
            for (photo, _), vectors in zip(read, embedded, strict=True)
        ]
        why = [(photo.id, failure.reason, failure.detail) for photo, failure in failed]
        report.faces += self._ask(reembeddings.record, self.view, self.shift.worker, done, why)
        report.photos += len(done)
        report.files += len(pending)
        for _, failure in failed:
            report.add_failure(failure)
        self.progress(replace(report))

    def _ask(
        self, operation: Callable[Concatenate[Database, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        return self.database.patiently(partial(operation, self.database, *args, **kwargs))


def crops_again(
    photo: StoredPhoto,
    read: Callable[[str], bytes],
    digest: Callable[[bytes], str],
    again: Callable[[bytes, str, StoredPhoto], Crops],
) -> Crops:
    """The aligned faces of a stored photo, from the first of its files that still holds it.

    Args:
        photo: with the faces.
        read: path to bytes; raises PhotoError.
        digest: of bytes.
        again: bytes, path and photo to aligned faces; raises PhotoError.

    Raises:
        PhotoGone: no file holds the photo any more, or it cannot be read.
    """
    gone = PhotoGone(Reason.MISSING.value, "no file of it is known any more")
    for path in photo.paths:
        try:
            data = read(path)
            if digest(data) == photo.sha256:
                return again(data, path, photo)
            gone = PhotoGone(CHANGED, "holds other bytes than when its faces were found")
        except PhotoError as err:
            gone = PhotoGone(err.reason.value, err.detail)
    raise gone
