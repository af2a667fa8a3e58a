"""An index whose vectors are in a server: candidates from there, scored and decided here.

How a query is answered
1. The server holds the faces up to one revision. What changed since is in memory, searched exactly.
2. The server names the faces nearest to each query, more than are wanted. They are read from the
   store: one that is gone there is not found, one that changed hands is whose it is now.
3. They are scored exactly, from the store's float16 vectors, and grouped by identity, together
   with those in memory: the same scores as `LiveIndex` gives, for the same faces.
4. Stopping rule, as in `facesearch.index.segment`: a query is done once it has k answers, or as
   many as there can be. Otherwise `_GROWTH` times as many are asked for, up to `_MOST_FETCHED`;
   past that every face is compared, read from the store.
5. A filter that lets few faces through (`_FEW`) is not given to the server: graphs lose faces under
   such filters. Those faces are compared, read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from facesearch.backends.backend import Backend, MovedError, State
from facesearch.backends.ranking import Asked, merged, ranked, stacked
from facesearch.errors import UsageError
from facesearch.index.centring import centred, mean_of_people
from facesearch.index.exact import score
from facesearch.index.live import SHORTLIST, ComparedFaces, IndexStatus
from facesearch.index.manifest import IndexHome
from facesearch.index.segment import EVERYTHING, Faces, Scope
from facesearch.index.templates import cosines
from facesearch.store import collections, feed
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.values import F16, F32, I64, Changes, FaceRows, Matches

RERANK = 256
"""Faces asked of the server for a query, at least, where no recipe was chosen."""
_FACES_AN_IDENTITY = 4
_GROWTH = 8
_MOST_FETCHED = 16_384
"""Faces asked for at most: Milvus's own limit."""
_FEW = 20_000
"""Faces compared one by one rather than to give the server a filter that lets only them through."""
_MOST_NAMED = 4096
"""Identities named in a filter at most; beyond, candidates of others are dropped here."""
_TOGETHER = 64
"""Queries that are one request to the server, which has `index.timeout` for each."""
_TRIES = 5
"""Times that a search is begun while another process changes what it searches."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _View:
    """Never changed, only replaced: a search works on the one it saw first.

    Attributes:
        state: what the server holds; None if nothing.
        mean: (D,) what is taken out of vectors; None for nothing.
        revision: the collection's revision that searches see.
        faces: new or changed since `state.revision`, by id, vectors as they are compared.
        touched: (N,) int64, the ids of these and of the removed ones.
    """

    state: State | None
    mean: F32 | None
    revision: int
    faces: Faces
    touched: I64

    def compared(self, rows: FaceRows) -> Faces:
        """Rows of the store as they are compared: centred and rounded."""
        vectors = centred(rows.vectors, self.mean).astype(np.float16).astype(np.float32)
        return Faces(rows.face_ids, rows.identity_ids, vectors)

    def after(self, changes: Changes) -> _View:
        """This view at a later revision."""
        new, old = self.compared(changes.upserts), self.faces
        changed = np.concatenate([new.face_ids, changes.removed])
        keep = ~np.isin(old.face_ids, changed)
        add = ~np.isin(new.face_ids, changes.removed)
        ids = np.concatenate([old.face_ids[keep], new.face_ids[add]])
        order = np.argsort(ids)
        people = np.concatenate([old.identity_ids[keep], new.identity_ids[add]])
        vectors = np.concatenate([old.vectors[keep], new.vectors[add]])
        faces = Faces(ids[order], people[order], vectors[order])
        touched = np.union1d(self.touched, changed)
        return _View(self.state, self.mean, changes.revision, faces, touched)


class RemoteIndex:
    """A collection's faces, searchable, every committed row among them.

    Offers what `facesearch.index.live.LiveIndex` does, but for an adaptation. Safe to search from
    several threads.

    Args:
        backend: the server.
        home: whose index it is.
        database: the truth.
        collection: whose faces.
        people: one face a person, as stored, for the mean before anything is in the server.
    """

    generation: None = None
    """Of files."""
    adaptation: None = None

    def __init__(
        self,
        backend: Backend,
        home: IndexHome,
        database: Database,
        collection: Collection,
        people: Callable[[], F16],
    ) -> None:
        self.backend = backend
        self.home = home
        self._database = database
        self._collection = collection
        self._people = people
        self._lock = threading.Lock()
        self._counted: tuple[object, tuple[int, int]] = None, (0, 0)
        self._view: _View | None = None

    def close(self) -> None:
        """Release the connection to the server."""
        self.backend.close()

    def refresh(self) -> None:
        """See every row committed before this call, and what the server holds now.

        Raises:
            BackendError: what it holds belongs elsewhere, or is newer than the database.
        """
        with self._lock:
            state = self._held()
            revision = collections.revision(self._database, self._collection.id)
            if state is not None:
                state.check(self.home, revision)
            view = self._view
            if view is None or view.state != state:
                view = self._at(state)
            if view.revision != revision:
                view = view.after(feed.changes(self._database, self._collection, view.revision))
            self._view = view

    def _held(self) -> State | None:
        return self.backend.state()

    @property
    def revision(self) -> int:
        """The collection's revision that searches see."""
        return self._seen.revision

    @property
    def mean(self) -> F32 | None:
        """(D,) what is taken out of vectors; None for nothing."""
        return self._seen.mean

    @property
    def state(self) -> State | None:
        """What the server holds; None if nothing."""
        return self._seen.state

    def status(self) -> IndexStatus:
        """What is searched now; `superseded` counts removed faces only, files it has none."""
        view = self._seen
        state = view.state
        return IndexStatus(
            generation=None if state is None else state.name,
            recipe=None if state is None else (state.spec or self.backend.default(state.rows)).name,
            created=None if state is None else state.created,
            bytes_on_disk=0,
            rows=0 if state is None else state.rows,
            superseded=len(view.touched) - len(view.faces),
            delta=len(view.faces),
            revision=view.revision,
            max_face_id=0,
        )

    def enrolled(self, scope: Scope = EVERYTHING) -> tuple[int, int]:
        """As `LiveIndex.enrolled`; counted by the store, once a revision and scope."""
        now = self.revision, scope
        known, counts = self._counted
        if known != now:
            counts = self._enrolled_in(scope)
            self._counted = now, counts
        return counts

    def prepare(self) -> None:
        """Nothing: there is nothing that the first query would have to do."""

    def search(self, vectors: F32, k: int, scope: Scope = EVERYTHING) -> Matches:
        """As `LiveIndex.search`.

        Raises:
            BackendError: the server fails, or cannot have searched every face.
        """
        self._require(vectors, k)
        return self._settled(lambda view: self._matches(view, vectors, Asked(k, scope, False)))

    def search_identities(self, vectors: F32, k: int, scope: Scope = EVERYTHING) -> Matches:
        """As `LiveIndex.search_identities`.

        Raises:
            BackendError: the server fails, or cannot have searched every face.
        """
        self._require(vectors, k)
        return self._settled(lambda view: self._matches(view, vectors, Asked(k, scope, True)))

    def search_templates(
        self, vectors: F32, k: int, scope: Scope = EVERYTHING, *, by_look: bool = False
    ) -> Matches:
        """As `LiveIndex.search_templates`.

        Raises:
            BackendError: the server fails, or cannot have searched every face.
        """
        self._require(vectors, k)
        return self._settled(lambda view: self._templates(view, vectors, k, scope, by_look))

    def faces_of(self, identities: I64) -> ComparedFaces:
        """As `LiveIndex.faces_of`, from the store."""
        rows = feed.faces_of(self._database, self._collection, identities.tolist())
        faces = self._seen.compared(rows)
        return ComparedFaces(faces.face_ids, faces.identity_ids, faces.vectors.astype(np.float32))

    def compared(self, vectors: F16 | F32) -> F32:
        """(N, D) vectors as embedded, as this index compares them."""
        return centred(vectors, self._seen.mean)

    centred = compared
    """As `LiveIndex.centred`: there is no adaptation."""

    @property
    def _seen(self) -> _View:
        if self._view is None:
            self.refresh()
        assert self._view is not None
        return self._view

    def _at(self, state: State | None) -> _View:
        """The view of a server's state, nothing since."""
        mean = self.home.prior
        if state is not None:
            mean = state.mean_vector
        elif mean is not None:
            mean = mean_of_people(mean, self._people())
        none = np.zeros(0, np.int64)
        nothing = Faces(none, none, np.zeros((0, self.home.dim), np.float32))
        return _View(state, mean, 0 if state is None else state.revision, nothing, none)

    def _settled(self, search: Callable[[_View], T]) -> T:
        """What `search` finds; again where the server's vectors were changed meanwhile."""
        for _ in range(_TRIES - 1):
            try:
                return search(self._seen)
            except MovedError:
                self.refresh()
        return search(self._seen)

    def _matches(self, view: _View, vectors: F32, asked: Asked) -> Matches:
        """The answer to `search` or `search_identities`."""
        queries = centred(vectors, view.mean)
        if view.state is None or not view.state.rows or not len(queries):
            return ranked([view.faces], queries, asked)
        few = self._few(asked.scope)
        if few is not None:
            return ranked([view.compared(few)], queries, asked)
        return stacked(
            self._by_server(view, view.state, queries[start : start + _TOGETHER], asked)
            for start in range(0, len(queries), _TOGETHER)
        )

    def _by_server(self, view: _View, state: State, queries: F32, asked: Asked) -> Matches:
        """The answer to some queries, of those whom the server names; as many as it takes."""
        rerank = state.spec.rerank if state.spec else RERANK
        fetch = max(rerank, asked.k * (_FACES_AN_IDENTITY if asked.distinct else 1))
        found = self._fetched(view, state, queries, fetch, asked)
        pending = np.flatnonzero(found.counts < asked.k)
        wanted = min(asked.k, self._available(asked)) if len(pending) else 0
        while len(pending := pending[found.counts[pending] < wanted]):
            some = queries[pending]
            exhausted = fetch >= min(state.rows, _MOST_FETCHED)
            if exhausted:
                better = self._everything(view, some, asked)
            else:
                fetch = min(fetch * _GROWTH, _MOST_FETCHED)
                better = self._fetched(view, state, some, fetch, asked)
            found.ids[pending], found.scores[pending] = better.ids, better.scores
            found.identity_ids[pending] = better.identity_ids
            found.counts[pending] = better.counts
            if exhausted:
                break
        return found

    def _fetched(
        self, view: _View, state: State, queries: F32, fetch: int, asked: Asked
    ) -> Matches:
        """The answer from `fetch` faces a query that the server names, and those in memory."""
        named = asked.scope.identities
        if named is not None and len(named) > _MOST_NAMED:
            named = None
        enrolled = asked.distinct and named is None
        ids = self.backend.nearest(state, queries, fetch, named, enrolled=enrolled)
        listed = np.unique(ids[ids >= 0])
        listed = listed[~np.isin(listed, view.touched)]
        rows = feed.faces(self._database, self._collection, listed.tolist())
        faces = view.compared(rows)
        at = np.searchsorted(faces.face_ids, ids)
        at = np.minimum(at, max(0, len(faces) - 1))
        known = np.zeros(ids.shape, np.bool_) if not len(faces) else faces.face_ids[at] == ids
        allowed = faces.among(asked.scope)
        if asked.distinct:
            people = faces.identity_ids > 0
            allowed = people if allowed is None else allowed & people
        if allowed is not None and len(faces):
            known &= allowed[at]
        keys = score(queries, faces.vectors, np.where(known, at, -1))
        return merged(faces, keys, view.faces, queries, asked)

    def _few(self, scope: Scope) -> FaceRows | None:
        """The faces in scope, from the store, if they are few."""
        if scope.faces is not None and len(scope.faces) <= _FEW:
            return feed.faces(self._database, self._collection, scope.faces.tolist())
        if scope.identities is not None:
            named = scope.identities.tolist()
            if feed.enrolled(self._database, self._collection, named)[1] <= _FEW:
                return feed.faces_of(self._database, self._collection, named)
        return None

    def _available(self, asked: Asked) -> int:
        """How many answers there can be."""
        scope = asked.scope
        if asked.distinct or scope.identities is not None:
            return self._enrolled_in(scope)[0 if asked.distinct else 1]
        if scope.faces is not None:
            return len(feed.owners(self._database, self._collection, scope.faces.tolist()))
        return feed.size(self._database, self._collection)[1]

    def _enrolled_in(self, scope: Scope) -> tuple[int, int]:
        """How many identities have a face in scope, and how many faces these are, by the store."""
        if scope.faces is None:
            named = None if scope.identities is None else scope.identities.tolist()
            return feed.enrolled(self._database, self._collection, named)
        owners = feed.owners(self._database, self._collection, scope.faces.tolist())
        owners = owners[owners > 0]
        if scope.identities is not None:
            owners = owners[np.isin(owners, scope.identities)]
        return len(np.unique(owners)), len(owners)

    def _everything(self, view: _View, queries: F32, asked: Asked) -> Matches:
        """The exact answer, from every face of the store."""
        with feed.snapshot(self._database, self._collection) as (_, batches):
            return ranked((view.compared(b) for b in batches), queries, asked)

    def _templates(self, view: _View, vectors: F32, k: int, scope: Scope, by_look: bool) -> Matches:
        """The answer to `search_templates`."""
        wide = max(SHORTLIST, 4 * k)
        near = self._matches(view, vectors, Asked(wide, scope, True))
        listed = np.unique(near.identity_ids[near.ids >= 0])
        rows = feed.faces_of(self._database, self._collection, listed.tolist())
        faces = view.compared(rows)
        known, counts = np.unique(faces.identity_ids, return_counts=True)
        # as in `LiveIndex`, whose scores these are: one face, and it is its own template
        several = (near.ids >= 0) & np.isin(near.identity_ids, known[counts > 1])
        query, column = np.nonzero(several)
        scores = near.scores.copy()
        if len(query):
            people, of = np.unique(near.identity_ids[query, column], return_inverse=True)
            chosen = np.isin(faces.identity_ids, people)
            if (among := faces.among(scope)) is not None:
                chosen &= among
            scores[query, column] = cosines(
                faces.vectors[chosen].astype(np.float32),
                np.searchsorted(people, faces.identity_ids[chosen]),
                of,
                centred(vectors, view.mean),
                query,
                by_look=by_look,
            )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(near.ids, order, axis=1)
        return Matches(
            ids,
            np.take_along_axis(scores, order, axis=1),
            np.take_along_axis(near.identity_ids, order, axis=1),
            np.sum(ids >= 0, axis=1),
        )

    def _require(self, vectors: F32, k: int) -> None:
        if k < 1:
            raise UsageError(f"{k} results asked for; at least 1")
        dim = self.home.dim
        if vectors.ndim != 2 or vectors.shape[1] != dim or not np.isfinite(vectors).all():
            raise UsageError(
                f"queries of shape {vectors.shape}: expected finite vectors (Q, {dim})"
            )
