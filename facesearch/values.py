"""Frozen values that cross modules: struct-of-arrays, validated once, at construction.

Plural is the only form: one photo with one face is `Detections` with N = 1. No return type depends
on a flag. Pixels are BGR until the embedder's preprocessing; coordinates are pixels of the upright
original photo; vectors have unit length from the embedder on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8, BGR."""
Crops = NDArray[np.uint8]
"""(N, 112, 112, 3) uint8, BGR, aligned to the 112x112 template."""
F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
I64 = NDArray[np.int64]
JSONValue = str | int | float | bool | None | list["JSONValue"] | dict[str, "JSONValue"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo, upright.

    Attributes:
        pixels: (H, W, 3) uint8 BGR, upright by EXIF; possibly decoded at a reduced scale.
        original_size: (width, height) in pixels of the upright photo at full scale.
        sha256: lower-case hex digest of the file's bytes.
        name: path or description, for messages.
    """

    pixels: Pixels
    original_size: tuple[int, int]
    sha256: str
    name: str = ""

    def __post_init__(self) -> None:
        _require(self.pixels.ndim == 3 and self.pixels.shape[2] == 3, "pixels must be (H, W, 3)")
        _require(self.pixels.dtype == np.uint8, "pixels must be uint8")
        _require(min(self.original_size) > 0, "original_size must be positive")

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) factors from original to decoded pixels; (1.0, 1.0) when decoded in full."""
        height, width = self.pixels.shape[:2]
        return width / self.original_size[0], height / self.original_size[1]

    def to_original(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., 2) points x y in decoded pixels, in pixels of the upright original.

        (0, 0) is the middle of the first pixel, whatever its size.
        """
        return (np.asarray(points, np.float64) + 0.5) / self.scale - 0.5

    def to_decoded(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """The inverse of `to_original`."""
        return (np.asarray(points, np.float64) + 0.5) * self.scale - 0.5


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces found in one photo, in pixels of the upright original, most confident first.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2; may reach outside the photo.
        landmarks: (N, 5, 2) float32: image-left eye, image-right eye, nose tip, image-left and
            image-right mouth corner.
        scores: (N,) float32 in 0..1.
    """

    boxes: F32
    landmarks: F32
    scores: F32

    def __post_init__(self) -> None:
        n = len(self.scores)
        _require(self.boxes.shape == (n, 4), "boxes must be (N, 4)")
        _require(self.landmarks.shape == (n, 5, 2), "landmarks must be (N, 5, 2)")
        _require(self.scores.shape == (n,), "scores must be (N,)")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        """The detections of the given rows (indices or a boolean mask), in that order."""
        return Detections(self.boxes[rows], self.landmarks[rows], self.scores[rows])

    @staticmethod
    def none() -> Detections:
        """No faces."""
        return Detections(
            np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
        )


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What a photo says beside its faces.

    Attributes:
        phash: 64-bit perceptual hash, unsigned; None if it was not computed.
        taken_at: when it was taken, by the camera's clock, whose zone is unknown.
        position: (latitude, longitude) in degrees; None where it says none, or was not asked.
    """

    phash: int | None = None
    taken_at: datetime | None = None
    position: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What makes two embeddings comparable. A collection pins one.

    Attributes:
        name: registry name of the model, e.g. "sface".
        sha256: hex digest of the weights file as upstream publishes it.
        preprocessing: one canonical line: crop size, colour order, mean, scale.
        dim: length D of an embedding.
    """

    name: str
    sha256: str
    preprocessing: str
    dim: int

    @property
    def key(self) -> str:
        """One line that identifies the contract; equal keys mean comparable vectors."""
        return f"{self.name}/{self.dim}/{self.preprocessing}/{self.sha256}"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors of N faces.

    Attributes:
        vectors: (N, D) float32, unit Euclidean norm.
        quality: (N,) float32, norm of the vector before normalising (higher is better; its scale
            belongs to the model).
        contract: the model that made them.
    """

    vectors: F32
    quality: F32
    contract: ModelContract

    def __post_init__(self) -> None:
        n = len(self.quality)
        _require(self.vectors.shape == (n, self.contract.dim), "vectors must be (N, D)")

    def __len__(self) -> int:
        return len(self.quality)


@dataclass(frozen=True, slots=True)
class FaceRows:
    """Faces as the index sees them.

    Attributes:
        face_ids: (N,) int64, ascending within a batch from the store.
        identity_ids: (N,) int64; 0 where the face is not enrolled.
        vectors: (N, D) float16 as stored.
    """

    face_ids: I64
    identity_ids: I64
    vectors: F16

    def __post_init__(self) -> None:
        n = len(self.face_ids)
        _require(self.identity_ids.shape == (n,), "identity_ids must be (N,)")
        _require(self.vectors.ndim == 2 and len(self.vectors) == n, "vectors must be (N, D)")

    def __len__(self) -> int:
        return len(self.face_ids)


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that happened to a collection's faces after one revision, up to another.

    Attributes:
        revision: the collection's revision this brings a reader to.
        upserts: faces that are new, or whose identity changed.
        removed: (M,) int64 face ids that are gone.
    """

    revision: int
    upserts: FaceRows
    removed: I64


@dataclass(frozen=True, slots=True)
class Matches:
    """Nearest faces of Q queries.

    Attributes:
        ids: (Q, k) int64 face ids, best first; -1 beyond `counts`.
        scores: (Q, k) float32 cosine; -inf beyond `counts`.
        identity_ids: (Q, k) int64 identity of each face, 0 for none; -1 beyond `counts`.
        counts: (Q,) int64 number of valid entries a row.
    """

    ids: I64
    scores: F32
    identity_ids: I64
    counts: I64

    def __post_init__(self) -> None:
        shape = self.ids.shape
        _require(len(shape) == 2, "ids must be (Q, k)")
        _require(self.scores.shape == shape and self.identity_ids.shape == shape, "shapes differ")
        _require(self.counts.shape == shape[:1], "counts must be (Q,)")


class Decision(StrEnum):
    """What a candidate, or a probe face, amounts to."""

    MATCH = "match"
    """At or above the threshold."""
    BELOW = "below"
    """A candidate under the threshold: shown for investigation, not an identification."""
    UNKNOWN = "unknown"
    """The probe face resembles nobody enrolled at or above the threshold."""
    INSUFFICIENT = "insufficient_quality"
    """The probe face is too poor to say; its candidates are shown for investigation only."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cosine threshold and where it came from.

    Attributes:
        value: cosine; a candidate at or above it is a match.
        origin: one line: "set by caller", or the data and rate it was measured on.
        fpir: the false-positive identification rate it is meant to keep; None if unknown.
        gallery: number of enrolled templates it holds for; None if unknown.
    """

    value: float
    origin: str
    fpir: float | None = None
    gallery: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One identity offered for a probe face.

    Attributes:
        collection: name of the collection it is enrolled in.
        identity_id: the store's id.
        name: display name.
        external_id: the caller's own id, or None.
        metadata: the identity's JSON metadata.
        face_id: its best-scoring enrolled face.
        photo: path of the photo that face is in.
        score: cosine similarity to the probe.
        decision: MATCH or BELOW.
        expected_fpir: share of strangers that reach this score in a gallery of this size; None
            where nothing was measured for the model.
        false_match: chance that this candidate is not the person in the probe, given the prior that
            somebody enrolled is; None without a calibration that has people with several photos.
    """

    collection: str
    identity_id: int
    name: str
    external_id: str | None
    metadata: Mapping[str, JSONValue]
    face_id: int
    photo: str
    score: float
    decision: Decision
    expected_fpir: float | None = None
    false_match: float | None = None


@dataclass(frozen=True, slots=True)
class ProbeFace:
    """The answer for one face of a probe photo.

    Attributes:
        box: x1 y1 x2 y2 in pixels of the upright original.
        landmarks: five (x, y) pairs, same pixels.
        detection_score: detector's confidence, 0..1.
        quality: how well the face can be recognised, 0 to 1; see `faces.quality`.
        decision: INSUFFICIENT if the face is too poor; else MATCH if the first candidate is, else
            UNKNOWN.
        threshold: the threshold applied.
        candidates: distinct identities, best first.
        too_close: whether the first two candidates are too close to call, which another photo of
            the probe could well put in the other order; None where that was not measured.
        insufficient: why the face is too poor, where it is.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    detection_score: float
    quality: float
    decision: Decision
    threshold: Threshold
    candidates: tuple[Candidate, ...]
    too_close: bool | None = None
    insufficient: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was not processed, why, and how often it was tried."""

    path: str
    reason: str
    detail: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled person."""

    id: int
    name: str
    external_id: str | None = None
    metadata: Mapping[str, JSONValue] = field(default_factory=dict)
    faces: int = 0
