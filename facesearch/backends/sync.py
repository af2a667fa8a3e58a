"""The store's faces to a server: build anew, push what changed, verify, repair.

Everything is read from the store and may be done again at any time. One process at a time does it
for a library directory (a file lock). Two machines that push at once do no harm to answers: what
a server holds too much is never shown, and `verify` finds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np

from facesearch.backends.backend import Backend, State
from facesearch.errors import LibraryError
from facesearch.index.centring import centred, mean_of_people
from facesearch.index.disk import exclusive, writing
from facesearch.index.manifest import IndexHome
from facesearch.index.spec import IndexSpec, load_recipe
from facesearch.index.tuned import Tuned
from facesearch.store import collections, feed
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.values import F16, F32, I64, FaceRows

_RANGE = 8192
"""Face ids compared at a time; below what Milvus answers at once."""
_BEYOND = 2**62
"""Above every face id."""
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Choice:
    """How a server is to index what it is given.

    Attributes:
        recipe: name or path of a recipe; "auto" for the server's default, and to forget what was
            tuned; None for what was tuned, or the default.
        tuned: what tuning has just chosen; None if it has not.
    """

    recipe: str | None = None
    tuned: Tuned | None = None


AS_TUNED = Choice()


def build(
    backend: Backend,
    home: IndexHome,
    database: Database,
    collection: Collection,
    people: F16 | None = None,
    choice: Choice = AS_TUNED,
    *,
    wait: bool = False,
) -> State:
    """Put every face into the server anew, in one step for those who search.

    A build that was interrupted is gone on with: what it has sent is not sent again.

    Args:
        backend: the server.
        home: whose index it is.
        database: the truth.
        collection: whose faces.
        people: (N, D) one face of each enrolled person, which the mean is taken over.
        choice: how they are indexed.
        wait: for another process that is at this index, instead of complaining.

    Raises:
        UsageError: no such recipe, or one that the server cannot build.
        BackendError: the server fails; what it held before stays.
        LibraryError: another process is building this index.
    """
    with writing(home.directory), exclusive(home.directory, wait=wait):
        spec, tuned = _indexed_by(backend, home, database, collection, choice)
        begun = _begun(backend, home, database, collection)
        if begun is None:
            mean = mean_of_people(home.prior, people)
            revision = collections.revision(database, collection.id)
            begun = State(
                library_id=home.library_id,
                collection_id=home.collection_id,
                contract=home.contract,
                dim=home.dim,
                mean=None if mean is None else tuple(mean.tolist()),
                revision=0,
                rows=0,
                floor=0,
                name=f"{revision:012d}_{secrets.token_hex(4)}",
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        with feed.remaining(database, collection, begun.revision, begun.filled or 0) as rest:
            state = replace(
                begun,
                revision=rest.revision,
                rows=rest.size,
                floor=rest.size,
                spec=spec,
                tuned=tuned,
                filled=None,
            )
            mean = state.mean_vector
            backend.write(state, (compared(batch, mean) for batch in rest.batches), rest.removed)
        with suppress(LibraryError), exclusive(home.directory, tuning=True):
            backend.clear()  # what a tuning that was killed has left
    return state


def push(
    backend: Backend,
    home: IndexHome,
    database: Database,
    collection: Collection,
    *,
    wait: bool = False,
    erased: bool = False,
) -> State | None:
    """Bring the server to the store's revision; None if nothing was ever built in it.

    Where faces were removed, what an interrupted build has left goes, too: they may be in it.

    Args:
        backend: the server.
        home: whose index it is.
        database: the truth.
        collection: whose faces.
        wait: for another process that is at this index, instead of complaining.
        erased: leave nothing of the removed ones anywhere: also end a tuning.

    Raises:
        BackendError: the server fails, or what it holds belongs elsewhere.
        LibraryError: another process is at it.
    """
    with writing(home.directory), exclusive(home.directory, wait=wait):
        state = _checked(backend, home, database, collection)
        if state is not None:
            state = _pushed(backend, database, collection, state, [])
        if erased:
            backend.abandon()
            backend.clear()
        return state


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a server and the store differ, among some face ids.

    Attributes:
        missing: (N,) int64 faces that the server lacks.
        different: (N,) int64 faces whose vector or identity is another one in the server.
        strays: (N,) int64 faces that only the server has.
    """

    missing: I64
    different: I64
    strays: I64

    def __bool__(self) -> bool:
        return any(map(len, (self.missing, self.different, self.strays)))


