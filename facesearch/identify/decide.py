"""Nearest identities and a threshold become the answer for each face of a probe photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from facesearch.identify.judge import Judgement
from facesearch.store.gallery import Enrolled
from facesearch.values import (
    F32,
    Candidate,
    Decision,
    Detections,
    Matches,
    ProbeFace,
)


@dataclass(frozen=True, slots=True)
class Identification:
    """The answer for one probe photo.

    Attributes:
        photo: path or name of the probe.
        size: (width, height) of the upright photo in pixels.
        gallery: number of enrolled identities searched.
        enrolled_faces: number of their faces: what the threshold depends on.
        faces: one answer for every face found, most confident detection first; empty if the photo
            shows none.
        principal: which of `faces` the photo is of, by size and place; None if there is none.
        warnings: what is to be known about the threshold, a line each.
    """

    photo: str
    size: tuple[int, int]
    gallery: int
    enrolled_faces: int
    faces: tuple[ProbeFace, ...]
    principal: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessed:
    """How good N probe faces are.

    Attributes:
        quality: (N,) 0 to 1.
        insufficient: why each is too poor to be given a name; "" where it is not. N of them.
    """

    quality: F32
    insufficient: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What one collection answered for all faces of a probe, and who is meant.

    Attributes:
        collection: its name.
        matches: best faces of distinct identities, a row a probe face.
        enrolled: who is enrolled with each face, by its id; those deleted since the search are
            missing.
    """

    collection: str
    matches: Matches
    enrolled: Mapping[int, Enrolled]

    def rows(self, rows: slice) -> Found:
        """The part that answers some of the probe faces."""
        m = self.matches
        part = Matches(m.ids[rows], m.scores[rows], m.identity_ids[rows], m.counts[rows])
        return Found(self.collection, part, self.enrolled)


def answer(
    detections: Detections,
    assessed: Assessed,
    found: list[Found],
    judgement: Judgement,
    top: int,
) -> tuple[ProbeFace, ...]:
    """One `ProbeFace` a detection: the `top` best distinct identities of all collections.

    A face that is too poor is said to be so, whoever it resembles. Otherwise a candidate at or
    above the threshold is a match; a probe face whose best candidate is not is unknown, and its
    candidates are shown for investigation only.
    """
    return tuple(
        _probe_face(detections, assessed, row, _candidates(found, row, judgement, top), judgement)
        for row in range(len(detections))
    )


def _candidates(
    found: list[Found], row: int, judgement: Judgement, top: int
) -> tuple[Candidate, ...]:
    candidates = []
    limit = judgement.threshold.value
    for part in found:
        for column in range(int(part.matches.counts[row])):
            face_id = int(part.matches.ids[row, column])
            face = part.enrolled.get(face_id)
            if face is None or face.identity_id != part.matches.identity_ids[row, column]:
                continue  # erased while we were searching, or given to somebody else
            score = float(part.matches.scores[row, column])
            candidates.append(
                Candidate(
                    collection=part.collection,
                    identity_id=face.identity_id,
                    name=face.name,
                    external_id=face.external_id,
                    metadata=face.metadata,
                    face_id=face_id,
                    photo=face.photo,
                    score=score,
                    decision=Decision.MATCH if score >= limit else Decision.BELOW,
                )
            )
    best = sorted(candidates, key=lambda c: -c.score)[:top]
    chances = judgement.false_match([c.score for c in best])
    return tuple(
        replace(c, expected_fpir=judgement.expected_fpir(c.score), false_match=chance)
        for c, chance in zip(best, chances, strict=True)
    )


def _probe_face(
    detections: Detections,
    assessed: Assessed,
    row: int,
    candidates: tuple[Candidate, ...],
    judgement: Judgement,
) -> ProbeFace:
    x1, y1, x2, y2 = detections.boxes[row].tolist()
    matched = bool(candidates) and candidates[0].decision is Decision.MATCH
    decision = Decision.MATCH if matched else Decision.UNKNOWN
    return ProbeFace(
        box=(x1, y1, x2, y2),
        landmarks=tuple((x, y) for x, y in detections.landmarks[row].tolist()),
        detection_score=float(detections.scores[row]),
        quality=float(assessed.quality[row]),
        decision=Decision.INSUFFICIENT if assessed.insufficient[row] else decision,
        threshold=judgement.threshold,
        candidates=candidates,
        too_close=too_close(candidates, judgement.noise),
        insufficient=assessed.insufficient[row],
    )


def too_close(candidates: tuple[Candidate, ...], noise: float | None) -> bool | None:
    """Whether a match leads the next candidate by less than the noise of their scores.

    Args:
        candidates: best first.
        noise: see `Judgement`; None where it was not measured.

    Returns:
        False where there is no match, or nobody else: there is nothing to call.
    """
    if noise is None:
        return None
    if len(candidates) < 2 or candidates[0].decision is not Decision.MATCH:
        return False
    return candidates[0].score - candidates[1].score < noise
