"""Videos: the same face is followed from frame to frame, and kept once, where it is seen best."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import PhotoError
from facesearch.faces.extract import Extraction
from facesearch.faces.quality import quality
from facesearch.ingest.worker import Plan, Report, Worker, bounded_map
from facesearch.photos import place, video
from facesearch.settings import PhotoLimits
from facesearch.store import ledger
from facesearch.store.ledger import Container, Extracted, Failed, FileStamp, Outcome
from facesearch.values import F32, Failure

ALIKE = 0.5
"""Cosine at which two faces some frames apart are the same face, wherever they are."""
ALIKE_THERE = 0.25
"""Cosine that is enough where their boxes overlap by `OVERLAP`, intersection over union."""
OVERLAP = 0.3
LOST = 3.0
"""A face that is not seen for so many seconds is a new one when it comes back."""
ELSEWHERE = "shown better in another frame of this video"


@dataclass(slots=True)
class Track:
    """A face as it was followed.

    Attributes:
        box: where it was last, x1 y1 x2 y2.
        vector: its embedding then.
        seen: when that was, seconds.
        best: its best quality so far.
        shot: (seconds, row) of the frame and face where that was.
    """

    box: F32
    vector: F32
    seen: float
    best: float
    shot: tuple[float, int]


class Tracks:
    """Faces followed through a video."""

    def __init__(self) -> None:
        self.all: list[Track] = []
        self._live: list[Track] = []

    def add(self, seconds: float, boxes: F32, vectors: F32, figures: F32) -> None:
        """Follow the faces of the next frame; each continues one track or begins one."""
        self._live = [track for track in self._live if seconds - track.seen <= LOST]
        pairs = self._likeness(boxes, vectors)
        taken: set[int] = set()
        for _, row, number in sorted(pairs, reverse=True):
            track = self._live[number]
            if row in taken or track.seen == seconds:
                continue
            taken.add(row)
            track.box, track.vector, track.seen = boxes[row], vectors[row], seconds
            if figures[row] > track.best:
                track.best, track.shot = float(figures[row]), (seconds, row)
        for row in range(len(boxes)):
            if row not in taken:
                shot = float(figures[row]), (seconds, row)
                track = Track(boxes[row], vectors[row], seconds, *shot)
                self._live.append(track)
                self.all.append(track)

    def _likeness(self, boxes: F32, vectors: F32) -> list[tuple[float, int, int]]:
        """(cosine, row, number of the live track) of every pair that may be the same face."""
        found = []
        for number, track in enumerate(self._live):
            for row, cosine in enumerate((vectors @ track.vector).tolist()):
                there = _overlap(boxes[row], track.box) >= OVERLAP
                if cosine >= (ALIKE_THERE if there else ALIKE):
                    found.append((cosine, row, number))
        return found


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    either = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return float(common / max(float(either), 1e-6))


@dataclass(frozen=True, slots=True)
class VideoWorker:
    """Ingests one video after the other.

    Attributes:
        worker: whose store, embedder, policy and threads are used.
        extract: a frame's BMP file and path to its faces; called from many threads.
        every: seconds between frames that are looked at.
        limits: what a frame may cost.
    """

    worker: Worker
    extract: Callable[[bytes, str], Extraction]
    every: float
    limits: PhotoLimits

    def __call__(self, path: str, report: Report, plan: Plan) -> None:
        """Ingest a video, unless it was before and has not changed.

        All its frames are stored in one transaction: after a crash it is begun anew.
        """
        worker = self.worker
        report.files += 1
        try:
            stamp = FileStamp(path, *place.stamp(path))
        except PhotoError as err:
            stamp = FileStamp(path, 0, 0)
            self._record([Failed(stamp, err.reason, err.detail)], report)
            return
        before = ledger.known(worker.database, worker.collection, [path]).get(path)
        if before is not None and before.stamp == stamp and not plan.again(before):
            report.unchanged += 1
            report.failed_before += before.state == ledger.FAILED
            return
        tracks, frames = Tracks(), dict[float, Extracted]()
        failed: Failed | None = None
        try:
            self._follow(path, stamp, tracks, frames)
        except PhotoError as err:
            failed = Failed(stamp, err.reason, err.detail)
        kept = self._kept(tracks, frames)
        report.photos += len(kept)
        report.rejected += sum(
            why not in ("", ELSEWHERE) for frame in kept for why in frame.rejected
        )
        self._record([*kept, failed or Container(stamp, len(tracks.all))], report)

    def _follow(
        self, path: str, stamp: FileStamp, tracks: Tracks, frames: dict[float, Extracted]
    ) -> None:
        """Fill `tracks`, and `frames` with those that hold somebody's best shot so far."""
        worker = self.worker

        def one(sample: tuple[float, bytes]) -> tuple[float, Extraction]:
            seconds, data = sample
            return seconds, self.extract(data, video.frame_path(path, seconds))

        with ThreadPoolExecutor(worker.threads, thread_name_prefix="facesearch-video") as pool:
            samples = video.sampled(path, self.every, self.limits)
            for seconds, found in bounded_map(pool, one, samples, 2 * worker.threads):
                if not len(found.detections):
                    continue
                embedded = worker.embedder.embed(found.crops)
                figures = quality(found.measures, embedded)
                tracks.add(seconds, found.detections.boxes, embedded.vectors, figures)
                frames[seconds] = Extracted(
                    replace(stamp, path=found.name),
                    found.sha256,
                    found.size,
                    found.detections,
                    embedded,
                    figures,
                    worker.gate(found.detections, found.measures, figures),
                    found.facts,
                )
                wanted = {track.shot[0] for track in tracks.all}
                for old in [s for s in frames if s not in wanted]:
                    del frames[old]

    def _kept(self, tracks: Tracks, frames: dict[float, Extracted]) -> list[Extracted]:
        """The frames with best shots, all other faces in them rejected."""
        best = {track.shot for track in tracks.all}
        return [
            replace(
                frame,
                rejected=tuple(
                    why if (seconds, row) in best else why or ELSEWHERE
                    for row, why in enumerate(frame.rejected)
                ),
            )
            for seconds, frame in frames.items()
        ]

    def _record(self, outcomes: list[Outcome], report: Report) -> None:
        worker = self.worker
        report.faces += ledger.record(worker.database, worker.collection, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                failure = Failure(outcome.file.path, outcome.reason.value, outcome.detail)
                report.add_failure(failure)
        worker.progress(replace(report))
