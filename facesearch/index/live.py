"""The index as the store is now: the current generation, plus the delta, minus what is gone.

What an identification needs of any vector backend is this class's surface: `revision` and `apply`
to follow the store, `search` and `search_identities` to answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from facesearch.errors import UsageError
from facesearch.index.centring import centred, mean_of_people
from facesearch.index.exact import ExactIndex
from facesearch.index.generation import Generation, open_current
from facesearch.index.keys import best, best_distinct, count, shift, unpack
from facesearch.index.manifest import IndexHome, read_pointer
from facesearch.index.segment import Faces, Scope, Segment
from facesearch.index.templates import templates
from facesearch.values import F16, F32, I64, Changes, Matches

SHORTLIST = 64
"""Identities whose templates are compared, at least; enough for the first place, see
`docs/decisions/0006-levers.md`."""


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What a collection's index is at one moment.

    Attributes:
        generation: name of the generation in use; None before the first build.
        recipe: name of its recipe; None without a generation.
        created: when it was built, UTC, ISO 8601; None without a generation.
        bytes_on_disk: of its files.
        rows: faces in it.
        superseded: of these, how many were removed or changed since.
        delta: faces outside it, searched exactly in memory.
        revision: the collection's revision that searches see.
        max_face_id: largest face id in the generation; 0 without one.
    """

    generation: str | None
    recipe: str | None
    created: str | None
    bytes_on_disk: int
    rows: int
    superseded: int
    delta: int
    revision: int
    max_face_id: int


@dataclass(frozen=True, slots=True)
class ComparedFaces:
    """Faces as they are compared.

    Attributes:
        face_ids: (N,) int64.
        identity_ids: (N,) int64.
        vectors: (N, D) float32 unit vectors, centred.
    """

    face_ids: I64
    identity_ids: I64
    vectors: F32


@dataclass(frozen=True, slots=True)
class _State:
    """Never changed, only replaced: a search works on the one it saw first."""

    revision: int
    base: Segment
    delta: Segment

    @property
    def segments(self) -> tuple[tuple[int, Segment], ...]:
        """The segments, each with the number of rows before it."""
        return (0, self.base), (len(self.base), self.delta)


