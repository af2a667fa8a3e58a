"""The LFW bench: verification and open-set identification through the whole engine.

Photos are ingested, one photo a person is enrolled, the index is built, and every probe photo is
identified from its file, as a user would; then the same with up to three photos a person. Nothing
is scored outside the engine's own path. In a photo with several faces the principal one is meant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facesearch.engine import Engine
from facesearch.errors import FacesearchError
from facesearch.evaluate.bootstrap import tpir_intervals
from facesearch.evaluate.metrics import (
    OpenSet,
    SearchScores,
    Verification,
    open_set,
    verification,
)
from facesearch.evaluate.protocol import Labelled, Pairs, Protocol, enrol_more, read_protocol
from facesearch.faces.extract import principal
from facesearch.identify.decide import Identification
from facesearch.ingest.enroll import Entry
from facesearch.store import feed, gallery
from facesearch.store.gallery import Person
from facesearch.values import F32, I64, Failure

TOP = 10
"""Candidates asked for a probe."""
MANY = 3
"""Photos enrolled a person, at most, for `open_set_3`."""
LOOKUP = 500
"""Photos looked up in the store at a time."""


@dataclass(frozen=True, slots=True)
class LfwResult:
    """What the bench measured.

    Attributes:
        verification: 1:1 accuracy over the folds of pairs.csv.
        open_set: 1:N with the people of gallery.csv enrolled, one photo each.
        open_set_3: with up to `MANY` photos each, see `protocol.enrol_more`.
        photos: photos ingested.
        faces: faces found in them.
        no_face: photos in which none was found.
        not_enrolled: photos of gallery.csv that could not be enrolled.
        seconds: wall time of ingestion, enrolment and identification together.
    """

    verification: Verification
    open_set: OpenSet
    open_set_3: OpenSet
    photos: int
    faces: int
    no_face: int
    not_enrolled: int
    seconds: float


def bench_lfw(
    root: Path, engine: Engine, talk: Callable[[str], None] = lambda line: None
) -> LfwResult:
    """Run the bench in an empty library.

    Args:
        root: folder with `photos/` and `protocol/`, see `facesearch.evaluate.protocol`.
        engine: of an empty library.
        talk: told what is being done.

    Raises:
        ManifestError, UsageError: the protocol is missing or malformed.
    """
    import time

    protocol = read_protocol(root)
    started = time.monotonic()
    talk("ingesting photos")
    report = engine.ingest([protocol.photos])
    not_enrolled = _enroll(engine, protocol, talk)
    searched = _search(engine, protocol, talk)
    more = enrol_more(protocol, MANY)
    not_enrolled |= _enroll(engine, more, talk)
    searched_more = _search(engine, more, talk)
    seconds = time.monotonic() - started
    talk("verifying pairs")
    return LfwResult(
        verification=_verify(engine, protocol, protocol.pairs),
        open_set=open_set(searched),
        open_set_3=open_set(searched_more),
        photos=report.photos,
        faces=report.faces,
        no_face=report.no_face,
        not_enrolled=len(not_enrolled),
        seconds=seconds,
    )


def _enroll(engine: Engine, protocol: Protocol, talk: Callable[[str], None]) -> set[str]:
    """Enrol the protocol's gallery and build the index; the photos that could not be enrolled."""
    labelled = protocol.gallery
    talk(f"enrolling {len(labelled)} photos of {len(set(labelled.identities))} people")
    people = [
        Entry(_path(protocol, photo), Person(identity))
        for photo, identity in zip(labelled.photos, labelled.identities, strict=True)
    ]
    failures = engine.enroll(people).failures
    engine.build_index()
    return {failure.path for failure in failures}


def _path(protocol: Protocol, photo: str) -> str:
    return os.path.abspath(protocol.photos / photo)


def _identify(engine: Engine, protocol: Protocol, probes: Labelled) -> list[Identification]:
    answers = []
    paths = (_path(protocol, photo) for photo in probes.photos)
    for answer in engine.identify_many(paths, top=TOP, threshold=0.0):
        if isinstance(answer, Failure):
            raise FacesearchError(f"{answer.path}: {answer.detail}; the bench needs every photo")
        answers.append(answer)
    return answers


