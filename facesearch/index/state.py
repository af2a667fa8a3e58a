"""What is searched at one moment: a generation's rows and the delta's, joined.

Rows of the delta are numbered after those of the generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from facesearch.index.exact import Mask
from facesearch.index.keys import best_distinct, count, shift, unpack
from facesearch.index.segment import Scope, Segment
from facesearch.index.templates import cosines
from facesearch.values import F32, I64, Matches


@dataclass(frozen=True)
class State:
    """Never changed, only replaced: a search works on the one it saw first."""

    revision: int
    base: Segment
    delta: Segment

    @property
    def segments(self) -> tuple[tuple[int, Segment], ...]:
        """The segments, each with the number of rows before it."""
        return (0, self.base), (len(self.base), self.delta)

    @cached_property
    def people(self) -> int:
        """How many identities have a face."""
        return self.base.enrolled + int(np.count_nonzero(~self.base.holds(self.delta.identities)))

    @property
    def enrolled_faces(self) -> int:
        """How many faces have an identity."""
        return self.base.enrolled_faces + self.delta.enrolled_faces

    def holds(self, identities: I64) -> Mask:
        """Which of these identities have a face; for a few of them."""
        return self.base.holds(identities) | np.isin(identities, self.delta.faces.identity_ids)

    def followed_by(self, revision: int, base: Segment, delta: Segment, changed: I64) -> State:
        """The state after a change that touched the faces of these (distinct) identities."""
        after = State(revision, base, delta)
        more = int(after.holds(changed).sum()) - int(self.holds(changed).sum())
        after.__dict__["people"] = self.people + more
        return after

    def several(self, rows: I64) -> Mask:
        """Which rows of the joined segments are of an identity with other faces: bool, as `rows`.

        Also a few whose other faces no longer count.
        """
        base, delta = self.base.faces, self.delta.faces
        if len(base) and not len(delta):
            return (rows >= 0) & ~base.alone.take(rows, mode="clip")
        inside = (rows >= 0) & (rows < len(base))
        identities = lookup(self, rows)[1]
        several = np.zeros(rows.shape, np.bool_)
        several[inside] = ~base.alone[rows[inside]]
        outside = rows >= len(base)
        several[outside] = ~delta.alone[rows[outside] - len(base)]
        several[outside] |= self.base.holds(identities[outside])
        several[inside] |= np.isin(identities[inside], self.delta.identities)
        return several


def nearest(state: State, vectors: F32, k: int, scope: Scope) -> I64:
    """(Q, k) keys: the best face of each of the k nearest identities of all segments."""
    parts = [shift(s.search_identities(vectors, k, scope), n) for n, s in state.segments if len(s)]
    if len(parts) == 1:
        return parts[0]
    keys = joined(parts, len(vectors))
    return best_distinct(keys, lookup(state, unpack(keys)[0])[1], k)


def fused(
    state: State, identities: I64, vectors: F32, query: I64, scope: Scope, by_look: bool
) -> F32:
    """The cosine of pairs of an identity's best template, of its faces in scope, and a query.

    Args:
        state: whose faces.
        identities: (P,) int64, one a pair.
        vectors: (Q, D) the queries.
        query: (P,) the query of each pair.
        scope: which faces count.
        by_look: as for `LiveIndex.search_templates`.
    """
    listed, of = np.unique(identities, return_inverse=True)
    owner, faces = [], []
    for _, segment in state.segments:
        rows = segment.rows_of(listed, scope)
        owner.append(np.searchsorted(listed, segment.faces.identity_ids[rows]))
        faces.append(segment.faces.vectors[rows].astype(np.float32))
    compared = np.concatenate(faces), np.concatenate(owner)
    return cosines(*compared, of, vectors, query, by_look=by_look)


def joined(keys: list[I64], queries: int) -> I64:
    """The segments' keys side by side; (Q, 0) if there are no segments."""
    return np.concatenate([np.zeros((queries, 0), np.int64), *keys], axis=1)


def lookup(state: State, rows: I64) -> tuple[I64, I64]:
    """Face and identity ids of rows of the joined segments; -1 for row -1."""
    base = state.base.faces
    if len(base) and not len(state.delta):
        face_ids, identity_ids = base.face_ids[rows], base.identity_ids[rows]
        none = rows < 0
        if np.count_nonzero(none):
            face_ids[none] = identity_ids[none] = -1
        return face_ids, identity_ids
    face_ids, identity_ids = np.full(rows.shape, -1), np.full(rows.shape, -1)
    for offset, segment in state.segments:
        here = (rows >= offset) & (rows < offset + len(segment))
        face_ids[here] = segment.faces.face_ids[rows[here] - offset]
        identity_ids[here] = segment.faces.identity_ids[rows[here] - offset]
    return face_ids, identity_ids


def matches_of(state: State, keys: I64) -> Matches:
    """(Q, k) keys of rows of the joined segments as what is told of them."""
    rows, scores = unpack(keys)
    face_ids, identity_ids = lookup(state, rows)
    return Matches(face_ids, scores, identity_ids, count(keys))