def verify(
    backend: Backend, home: IndexHome, database: Database, collection: Collection
) -> Iterator[Difference]:
    """Compare every face of the server with the store's, range by range of ids.

    What changed since the server's revision is not a difference.

    Raises:
        BackendError: the server fails, or what it holds belongs elsewhere.
    """
    state = _checked(backend, home, database, collection)
    if state is None:
        return
    changed = feed.changes(database, collection, state.revision)
    pending = np.concatenate([changed.upserts.face_ids, changed.removed])
    last = feed.last_face(database, collection) + 1
    bounds = [*range(0, last, _RANGE), last, _BEYOND]
    for first, end in pairwise(bounds):
        held = backend.read(state, first, end)
        truth = compared(feed.between(database, collection, first, end), state.mean_vector)
        yield _difference(held, truth, pending)


def repair(
    backend: Backend,
    home: IndexHome,
    database: Database,
    collection: Collection,
    found: list[Difference],
) -> State | None:
    """Mend what `verify` found, and bring the server to the store's revision.

    Raises:
        BackendError: the server fails, or holds another number of faces afterwards.
        LibraryError: another process is at it.
    """
    with writing(home.directory), exclusive(home.directory):
        state = _checked(backend, home, database, collection)
        return None if state is None else _pushed(backend, database, collection, state, found)


def compared(rows: FaceRows, mean: F32 | None) -> FaceRows:
    """Rows of the store, vectors as they are compared: centred and rounded."""
    if mean is None or not len(rows):
        return rows
    return replace(rows, vectors=centred(rows.vectors, mean).astype(np.float16))


def _indexed_by(
    backend: Backend, home: IndexHome, database: Database, collection: Collection, choice: Choice
) -> tuple[IndexSpec | None, Tuned | None]:
    """The recipe to build by, None for the server's default; and the tuning to remember."""
    if choice.tuned is not None:
        return choice.tuned.spec, choice.tuned
    if choice.recipe == "auto":
        return None, None
    held = backend.state()
    if held is not None and home.mismatch(held, collections.revision(database, collection.id)):
        held = None
    tuned = held.tuned if held else None
    if choice.recipe is None:
        return tuned.spec if tuned else None, tuned
    spec = load_recipe(choice.recipe, backend.kind)
    backend.require(spec)
    return spec, tuned


def _begun(
    backend: Backend, home: IndexHome, database: Database, collection: Collection
) -> State | None:
    """A build that was interrupted, to go on with."""
    left = backend.unfinished()
    revision = collections.revision(database, collection.id)
    return None if left is None or home.mismatch(left, revision) else left


def _checked(
    backend: Backend, home: IndexHome, database: Database, collection: Collection
) -> State | None:
    state = backend.state()
    if state is not None:
        state.check(home, collections.revision(database, collection.id))
    return state


def _pushed(
    backend: Backend,
    database: Database,
    collection: Collection,
    state: State,
    found: list[Difference],
) -> State:
    """Write what changed since `state`, and what mends `found`."""
    changes, rows = feed.changes_and_size(database, collection, state.revision)
    damaged = np.concatenate([_NONE, *(d.missing for d in found), *(d.different for d in found)])
    damaged = damaged[~np.isin(damaged, changes.upserts.face_ids)]
    mended = feed.faces(database, collection, damaged.tolist())
    gone = np.concatenate([changes.removed, *(d.strays for d in found)])
    after = replace(state, revision=changes.revision, rows=rows, floor=rows)
    if after != state or len(mended) or len(gone):
        upserts = [compared(part, state.mean_vector) for part in (changes.upserts, mended)]
        backend.write(after, [part for part in upserts if len(part)], gone)
    if len(changes.removed):
        backend.abandon()
    return after


def _difference(held: FaceRows, truth: FaceRows, pending: I64) -> Difference:
    both, here, there = np.intersect1d(
        held.face_ids, truth.face_ids, assume_unique=True, return_indices=True
    )
    same = (held.vectors[here] == truth.vectors[there]).all(axis=1)
    same &= held.identity_ids[here] == truth.identity_ids[there]
    missing = np.setdiff1d(truth.face_ids, held.face_ids)
    strays = np.setdiff1d(held.face_ids, truth.face_ids)
    lists = (missing, both[~same], strays)
    return Difference(*(ids[~np.isin(ids, pending)] for ids in lists))


def described(found: list[Difference]) -> list[str]:
    """What `verify` found, in words."""
    words = []
    for what, lists in (
        ("lacks {} faces of the database: {}", [d.missing for d in found]),
        ("holds {} faces differently: {}", [d.different for d in found]),
        ("holds {} faces that the database has not: {}", [d.strays for d in found]),
    ):
        ids = np.concatenate([_NONE, *lists])
        if len(ids):
            some = ", ".join(f"#{i}" for i in ids[:5].tolist()) + (", ..." if len(ids) > 5 else "")
            words.append(what.format(len(ids), some))
    return words