def _search(engine: Engine, protocol: Protocol, talk: Callable[[str], None]) -> SearchScores:
    talk(f"identifying {len(protocol.mated) + len(protocol.nonmated)} probes")
    mated = _identify(engine, protocol, protocol.mated)
    nonmated = _identify(engine, protocol, protocol.nonmated)
    ranks = np.zeros(len(mated), np.int64)
    scores = np.full(len(mated), -np.inf, np.float32)
    for i, (answer, identity) in enumerate(zip(mated, protocol.mated.identities, strict=True)):
        if answer.principal is None:
            continue
        for rank, candidate in enumerate(answer.faces[answer.principal].candidates, 1):
            if candidate.name == identity:
                ranks[i], scores[i] = rank, candidate.score
                break
    best = np.full(len(nonmated), -np.inf, np.float32)
    for i, answer in enumerate(nonmated):
        if answer.principal is not None and answer.faces[answer.principal].candidates:
            best[i] = answer.faces[answer.principal].candidates[0].score
    return SearchScores(
        gallery=len(set(protocol.gallery.identities)),
        mated_ranks=ranks,
        mated_scores=scores,
        nonmated_scores=best,
        mated_undetected=sum(a.principal is None for a in mated),
        nonmated_undetected=sum(a.principal is None for a in nonmated),
        mated_people=_numbered(protocol.mated.identities),
        nonmated_people=_numbered(protocol.nonmated.identities),
    )


def _numbered(labels: Sequence[str]) -> I64:
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _verify(engine: Engine, protocol: Protocol, pairs: Pairs) -> Verification:
    names = sorted({*pairs.photos_a, *pairs.photos_b})
    vectors = dict(
        zip(names, principal_vectors(engine, [_path(protocol, n) for n in names]), strict=True)
    )
    a = np.stack([vectors[name] for name in pairs.photos_a])
    b = np.stack([vectors[name] for name in pairs.photos_b])
    cosine = np.einsum("pd,pd->p", a, b)
    return verification(np.where(np.isnan(cosine), -np.inf, cosine), pairs.same, pairs.folds)


def principal_vectors(engine: Engine, paths: Sequence[str]) -> F32:
    """(N, D) stored embedding of each photo's principal face; NaN where it has none."""
    collection = engine.collection()
    vectors = np.full((len(paths), collection.contract.dim), np.nan, np.float32)
    for start in range(0, len(paths), LOOKUP):
        chunk = paths[start : start + LOOKUP]
        stored = gallery.faces_of(engine.database, collection, chunk)
        chosen = {}
        for row, path in enumerate(chunk, start):
            faces = stored.get(path)
            if faces is not None and len(faces.face_ids):
                face = principal(faces.detections, faces.size)
                chosen[int(faces.face_ids[face])] = row
        rows = feed.faces(engine.database, collection, list(chosen))
        for face_id, vector in zip(rows.face_ids.tolist(), rows.vectors, strict=True):
            vectors[chosen[face_id]] = vector
    return vectors


def as_json(result: LfwResult) -> dict[str, object]:
    """The result as the command prints it."""
    v = result.verification
    return {
        "verification": {
            "accuracy": v.accuracy,
            "standard_error": v.standard_error,
            "folds": list(v.folds),
            "undetected": v.undetected,
        },
        "open_set": _open_set_json(result.open_set),
        "open_set_3": _open_set_json(result.open_set_3),
        "photos": result.photos,
        "faces": result.faces,
        "no_face": result.no_face,
        "not_enrolled": result.not_enrolled,
        "seconds": result.seconds,
    }


def _open_set_json(o: OpenSet) -> dict[str, object]:
    intervals = tpir_intervals(o.scores, [p.target for p in o.points])
    return {
        "gallery": o.scores.gallery,
        "mated_probes": len(o.scores.mated_ranks),
        "nonmated_probes": len(o.scores.nonmated_scores),
        "undetected": o.scores.mated_undetected + o.scores.nonmated_undetected,
        "rank1": o.rank1,
        "tpir": {f"{p.target:g}": p.tpir for p in o.points},
        "tpir_95": {
            f"{p.target:g}": list(interval) for p, interval in zip(o.points, intervals, strict=True)
        },
        "fpir": {f"{p.target:g}": p.fpir for p in o.points},
        "threshold": {f"{p.target:g}": p.threshold for p in o.points},
    }
