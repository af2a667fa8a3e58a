"""One immutable set of searchable faces: a generation on disk, or the delta in memory.

How a query is answered
1. The rows it may return are known first: faces not superseded, enrolled ones where identities are
   asked for, and those a filter allows.
2. If brute force over those rows costs no more than the index (`VectorIndex.cost`), that is what
   runs: few rows allowed, few rows at all, or a large batch. An approximate index is never used
   where the exact answer is as cheap.
3. Otherwise the index returns the recipe's `rerank` rows or more, scored again exactly. Where all
   rows, or nearly all, are allowed, FAISS sorts out the best of these first (`refining`): what it
   keeps, about as many as are wanted, is scored again here.
4. Stopping rule. A query is done once its fetched rows hold k answers (faces, or distinct
   identities), or all that are allowed: every row not fetched ranks below every row fetched, so
   the answer is exact with respect to what the index scans. Otherwise `_GROWTH` times as many rows
   are fetched for the queries not done, up to `_MOST_ROWS`; past that (one identity has thousands
   of faces, or a graph does not reach enough allowed rows) brute force answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from facesearch.index.exact import ExactIndex, Mask, VectorIndex, score, top, top_distinct
from facesearch.index.keys import EMPTY, best, best_distinct, rows_of
from facesearch.values import F16, F32, I64

_FACES_AN_IDENTITY = 4
"""Rows fetched at first for every identity wanted."""
_LOOKUP_ROWS = 100
"""Looking up one identity's faces costs about as much as testing this many rows (measured)."""
_NEARLY_ALL = 1.1
"""Rows for each allowed one at the most for the index to search all of them."""
_SOON_SCORED = 2**14
"""Rows that are scored in less time than sharing them out to threads takes."""
_GROWTH = 8
_MOST_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """Which faces a query may return; None for no restriction.

    Which rows these are is worked out once for an object: keep it for the next query.

    Attributes:
        identities: int64 ids, different ones; only faces of these.
        faces: int64 ids; only these.
    """

    identities: I64 | None = None
    faces: I64 | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is restricted."""
        return self.identities is None and self.faces is None


EVERYTHING = Scope()


class Faces:
    """Who is in which row.

    Args:
        face_ids: (N,) int64, different ones.
        identity_ids: (N,) int64, 0 for faces that are not enrolled.
        vectors: (N, D) float16 or float32.
    """

    def __init__(self, face_ids: I64, identity_ids: I64, vectors: F16 | F32) -> None:
        self.face_ids = face_ids
        self.identity_ids = identity_ids
        self.vectors = vectors
        self._among: tuple[Scope, Mask | None] = EVERYTHING, None

    def __len__(self) -> int:
        return len(self.face_ids)

    def find(self, face_ids: I64) -> I64:
        """Rows of those of the faces that are here."""
        order = self._by_face
        if order is not None:  # more than one face, then
            ids = self.face_ids[order]
            places = np.minimum(np.searchsorted(ids, face_ids), len(self) - 1)
            rows: I64 = order[places[ids[places] == face_ids]]
            return rows
        rows = np.searchsorted(self.face_ids, face_ids)
        inside = rows < len(self)
        rows, face_ids = rows[inside], face_ids[inside]
        found: I64 = rows[self.face_ids[rows] == face_ids]
        return found

    def among(self, scope: Scope) -> Mask | None:
        """(N,) bool, the rows in scope; None if nothing is restricted."""
        if scope.everything:
            return None
        known, chosen = self._among
        if known is not scope:
            chosen = self._in_scope(scope)
            self._among = scope, chosen
        return chosen

    def _in_scope(self, scope: Scope) -> Mask:
        chosen = np.ones(len(self), np.bool_)
        if scope.identities is not None:
            chosen = self._of_identities(scope.identities)
        if scope.faces is not None:
            named = np.zeros(len(self), np.bool_)
            named[self.find(scope.faces)] = True
            chosen &= named
        return chosen

    def _of_identities(self, identity_ids: I64) -> Mask:
        if len(identity_ids) * _LOOKUP_ROWS > len(self):
            return np.isin(self.identity_ids, identity_ids)
        chosen = np.zeros(len(self), np.bool_)
        chosen[self.of(identity_ids)[0]] = True
        return chosen

    def of(self, identity_ids: I64) -> tuple[NDArray[np.uint32], I64]:
        """The rows of identities, and for each row which of them it belongs to."""
        starts = self._first(identity_ids)
        counts = self._first(identity_ids + 1) - starts
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.by_identity[np.repeat(starts, counts) + steps]
        return rows, np.repeat(np.arange(len(identity_ids)), counts)

    def _first(self, identity_ids: I64) -> I64:
        """The first place in `by_identity` of an identity not below each: a binary search.

        `np.searchsorted` would copy its sorter to int64, every time.
        """
        low = np.zeros(len(identity_ids), np.int64)
        high = np.full(len(identity_ids), len(self))
        while (open_ := low < high).any():
            middle = (low + high) // 2
            at = self.by_identity[np.minimum(middle, len(self) - 1)]
            below = open_ & (self.identity_ids[at] < identity_ids)
            low = np.where(below, middle + 1, low)
            high = np.where(open_ & ~below, middle, high)
        return low

    @cached_property
    def by_identity(self) -> NDArray[np.uint32]:
        """Rows ordered by identity."""
        return np.argsort(self.identity_ids, kind="stable").astype(np.uint32)

    @cached_property
    def alone(self) -> Mask:
        """(N,) bool, the rows whose identity has no other."""
        ids = self.identity_ids[self.by_identity]
        different = np.ones(len(self) + 1, np.bool_)
        np.not_equal(ids[1:], ids[:-1], out=different[1:-1])
        mask = np.empty(len(self), np.bool_)
        mask[self.by_identity] = different[1:] & different[:-1]
        return mask

    @cached_property
    def _by_face(self) -> I64 | None:
        """Rows ordered by face id; None if they are."""
        if (self.face_ids[1:] > self.face_ids[:-1]).all():
            return None
        return np.argsort(self.face_ids, kind="stable")


class Segment:
    """Faces, an index over them, and which of them still count.

    Args:
        faces: the faces.
        index: over `faces.vectors`.
        rerank: rows fetched from `index` a query at least.
        alive: (N,) bool, False for faces removed or superseded; None if all count.
    """

    def __init__(
        self, faces: Faces, index: VectorIndex, rerank: int = 0, alive: Mask | None = None
    ) -> None:
        self.faces = faces
        self._index = index
        self._refining = index.refining(faces.vectors) if rerank else None
        self._exact = ExactIndex(faces.vectors)
        self._rerank = rerank
        self._alive = alive

    def __len__(self) -> int:
        """Number of rows, superseded ones included."""
        return len(self.faces)

    @cached_property
    def superseded(self) -> int:
        """Number of rows that no longer count."""
        return 0 if self._alive is None else len(self) - int(np.count_nonzero(self._alive))

    @cached_property
    def enrolled(self) -> int:
        """How many identities have faces that count."""
        rows = self.faces.by_identity
        if self._enrolled is not None:
            rows = rows[self._enrolled[rows]]
        return int(np.count_nonzero(np.diff(self.faces.identity_ids[rows], prepend=-1)))

    @cached_property
    def enrolled_faces(self) -> int:
        """How many faces that count have an identity."""
        return len(self) if self._enrolled is None else int(np.count_nonzero(self._enrolled))

    @cached_property
    def identities(self) -> I64:
        """The enrolled identities, ascending."""
        ids = self.faces.identity_ids
        return np.unique(ids if self._enrolled is None else ids[self._enrolled])

    def holds(self, identity_ids: I64) -> Mask:
        """Which of these identities have faces that count: bool of the same shape."""
        rows, owners = self.faces.of(identity_ids)
        counting = owners if self._enrolled is None else owners[self._enrolled[rows]]
        return np.bincount(counting, minlength=len(identity_ids)) > 0

    def rows_of(self, identities: I64, scope: Scope = EVERYTHING) -> NDArray[np.uint32]:
        """Rows that count, and are in scope, of these (distinct) identities."""
        rows, _ = self.faces.of(identities)
        if not scope.everything:
            rows = rows[self._allowed(None, scope)[rows]]  # type: ignore[index]
        return rows if self._alive is None else rows[self._alive[rows]]

    def people(self, scope: Scope) -> tuple[I64, int]:
        """The identities, ascending, of the faces in scope that count; how many faces these are."""
        allowed = self._allowed(self._enrolled, scope)
        ids = self.faces.identity_ids if allowed is None else self.faces.identity_ids[allowed]
        return np.unique(ids), len(ids)

    def prepare(self) -> None:
        """Work out now what the first query would have to."""
        _ = self.enrolled, self.enrolled_faces, self.faces.alone

    def without(self, face_ids: I64) -> Segment:
        """This segment after these faces were removed or superseded; itself if it has none."""
        rows = self.faces.find(face_ids)
        if self._alive is not None:
            rows = rows[self._alive[rows]]
        if not len(rows):
            return self
        alive = np.ones(len(self), np.bool_) if self._alive is None else self._alive.copy()
        alive[rows] = False
        after = Segment(self.faces, self._index, self._rerank, alive)
        after._enrolled = alive
        if self._enrolled is not None:
            after._enrolled = self._enrolled.copy()
            after._enrolled[rows] = False
        gone = self.faces.identity_ids[rows]
        after.enrolled_faces = self.enrolled_faces - int(np.count_nonzero(gone > 0))
        people = np.unique(gone[gone > 0])
        after.enrolled = self.enrolled - len(people) + int(after.holds(people).sum())
        return after

    def search(self, queries: F32, k: int, scope: Scope) -> I64:
        """The k nearest faces of each query: (Q, k) int64 keys of rows, best first."""
        allowed = self._allowed(self._alive, scope)
        fetch = max(k, self._rerank)
        kept, pending = self._by_index(
            queries, k, fetch, k, allowed, partial(best, k=k), lambda available: available
        )
        if len(pending):
            kept[pending] = top(queries[pending], self.faces.vectors, k, allowed)
        return kept

    def search_identities(self, queries: F32, k: int, scope: Scope) -> I64:
        """The nearest face of each of the k nearest identities: (Q, k) keys, best first."""
        allowed = self._allowed(self._enrolled, scope)
        kept, pending = self._by_index(
            queries,
            k,
            max(k * _FACES_AN_IDENTITY, self._rerank),
            math.ceil(k * self._faces_each),
            allowed,
            lambda keys: self._best_distinct(keys, k),
            lambda _: self._distinct(allowed, scope),
        )
        if len(pending):
            vectors, identity_ids = self.faces.vectors, self.faces.identity_ids
            kept[pending] = top_distinct(queries[pending], vectors, identity_ids, k, allowed)
        return kept

    def _by_index(
        self,
        queries: F32,
        k: int,
        fetch: int,
        keep: int,
        allowed: Mask | None,
        reduce: Callable[[I64], I64],
        answers: Callable[[int], int],
    ) -> tuple[I64, I64]:
        """What the index answers, by the stopping rule above.

        Args:
            queries: (Q, D) float32.
            k: answers wanted a query.
            fetch: rows fetched at first.
            keep: of these, how many probably hold k answers.
            allowed: the rows that may be returned; None for all.
            reduce: the (Q, k) best keys of (Q, fetch), best first.
            answers: how many answers there are, given the number of rows allowed.

        Returns:
            (Q, k) keys, and the queries that these do not suffice for.
        """
        available = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if not self._worthwhile(len(queries), fetch, available):
            return np.full((len(queries), k), EMPTY), np.arange(len(queries))
        more = len(self) / max(1, available)  # rows, for so many of them to be allowed
        refined = self._refining is not None and 2 * keep <= fetch and more <= _NEARLY_ALL
        if refined:
            wanted = math.ceil(more * fetch), allowed, reduce, math.ceil(more * keep)
            kept = self._fetch(queries, *wanted)
        else:
            kept = self._fetch(queries, fetch, allowed, reduce)
        # keys descend, so the n-th tells whether there are n
        pending = np.flatnonzero(kept[:, k - 1] == EMPTY)
        if len(pending):
            enough = min(k, answers(available))
            while True:
                pending = pending[kept[pending, enough - 1] == EMPTY] if enough else pending[:0]
                fetch *= 1 if refined else _GROWTH
                refined = False
                if not self._worthwhile(len(pending), fetch, available):
                    break
                kept[pending] = self._fetch(queries[pending], fetch, allowed, reduce)
        return kept, pending

    @cached_property
    def _faces_each(self) -> float:
        """Rows to keep for every identity wanted of those that FAISS sorts out, if it does."""
        if self._refining is None:  # counting would sort, for nothing, what one query is asked of
            return _FACES_AN_IDENTITY
        return min(_FACES_AN_IDENTITY, self.enrolled_faces / max(1, self.enrolled))

    @cached_property
    def _enrolled(self) -> Mask | None:
        """Rows that count and have an identity; None if all have."""
        enrolled: Mask = self.faces.identity_ids > 0
        if self._alive is not None:
            enrolled &= self._alive
        return None if enrolled.all() else enrolled

    def _allowed(self, base: Mask | None, scope: Scope) -> Mask | None:
        """The rows of `base` that are in scope; None if all rows are."""
        chosen = self.faces.among(scope)
        if base is None or chosen is None:
            return base if chosen is None else chosen
        return base & chosen

    def _distinct(self, allowed: Mask | None, scope: Scope) -> int:
        """How many identities have allowed rows."""
        if allowed is None or scope.everything:
            return self.enrolled
        return len(np.unique(self.faces.identity_ids[allowed]))

    def _best_distinct(self, keys: I64, k: int) -> I64:
        """`best_distinct` by identity; mostly the best k are of different ones already."""
        kept = best(keys, k)
        if self.enrolled == self.enrolled_faces:
            return kept
        identity_ids = self.faces.identity_ids
        ids = np.sort(identity_ids[np.maximum(rows_of(kept), 0)], axis=1)
        repeated, nobody = ids[:, 1:] == ids[:, :-1], ids[:, :1] <= 0
        if np.count_nonzero(repeated) or np.count_nonzero(nobody):
            few = np.flatnonzero(repeated.any(axis=1) | nobody[:, 0])
            rows = np.maximum(rows_of(keys[few]), 0)
            kept[few] = best_distinct(keys[few], identity_ids[rows], k)
        return kept

    def _worthwhile(self, queries: int, fetch: int, available: int) -> bool:
        """Whether to ask the index for `fetch` rows rather than scan all `available` ones."""
        return (
            queries > 0
            and fetch <= min(_MOST_ROWS, available)
            and self._index.cost(queries, available) < self._exact.cost(queries, available)
        )

    def _fetch(
        self,
        queries: F32,
        fetch: int,
        allowed: Mask | None,
        reduce: Callable[[I64], I64],
        keep: int = 0,
    ) -> I64:
        """What `reduce` keeps of the (Q, C) keys of what the index finds, exactly scored.

        C is `fetch`, or `keep` if that is given and the index can sort those out.
        """
        refining = self._refining if keep else None

        def part(queries: F32) -> I64:
            if refining is None:
                rows = self._index.search(queries, fetch, allowed)
            else:
                rows = refining(queries, fetch, keep)
                if allowed is not None:
                    rows = np.where(allowed[rows], rows, -1)
            return reduce(score(queries, self.faces.vectors, rows))

        if refining is not None and len(queries) * keep <= _SOON_SCORED:
            return part(queries)
        return self._index.shared(part, queries)
