"""What can become of a file that ingestion looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from facesearch.errors import Reason
from facesearch.values import F32, Crops, Detections, Embeddings, PhotoFacts


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as the file system shows it: a change of size or time means new content.

    Attributes:
        path: absolute path.
        size: bytes.
        mtime_ns: modification time, nanoseconds since the epoch.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Extracted:
    """A file that was read, with every face in it.

    Attributes:
        file: the file.
        sha256: hex digest of its bytes.
        size: (width, height) of the upright photo in pixels.
        detections: N faces; their order becomes their ordinal.
        embeddings: of the same N faces.
        quality: (N,) of the same faces, 0 to 1.
        rejected: why each of them is not to be stored, "" for those that are; N of them.
        facts: what else the photo says.
        crops: the same N faces, aligned, to be stored beside them; None: they are not.
    """

    file: FileStamp
    sha256: str
    size: tuple[int, int]
    detections: Detections
    embeddings: Embeddings
    quality: F32
    rejected: tuple[str, ...]
    facts: PhotoFacts = field(default_factory=PhotoFacts)
    crops: Crops | None = None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A file whose bytes the collection already holds."""

    file: FileStamp
    sha256: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be processed."""

    file: FileStamp
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Container:
    """A video that was read to its end; its frames are files of their own."""

    file: FileStamp
    faces: int


Outcome = Extracted | Duplicate | Failed | Container