class LiveIndex:
    """A collection's faces, searchable, every committed row among them.

    Searches may run in any number of threads while another calls `apply`; each sees the state
    before or after it as a whole.

    Args:
        generation: the current generation; None to hold everything in the delta.
        dim: length of a vector.
        mean: (D,) what is taken out of the delta and of queries, as it was of the generation; None
            for nothing.
    """

    def __init__(self, generation: Generation | None, dim: int, mean: F32 | None = None) -> None:
        self.generation = generation
        self._dim = dim
        self._mean = mean
        self._lock = threading.Lock()
        nothing = np.zeros(0, np.int64)
        base = delta = _in_memory(nothing, nothing, np.zeros((0, dim), np.float32))
        revision = 0
        if generation is not None:
            faces = Faces(generation.face_ids, generation.identity_ids, generation.vectors)
            base = Segment(faces, generation.index, generation.manifest.spec.rerank)
            revision = generation.manifest.revision
        self._state = _State(revision, base, delta)

    @classmethod
    def open(
        cls,
        home: IndexHome,
        revision: Callable[[], int],
        people: Callable[[], F16 | F32] | None = None,
    ) -> Self:
        """The index as its current generation has it; then `apply` what changed since.

        Args:
            home: where it is, and whose it must be.
            revision: the collection's revision in the database; called after the generation's
                manifest was read, so that one published meanwhile is not taken for a stranger.
            people: as for `build`, asked for where there is no generation to take the mean of.

        Raises:
            IndexFileError: the generation is damaged, foreign, or from the database's future.
        """
        generation = open_current(home, revision)
        mean = home.prior
        if generation is not None and generation.manifest.mean is not None:
            mean = np.array(generation.manifest.mean, np.float32)
        elif mean is not None and people is not None:
            mean = mean_of_people(mean, people())
        return cls(generation, home.dim, mean)

    @property
    def revision(self) -> int:
        """The collection's revision that searches see; ask the store for the changes after it."""
        return self._state.revision

    def outdated(self, home: IndexHome) -> bool:
        """Whether another generation was published since this one was opened.

        Raises:
            IndexFileError: the pointer to the current generation is damaged.
        """
        pointer = read_pointer(home.directory)
        name = None if self.generation is None else self.generation.name
        return name != (None if pointer is None else pointer.generation)

    def status(self) -> IndexStatus:
        """What is searched now."""
        state = self._state
        manifest = None if self.generation is None else self.generation.manifest
        return IndexStatus(
            generation=None if self.generation is None else self.generation.name,
            recipe=None if manifest is None else manifest.spec.name,
            created=None if manifest is None else manifest.created,
            bytes_on_disk=0 if manifest is None else sum(f.size for f in manifest.files.values()),
            rows=len(state.base),
            superseded=state.base.superseded,
            delta=len(state.delta),
            revision=state.revision,
            max_face_id=0 if manifest is None else manifest.max_face_id,
        )

    def enrolled(self, identities: I64 | None = None) -> int:
        """How many identities have a face in the index.

        Args:
            identities: (M,) int64, distinct: count only these; None for all.
        """
        base, delta = self._state.base, self._state.delta
        if identities is None:
            new = delta.identities
            return base.enrolled + len(new) - int(base.holds(new).sum())
        return int((base.holds(identities) | delta.holds(identities)).sum())

    def apply(self, changes: Changes) -> None:
        """Bring the index to a later revision; does nothing if it is there already.

        Faces that are new or changed go to the delta and supersede what the generation has of them;
        removed ones stop being found, and leave the delta's memory at once.

        Args:
            changes: everything after the `revision` read from this object before.
        """
        with self._lock:
            state = self._state
            if changes.revision <= state.revision:
                return
            new = changes.upserts
            touched = np.concatenate([new.face_ids, changes.removed])
            delta = state.delta.faces
            keep = ~np.isin(delta.face_ids, touched)
            add = ~np.isin(new.face_ids, changes.removed)
            ids = np.concatenate([delta.face_ids[keep], new.face_ids[add]])
            order = np.argsort(ids)
            self._state = _State(
                changes.revision,
                state.base.without(touched),
                _in_memory(
                    ids[order],
                    np.concatenate([delta.identity_ids[keep], new.identity_ids[add]])[order],
                    np.concatenate([delta.vectors[keep], self._rows(new.vectors[add])])[order],
                ),
            )

    def search(
        self, vectors: F32, k: int, identities: I64 | None = None, faces: I64 | None = None
    ) -> Matches:
        """The k faces most similar to each query, enrolled or not.

        Args:
            vectors: (Q, D) float32 unit vectors.
            k: faces wanted a query, at least 1.
            identities: (M,) int64, distinct: search only faces of these; None for all.
            faces: (M,) int64: search only these; None for all.

        Returns:
            Matches of width k.

        Raises:
            UsageError: k is below 1, or `vectors` are not finite (Q, D).
            IndexFileError: FAISS failed.
        """
        vectors = self._query(vectors, k)
        state, scope = self._state, Scope(identities, faces)
        keys = [shift(s.search(vectors, k, scope), n) for n, s in state.segments if len(s)]
        return _matches(state, best(_joined(keys, len(vectors)), k))

    def search_identities(
        self, vectors: F32, k: int, identities: I64 | None = None, faces: I64 | None = None
    ) -> Matches:
        """The best face of each of the k identities most similar to each query.

        Args:
            vectors: (Q, D) float32 unit vectors.
            k: identities wanted a query, at least 1.
            identities: (M,) int64, distinct: search only these; None for all.
            faces: (M,) int64: search only these faces; None for all.

        Returns:
            Matches of width k, every identity at most once a query.

        Raises:
            UsageError: k is below 1, or `vectors` are not finite (Q, D).
            IndexFileError: FAISS failed.
        """
        vectors = self._query(vectors, k)
        state = self._state
        return _matches(state, _nearest(state, vectors, k, Scope(identities, faces)))

    def search_templates(
        self, vectors: F32, k: int, identities: I64 | None = None, *, by_look: bool = False
    ) -> Matches:
        """The k identities whose mean face is most similar to each query.

        The identities looked at are the `SHORTLIST` (or 4 k) whose best face is nearest; the mean
        is over all faces each has now, in the generation and in the delta.

        Args:
            vectors: (Q, D) float32 unit vectors.
            k: identities wanted a query, at least 1.
            identities: (M,) int64, distinct: search only these; None for all.
            by_look: take a mean for each look of an identity, of which the best counts (see
                `index.templates`).

        Returns:
            Matches of width k: the cosine to each identity's mean, and its best face.

        Raises:
            UsageError: k is below 1, or `vectors` are not finite (Q, D).
            IndexFileError: FAISS failed.
        """
        vectors = self._query(vectors, k)
        state = self._state
        wide = max(SHORTLIST, 4 * k)
        rows, scores = unpack(_nearest(state, vectors, wide, Scope(identities)))
        face_ids, identity_ids = _lookup(state, rows)
        listed, column = np.unique(identity_ids, return_inverse=True)
        means, starts = _templates(state, listed, by_look)
        column = column.reshape(identity_ids.shape)
        for query in range(len(vectors)):
            if by_look:
                fused = np.maximum.reduceat(means @ vectors[query], starts)[column[query]]
            else:
                fused = means[column[query]] @ vectors[query]
            scores[query] = np.where(rows[query] >= 0, fused, scores[query])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        face_ids = np.take_along_axis(face_ids, order, axis=1)
        return Matches(
            face_ids,
            np.take_along_axis(scores, order, axis=1),
            np.take_along_axis(identity_ids, order, axis=1),
            np.sum(face_ids >= 0, axis=1),
        )

    def faces_of(self, identities: I64) -> ComparedFaces:
        """Every face of these (distinct) identities, as the index compares them."""
        state = self._state
        rows = [(s, s.rows_of(identities)) for _, s in state.segments]
        return ComparedFaces(
            np.concatenate([s.faces.face_ids[r] for s, r in rows]),
            np.concatenate([s.faces.identity_ids[r] for s, r in rows]),
            np.concatenate([s.faces.vectors[r] for s, r in rows], dtype=np.float32),
        )

    def compared(self, vectors: F16 | F32) -> F32:
        """(N, D) vectors as embedded, as this index compares them."""
        return centred(vectors, self._mean)

    def _rows(self, vectors: F16) -> F32:
        """Rows of the delta: centred and rounded, as a generation holds them."""
        return centred(vectors, self._mean).astype(np.float16).astype(np.float32)

    def _query(self, vectors: F32, k: int) -> F32:
        """The queries checked, and centred."""
        if k < 1:
            raise UsageError(f"{k} results asked for; at least 1")
        if vectors.ndim != 2 or vectors.shape[1] != self._dim or not np.isfinite(vectors).all():
            raise UsageError(
                f"queries of shape {vectors.shape}: expected finite vectors (Q, {self._dim})"
            )
        return centred(vectors, self._mean)


