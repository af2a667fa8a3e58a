"""A second look at what was just enrolled: wrong photos, and one person under two names.

Nothing is undone: labels are the user's. Each doubt is reported with the photo and the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facesearch.backends.remote import RemoteIndex
from facesearch.index.live import LiveIndex
from facesearch.store import feed, gallery
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.values import F32, I64, Failure

OUTLIER, RESEMBLES = "outlier", "resembles"
"""Reasons of a doubt: unlike the identity's other photos; like another identity."""

FEWEST = 3
"""Faces an identity needs for one to be called the odd one out."""
OUTLIER_FMR = 0.005
"""A face that is not of its identity passes for one of it with this chance."""
BATCH = 1024


def outliers(vectors: F32, people: I64, threshold: float) -> F32:
    """Cosine of each face with the mean of the other faces of its person, where that is a doubt.

    Args:
        vectors: (N, D) unit vectors, as the index compares them.
        people: (N,) label of the person of each.
        threshold: cosine below which a face is not taken for one of that person.

    Returns:
        (N,) the cosine where it is below the threshold, NaN elsewhere and for people with fewer
        than `FEWEST` faces.
    """
    _, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), vectors.shape[1]), np.float32)
    np.add.at(sums, whose, vectors)
    rest = sums[whose] - vectors
    length = np.maximum(np.linalg.norm(rest, axis=1), np.finfo(np.float32).tiny)
    cosine = np.einsum("nd,nd->n", rest, vectors) / length
    doubtful = (counts[whose] >= FEWEST) & (cosine < threshold)
    return np.where(doubtful, cosine, np.float32(np.nan)).astype(np.float32)


def review(
    database: Database,
    collection: Collection,
    index: LiveIndex | RemoteIndex,
    face_ids: Sequence[int],
    thresholds: tuple[float, float],
) -> list[Failure]:
    """What looks wrong about faces that were just enrolled, by face id.

    Args:
        database: the store.
        collection: where they are enrolled.
        index: of the collection, up to date.
        face_ids: the faces.
        thresholds: cosine below which a face is an outlier of its identity; cosine from which it
            resembles another one.
    """
    doubts: list[tuple[int, str, float, int]] = []
    ids = sorted(face_ids)
    for start in range(0, len(ids), BATCH):
        rows = feed.faces(database, collection, ids[start : start + BATCH])
        matches = index.search_templates(rows.vectors.astype(np.float32), 2)
        other = matches.identity_ids != rows.identity_ids[:, None]
        strong = other & (matches.identity_ids > 0) & (matches.scores >= thresholds[1])
        for row in np.flatnonzero(strong.any(axis=1)).tolist():
            column = int(strong[row].argmax())
            score, rival = matches.scores[row, column], matches.identity_ids[row, column]
            doubts.append((int(rows.face_ids[row]), RESEMBLES, float(score), int(rival)))
        mates = index.faces_of(np.unique(rows.identity_ids[rows.identity_ids > 0]))
        odd = outliers(mates.vectors, mates.identity_ids, thresholds[0])
        # An outlier may be a face enrolled before: it is told when its identity grows.
        doubts += [
            (int(mates.face_ids[row]), OUTLIER, float(odd[row]), int(mates.identity_ids[row]))
            for row in np.flatnonzero(~np.isnan(odd)).tolist()
        ]
    doubts = sorted(set(doubts))
    records = gallery.faces_by_id(database, {doubt[0] for doubt in doubts})
    people = gallery.identities_by_id(
        database,
        collection,
        {doubt[3] for doubt in doubts} | {record.identity_id for record in records.values()},
    )
    return [
        Failure(
            records[face].photo, reason, _DETAIL[reason].format(score, people[rival].name, rival)
        )
        for face, reason, score, rival in doubts
        if face in records and rival in people
    ]


_DETAIL = {
    OUTLIER: "scores {:.3f} with the other photos of {} (#{}): perhaps somebody else",
    RESEMBLES: "scores {:.3f} with {} (#{}), who is enrolled too: perhaps one person",
}
