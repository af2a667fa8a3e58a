"""The index as the store is now: the current generation, plus the delta, minus what is gone.

What an identification needs of any vector backend is this class's surface: `revision` and `apply`
to follow the store, `search` and `search_identities` to answer.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from facesearch.errors import UsageError
from facesearch.index.adaptation import adapted
from facesearch.index.centring import centred, mean_of_people
from facesearch.index.exact import ExactIndex
from facesearch.index.generation import Generation, open_current
from facesearch.index.gpu import RERANK, on_gpu
from facesearch.index.keys import best, rows_of, shift, unpack
from facesearch.index.manifest import IndexHome, pointer_stamp, read_pointer
from facesearch.index.segment import EVERYTHING, Faces, Scope, Segment
from facesearch.index.state import State, fused, joined, lookup, matches_of, nearest
from facesearch.values import F16, F32, I64, Changes, Matches

SHORTLIST = 64
"""Identities whose templates are compared, at least; enough for the first place, see
`docs/decisions/0006-levers.md`."""

_LARGE_DELTA = 2048
"""Faces of the delta from which FAISS scans it: numpy takes less time for fewer."""
_DELTA_RERANK = 32


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


class LiveIndex:
    """A collection's faces, searchable, every committed row among them.

    Searches may run in any number of threads while another calls `apply`; each sees the state
    before or after it as a whole.

    Args:
        generation: the current generation; None to hold everything in the delta.
        dim: length of a vector.
        mean: (D,) what is taken out of the delta and of queries, as it was of the generation; None
            for nothing.
        gpu_memory: bytes of a GPU that the generation's vectors may take.
    """

    def __init__(
        self,
        generation: Generation | None,
        dim: int,
        mean: F32 | None = None,
        gpu_memory: int = 0,
    ) -> None:
        self.generation = generation
        self.adaptation = None if generation is None else generation.adaptation
        self._dim = dim
        self._mean = mean
        self._lock, self._following = threading.Lock(), threading.Lock()
        nothing = np.zeros(0, np.int64)
        self._buffer = np.zeros((0, dim), np.float32)
        base = delta = self._in_memory(nothing, nothing, self._buffer)
        revision = 0
        if generation is not None:
            faces = Faces(generation.face_ids, generation.identity_ids, generation.vectors)
            base = _searched(faces, generation, gpu_memory)
            revision = generation.manifest.revision
        self._state = State(revision, base, delta)
        self._stamp: tuple[int, ...] | None = None
        self._counted: tuple[object, tuple[int, int]] = None, (0, 0)

    @classmethod
    def open(
        cls,
        home: IndexHome,
        revision: Callable[[], int],
        people: Callable[[], F16 | F32] | None = None,
        gpu_memory: int = 0,
    ) -> Self:
        """The index as its current generation has it; then `apply` what changed since.

        Args:
            home: where it is, and whose it must be.
            revision: the collection's revision in the database; called after the generation's
                manifest was read, so that one published meanwhile is not taken for a stranger.
            people: as for `build`, asked for where there is no generation to take the mean of.
            gpu_memory: bytes of a GPU that the vectors may take.

        Raises:
            IndexFileError: the generation is damaged, foreign, or from the database's future.
        """
        generation = open_current(home, revision)
        mean = home.prior
        if generation is not None and generation.manifest.mean is not None:
            mean = np.array(generation.manifest.mean, np.float32)
        elif mean is not None and people is not None:
            mean = mean_of_people(mean, people())
        return cls(generation, home.dim, mean, gpu_memory)

    @property
    def revision(self) -> int:
        """The collection's revision that searches see; ask the store for the changes after it."""
        return self._state.revision

    def outdated(self, home: IndexHome) -> bool:
        """Whether another generation was published since this one was opened.

        Raises:
            IndexFileError: the pointer to the current generation is damaged.
        """
        stamp = pointer_stamp(home.directory)
        if stamp == self._stamp:
            return False
        pointer = read_pointer(home.directory)
        name = None if self.generation is None else self.generation.name
        if name != (None if pointer is None else pointer.generation):
            return True
        self._stamp = stamp
        return False

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

    def enrolled(self, scope: Scope = EVERYTHING) -> tuple[int, int]:
        """How many identities have a face in scope, and how many faces these are."""
        state = self._state
        if scope.everything:
            return state.people, state.enrolled_faces
        known, counts = self._counted
        if known != (state.revision, scope):
            parts = [segment.people(scope) for _, segment in state.segments]
            people = np.union1d(parts[0][0], parts[1][0])
            counts = len(people), parts[0][1] + parts[1][1]
            self._counted = (state.revision, scope), counts
        return counts

    def prepare(self) -> None:
        """Do now what the first query would have to: look at who is in which row."""
        self._state.base.prepare()

    def follow(self, changes: Callable[[int], Changes]) -> None:
        """`apply` what happened since; of several threads that want to, one asks for it.

        Args:
            changes: everything after a revision, read after this call.
        """
        with self._following:
            self.apply(changes(self.revision))

    def apply(self, changes: Changes) -> None:
        """Bring the index to a later revision; does nothing if it is there already.

        Faces that are new or changed go to the delta and supersede what the generation has of them;
        removed ones stop being found, and leave the delta's memory at once. It takes time for what
        changed, not for what the delta holds, but where faces leave it.

        Args:
            changes: everything after the `revision` read from this object before.
        """
        with self._lock:
            state = self._state
            if changes.revision <= state.revision:
                return
            new, faces = changes.upserts, state.delta.faces
            touched = np.concatenate([new.face_ids, changes.removed])
            changed = [new.identity_ids, faces.identity_ids[faces.find(touched)]]
            gone = faces.find(changes.removed)
            if len(gone):
                keep = np.ones(len(faces), np.bool_)
                keep[gone] = False
                faces = Faces(faces.face_ids[keep], faces.identity_ids[keep], faces.vectors[keep])
            add = ~np.isin(new.face_ids, changes.removed)
            ids, people, rows = (
                new.face_ids[add],
                new.identity_ids[add],
                self._rows(new.vectors[add]),
            )
            known = np.isin(ids, faces.face_ids)
            places = faces.find(ids[known])
            identity_ids, vectors = faces.identity_ids.copy(), np.asarray(faces.vectors, np.float32)
            identity_ids[places] = people[known]
            if (vectors[places] != rows[known]).any():
                vectors = vectors.copy()  # others may be searching
                vectors[places] = rows[known]
            base = state.base.without(touched)
            if base is not state.base:
                older = state.base.faces
                changed.append(older.identity_ids[older.find(touched)])
            delta = self._in_memory(
                np.concatenate([faces.face_ids, ids[~known]]),
                np.concatenate([identity_ids, people[~known]]),
                self._grown(vectors, rows[~known]),
            )
            affected = np.unique(np.concatenate(changed))
            affected = affected[affected > 0]
            self._state = state.followed_by(changes.revision, base, delta, affected)

    def search(self, vectors: F32, k: int, scope: Scope = EVERYTHING) -> Matches:
        """The k faces most similar to each query, enrolled or not.

        Args:
            vectors: (Q, D) float32 unit vectors.
            k: faces wanted a query, at least 1.
            scope: which faces may be returned.

        Returns:
            Matches of width k.

        Raises:
            UsageError: k is below 1, or `vectors` are not finite (Q, D).
            IndexFileError: FAISS failed.
        """
        vectors = self._query(vectors, k)
        state = self._state
        keys = [shift(s.search(vectors, k, scope), n) for n, s in state.segments if len(s)]
        return matches_of(state, best(joined(keys, len(vectors)), k))

    def search_identities(self, vectors: F32, k: int, scope: Scope = EVERYTHING) -> Matches:
        """The best face of each of the k identities most similar to each query.

        Args:
            vectors: (Q, D) float32 unit vectors.
            k: identities wanted a query, at least 1.
            scope: which faces may be returned.

        Returns:
            Matches of width k, every identity at most once a query.

        Raises:
            UsageError: k is below 1, or `vectors` are not finite (Q, D).
            IndexFileError: FAISS failed.
        """
        vectors = self._query(vectors, k)
        state = self._state
        return matches_of(state, nearest(state, vectors, k, scope))

    def search_templates(
        self, vectors: F32, k: int, scope: Scope = EVERYTHING, *, by_look: bool = False
    ) -> Matches:
        """The k identities whose mean face is most similar to each query.

        The identities looked at are the `SHORTLIST` (or 4 k) whose best face is nearest; the mean
        is over all faces in scope that each has now, in the generation and in the delta.

        Args:
            vectors: (Q, D) float32 unit vectors.
            k: identities wanted a query, at least 1.
            scope: which faces are searched.
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
        if state.people == state.enrolled_faces:  # one each: it is the mean
            return matches_of(state, nearest(state, vectors, k, scope))
        keys = nearest(state, vectors, max(SHORTLIST, 4 * k), scope)
        several = state.several(rows_of(keys))
        if not np.count_nonzero(several):
            return matches_of(state, keys[:, :k])
        rows, scores = unpack(keys)
        face_ids, identity_ids = lookup(state, rows)
        query, column = np.nonzero(several)
        scores[query, column] = fused(
            state, identity_ids[query, column], vectors, query, scope, by_look
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(face_ids, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        identity_ids = np.take_along_axis(identity_ids, order, axis=1)
        return Matches(ids, scores, identity_ids, np.sum(ids >= 0, axis=1))

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
        return adapted(centred(vectors, self._mean), self.adaptation)

    def centred(self, vectors: F16 | F32) -> F32:
        """(N, D) vectors as embedded, as this index would compare them without an adaptation."""
        return centred(vectors, self._mean)

    def _rows(self, vectors: F16) -> F32:
        """Rows of the delta: as they are compared, and rounded, as a generation holds them."""
        return self.compared(vectors).astype(np.float16).astype(np.float32)

    def _in_memory(self, face_ids: I64, identity_ids: I64, vectors: F32) -> Segment:
        """A delta; scanned by FAISS where that is faster, and FAISS is loaded anyway."""
        faces = Faces(face_ids, identity_ids, vectors)
        if self.generation is None or len(faces) < _LARGE_DELTA:
            return Segment(faces, ExactIndex(vectors))
        from facesearch.index.faiss_index import FlatRows

        return Segment(faces, FlatRows(vectors), _DELTA_RERANK)

    def _grown(self, vectors: F32, more: F32) -> F32:
        """The delta's vectors with more after them, where there is room without copying them.

        States that see fewer rows of the buffer do not notice.
        """
        rows = len(vectors) + len(more)
        if vectors.base is not self._buffer or rows > len(self._buffer):
            self._buffer = np.empty((2 * rows, self._dim), np.float32)
            self._buffer[: len(vectors)] = vectors
        self._buffer[len(vectors) : rows] = more
        return self._buffer[:rows]

    def _query(self, vectors: F32, k: int) -> F32:
        """The queries checked, and as they are compared."""
        if k < 1:
            raise UsageError(f"{k} results asked for; at least 1")
        if vectors.ndim != 2 or vectors.shape[1] != self._dim or not _finite(vectors):
            raise UsageError(
                f"queries of shape {vectors.shape}: expected finite vectors (Q, {self._dim})"
            )
        return self.compared(vectors)


def _searched(faces: Faces, generation: Generation, gpu_memory: int) -> Segment:
    """A generation's faces, by its index or on a GPU."""
    rerank = generation.manifest.spec.rerank
    index = on_gpu(generation.index, generation.vectors, gpu_memory)
    return Segment(faces, index, rerank if index is generation.index else max(rerank, RERANK))


def _finite(vectors: F32) -> bool:
    """Whether all of these are: as a rule their sum says so, at half the cost."""
    return math.isfinite(np.add.reduce(vectors, axis=None)) or bool(np.isfinite(vectors).all())
