"""A vector server as the tuner asks it: recipes built beside what is served, and dropped again.

The gallery without its probes is laid out once, and indexed by one recipe after another. What is
timed is the whole of a query as a process that runs on makes it: is the index up to date, the
server's search and what makes sure that it was complete, the candidates read from the store, scored
and grouped.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from facesearch.backends.backend import TRIAL, Backend, State
from facesearch.backends.remote import RemoteIndex
from facesearch.errors import BackendError
from facesearch.index import faiss_index
from facesearch.index.contender import RERANKS, Built, values
from facesearch.index.disk import exclusive, writing
from facesearch.index.exact import Mask
from facesearch.index.segment import Faces, Scope
from facesearch.index.spec import IndexSpec, load_recipe
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.values import F16, F32, I64, FaceRows

_QUERIES = 32
"""Queries asked of a server at once: a thousand would take longer than one request may."""
_MOST_FETCHED = 1024
"""Faces asked for a query at most: each is read from the store, and the codes are fine ones."""
_BATCH = 16_384
"""Faces laid out at a time."""


@contextmanager
def trials(index: RemoteIndex, database: Database, collection: Collection) -> Iterator[Trials]:
    """The server of an index as the tuner's `Maker`; nothing of it is left after the block.

    Raises:
        BackendError: the server fails.
        LibraryError: another process is tuning this index.
    """
    with writing(index.home.directory), exclusive(index.home.directory, tuning=True):
        index.backend.clear()
        try:
            yield Trials(index, database, collection)
        finally:
            with suppress(BackendError):  # the next tuning or build does it
                index.backend.clear()


class _LaidOut(RemoteIndex):
    """An index over what is laid out, which asks all the same what is served.

    Args:
        laid_out: its state.
        given: as `RemoteIndex`.
    """

    def __init__(self, laid_out: State, *given: Any) -> None:
        super().__init__(*given)
        self._laid_out = laid_out

    def _held(self) -> State:
        super()._held()
        return self._laid_out


class Trials:
    """`facesearch.index.contender.Maker` by a vector server; see `trials`."""

    def __init__(self, index: RemoteIndex, database: Database, collection: Collection) -> None:
        self._index, self._database, self._collection = index, database, collection
        self._laid_out: tuple[Faces | None, State | None] = None, None

    @property
    def exact(self) -> IndexSpec:
        """As `Maker.exact`."""
        return load_recipe("exact", self._index.backend.kind)

    def suits(self, spec: IndexSpec, rows: int) -> bool:
        """As `Maker.suits`."""
        return rows >= faiss_index.SMALL or not spec.train_rows

    @contextmanager
    def built(self, spec: IndexSpec, faces: Faces) -> Iterator[Built]:
        """As `Maker.built`."""
        state = replace(self._at(faces), spec=spec)
        backend = self._index.backend
        before = time.perf_counter()
        ram, disk = backend.index(state)
        spent = time.perf_counter() - before
        yield _Served(self, backend, state, spec, faces, spent, ram, disk)

    def opened(self, state: State) -> RemoteIndex:
        """The index that searches what is laid out, as the engine does what is served."""
        nobody = np.zeros((0, state.dim), np.float16)
        index = self._index
        given = index.backend, index.home, self._database, self._collection, lambda: nobody
        return _LaidOut(state, *given)

    def _at(self, faces: Faces) -> State:
        """The state of a gallery, which is laid out unless it was the last one, too."""
        held, state = self._laid_out
        if held is faces and state is not None:
            return state
        home, mean = self._index.home, self._index.mean
        self._index.backend.clear()
        state = State(
            library_id=home.library_id,
            collection_id=home.collection_id,
            contract=home.contract,
            dim=home.dim,
            mean=None if mean is None else tuple(mean.tolist()),
            revision=self._index.revision,
            rows=len(faces),
            floor=len(faces),
            name=f"{TRIAL}{secrets.token_hex(4)}",
            created="",
        )
        self._index.backend.lay_out(state, _batches(faces))
        self._laid_out = faces, state
        return state


@dataclass(frozen=True, slots=True)
class _Served:
    """`facesearch.index.contender.Built` by a vector server."""

    trials: Trials
    backend: Backend
    state: State
    spec: IndexSpec
    faces: Faces
    build_s: float
    bytes_ram: float
    bytes_disk: float

    @property
    def parameter(self) -> str:
        return self.spec.parameter

    @property
    def values(self) -> Sequence[int]:
        lists = self.spec.lists_for(len(self.faces)) if self.spec.lists else 0
        wanted = values(self.parameter, lists)
        return sorted({min(value, self.backend.widest) for value in wanted})

    @property
    def fetches(self) -> Sequence[int]:
        coded = self.spec.factory.endswith("SQ8")  # else fetching more finds nothing more
        return [n for n in RERANKS if n <= _MOST_FETCHED] if coded else [self.spec.rerank]

    def finds(self, value: int) -> _Rows:
        return _Rows(self.backend, self._with(value, self.spec.rerank), self.faces)

    def answers(self, value: int, rerank: int) -> _Whole:
        state = self._with(value, rerank)
        return _Whole(self.trials.opened(state), state.mean_vector)

    def _with(self, value: int, rerank: int) -> State:
        return replace(self.state, spec=replace(self.spec, value=value, rerank=rerank))


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a server names, as rows of the gallery."""

    backend: Backend
    state: State
    faces: Faces

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """As `VectorIndex.search`; `allowed` is which rows are enrolled."""
        parts = [
            self.backend.nearest(
                self.state,
                queries[start : start + _QUERIES],
                k,
                None,
                enrolled=allowed is not None,
            )
            for start in range(0, len(queries), _QUERIES)
        ]
        ids = np.concatenate(parts)
        rows = np.searchsorted(self.faces.face_ids, ids)
        return np.where(ids >= 0, rows, -1)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The whole of a query, from an embedding to identities.

    What the index will centre is given to it such that it gets the queries that were meant.
    """

    index: RemoteIndex
    mean: F32 | None

    def search_identities(self, queries: F32, k: int, scope: Scope, /) -> None:
        self.index.refresh()
        self.index.search_identities(
            queries if self.mean is None else queries + self.mean, k, scope
        )


def _batches(faces: Faces) -> Iterable[FaceRows]:
    for start in range(0, len(faces), _BATCH):
        part = slice(start, start + _BATCH)
        vectors: F16 = np.asarray(faces.vectors[part], np.float16)
        yield FaceRows(faces.face_ids[part], faces.identity_ids[part], vectors)