def _in_memory(face_ids: I64, identity_ids: I64, vectors: F32) -> Segment:
    return Segment(Faces(face_ids, identity_ids, vectors), ExactIndex(vectors))


def _nearest(state: _State, vectors: F32, k: int, scope: Scope) -> I64:
    """(Q, k) keys: the best face of each of the k nearest identities of all segments."""
    parts = [shift(s.search_identities(vectors, k, scope), n) for n, s in state.segments if len(s)]
    keys = _joined(parts, len(vectors))
    return best_distinct(keys, _lookup(state, unpack(keys)[0])[1], k)


def _templates(state: _State, identities: I64, by_look: bool) -> tuple[F32, I64]:
    """`templates` of all faces of each of these (distinct, ascending) identities."""
    owner, vectors = [], []
    for _, segment in state.segments:
        rows = segment.rows_of(identities[identities > 0])
        owner.append(np.searchsorted(identities, segment.faces.identity_ids[rows]))
        vectors.append(segment.faces.vectors[rows].astype(np.float32))
    return templates(
        np.concatenate(vectors), np.concatenate(owner), len(identities), by_look=by_look
    )


def _joined(keys: list[I64], queries: int) -> I64:
    """The segments' keys side by side; (Q, 0) if there are no segments."""
    return np.concatenate([np.zeros((queries, 0), np.int64), *keys], axis=1)


def _lookup(state: _State, rows: I64) -> tuple[I64, I64]:
    """Face and identity ids of rows of the joined segments; -1 for row -1."""
    face_ids, identity_ids = np.full(rows.shape, -1), np.full(rows.shape, -1)
    for offset, segment in state.segments:
        here = (rows >= offset) & (rows < offset + len(segment))
        face_ids[here] = segment.faces.face_ids[rows[here] - offset]
        identity_ids[here] = segment.faces.identity_ids[rows[here] - offset]
    return face_ids, identity_ids


def _matches(state: _State, keys: I64) -> Matches:
    rows, scores = unpack(keys)
    face_ids, identity_ids = _lookup(state, rows)
    return Matches(face_ids, scores, identity_ids, count(keys))
