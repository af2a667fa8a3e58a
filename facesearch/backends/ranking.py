"""The exact answer among faces that are at hand: what the server named, what is in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from facesearch.index.exact import ExactIndex
from facesearch.index.keys import EMPTY, best, best_distinct, count, shift, unpack
from facesearch.index.segment import Faces, Scope, Segment
from facesearch.values import F32, I64, Matches

_MOST_KEPT = 20_000
"""Best faces of all parts so far kept at most, before only the best of them are."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query wants: k faces in scope, or (`distinct`) the best face of k identities."""

    k: int
    scope: Scope
    distinct: bool


def ranked(parts: Iterable[Faces], queries: F32, asked: Asked) -> Matches:
    """The exact answer among faces that come in parts: the best of the best of each."""
    none = np.zeros(0, np.int64)
    kept = Faces(none, none, np.zeros((0, queries.shape[1]), np.float32))
    for part in parts:
        keys = _top(part, queries, asked)
        rows = np.unique(unpack(keys)[0])
        rows = rows[rows >= 0]
        kept = Faces(
            np.concatenate([kept.face_ids, part.face_ids[rows]]),
            np.concatenate([kept.identity_ids, part.identity_ids[rows]]),
            np.concatenate([kept.vectors, part.vectors[rows].astype(np.float32)]),
        )
        if len(kept) > _MOST_KEPT:
            rows = np.unique(unpack(_top(kept, queries, asked))[0])
            rows = rows[rows >= 0]
            kept = Faces(kept.face_ids[rows], kept.identity_ids[rows], kept.vectors[rows])
    return _looked_up(kept, _top(kept, queries, asked))


def _top(faces: Faces, queries: F32, asked: Asked) -> I64:
    """(Q, k) keys of rows of `faces`, exact."""
    if not len(faces):
        return np.full((len(queries), asked.k), EMPTY)
    segment = Segment(faces, ExactIndex(faces.vectors))
    if asked.distinct:
        return segment.search_identities(queries, asked.k, asked.scope)
    return segment.search(queries, asked.k, asked.scope)


def merged(faces: Faces, keys: I64, others: Faces, queries: F32, asked: Asked) -> Matches:
    """The best of (Q, C) keys of `faces` and of the exact answer among `others`."""
    joined = np.concatenate([keys, shift(_top(others, queries, asked), len(faces))], 1)
    both = Faces(
        np.concatenate([faces.face_ids, others.face_ids]),
        np.concatenate([faces.identity_ids, others.identity_ids]),
        faces.vectors,
    )
    if not asked.distinct:
        return _looked_up(both, best(joined, asked.k))
    people = both.identity_ids[np.maximum(unpack(joined)[0], 0)] if len(both) else joined
    return _looked_up(both, best_distinct(joined, people, asked.k))


def stacked(parts: Iterable[Matches]) -> Matches:
    """The answers to some queries, and to those after them, as one."""
    columns = zip(*((m.ids, m.scores, m.identity_ids, m.counts) for m in parts), strict=True)
    return Matches(*(np.concatenate(column) for column in columns))


def _looked_up(faces: Faces, keys: I64) -> Matches:
    rows, scores = unpack(keys)
    ids, people = np.full(rows.shape, -1), np.full(rows.shape, -1)
    if len(faces):
        ids = np.where(rows >= 0, faces.face_ids[rows], -1)
        people = np.where(rows >= 0, faces.identity_ids[rows], -1)
    return Matches(ids, scores, people, count(keys))
