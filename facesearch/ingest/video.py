"""Videos: the same face is followed from frame to frame, and kept once, where it is seen best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from facesearch.errors import PhotoError, UsageError
from facesearch.faces.boxes import overlap
from facesearch.faces.embedder import Embedder
from facesearch.faces.extract import Extraction
from facesearch.ingest.flow import bounded_map
from facesearch.ingest.gate import ELSEWHERE, Gate, assessed
from facesearch.ingest.watch import WatchedPool
from facesearch.photos.video import frame_path, sampled
from facesearch.settings import PhotoLimits
from facesearch.store.outcomes import Container, Extracted, Failed, FileStamp, Outcome
from facesearch.values import F32

ALIKE = 0.5
"""Cosine at which two faces some frames apart are the same face, wherever they are."""
ALIKE_THERE = 0.25
"""Cosine that is enough where their boxes overlap by `OVERLAP`, intersection over union."""
OVERLAP = 0.3
LOST = 3.0
"""A face that is not seen for so many seconds is a new one when it comes back."""


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
            there = overlap(boxes, track.box) >= OVERLAP
            for row, cosine in enumerate((vectors @ track.vector).tolist()):
                if cosine >= (ALIKE_THERE if there[row] else ALIKE):
                    found.append((cosine, row, number))
        return found


@dataclass(frozen=True, slots=True)
class FilmReader:
    """Reads one video after the other.

    Attributes:
        extract: a frame's BMP file and path to its faces; called from many threads.
        embedder: gives what makes vectors of faces; asked for when the first face is there.
        gate: which faces are stored.
        every: seconds between frames that are looked at.
        limits: what a frame may cost.
        threads: size of the pool that extracts.

    Raises:
        UsageError: `every` is out of range.
    """

    extract: Callable[[bytes, str], Extraction]
    embedder: Callable[[], Embedder]
    gate: Gate
    every: float
    limits: PhotoLimits
    threads: int

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise UsageError(f"ingest.video_every = {self.every:g}: it must be above zero")

    def __call__(self, video: FileStamp, alive: Callable[[], None]) -> list[Outcome]:
        """The frames that are kept, and what became of the video; to be stored together.

        Args:
            video: the file.
            alive: called with every frame.
        """
        tracks, frames = Tracks(), dict[float, Extracted]()
        try:
            self._follow(video, alive, tracks, frames)
        except PhotoError as err:  # what was seen before the damage is kept
            return [*_kept(tracks, frames), Failed(video, err.reason, err.detail)]
        return [*_kept(tracks, frames), Container(video, len(tracks.all))]

    def _follow(
        self,
        video: FileStamp,
        alive: Callable[[], None],
        tracks: Tracks,
        frames: dict[float, Extracted],
    ) -> None:
        """Fill `tracks`, and `frames` with those that hold somebody's best shot so far."""

        def one(sample: tuple[float, bytes]) -> tuple[float, Extraction]:
            seconds, data = sample
            return seconds, self.extract(data, frame_path(video.path, seconds))

        pool = WatchedPool[tuple[float, bytes]](self.threads, 0, lambda sample, limit: None)
        try:
            samples = sampled(video.path, self.every, self.limits)
            for seconds, found in bounded_map(pool, one, samples, 2 * self.threads):
                alive()
                if not len(found.detections):
                    continue
                embedded = self.embedder().embed(found.crops)
                frame = assessed(self.gate, replace(video, path=found.name), found, embedded)
                tracks.add(seconds, found.detections.boxes, embedded.vectors, frame.quality)
                frames[seconds] = frame
                wanted = {track.shot[0] for track in tracks.all}
                for old in [s for s in frames if s not in wanted]:
                    del frames[old]
        finally:
            pool.shutdown()


def _kept(tracks: Tracks, frames: dict[float, Extracted]) -> list[Extracted]:
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
