"""A real Milvus server that is cut off, killed, restarted, and lacks rows; with a graph."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facesearch.backends import sync
from facesearch.errors import BackendError, BackendUnreachableError, IncompleteError
from facesearch.store import collections, feed, migrate
from facesearch.store.database import Database, sqlite_url
from facesearch.values import F32, FaceRows, Matches
from tests import milvus
from tests.backends.contract import Contract
from tests.backends.made import CONTRACT, DIES, Library, Served
from tests.index.made import TOLERANCE, people, units

pytestmark = DIES

PEOPLE, EACH, DIM = 1500, 2, 16
COLLECTION = 1, 0


@pytest.mark.parametrize("site", ["milvus"], indirect=True)
class TestContract(Contract):
    """The one suite."""


@pytest.fixture(scope="module")
def served(
    milvus_server: milvus.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """3,000 faces in a graph."""
    from facesearch.backends.milvus import Milvus

    root: Path = tmp_path_factory.mktemp("library")
    database = Database(sqlite_url(root / "library.db"))
    migrate.upgrade(database)
    uuid_ = database.ensure_library()
    library = Library(database, collections.ensure(database, "default", CONTRACT), root / "index")
    rng = np.random.default_rng(11)
    faces = people(rng, PEOPLE, EACH, DIM)
    library.add(faces, np.repeat(np.arange(1, PEOPLE + 1), EACH))
    served = Served(
        library,
        lambda: Milvus(
            milvus_server.url, uuid_, (library.collection.id, 0), 60, replicas=1, exact_rows=0
        ),
    )
    served.build()
    yield served
    served.backend.close()
    database.close()


@pytest.fixture(scope="module")
def queries() -> F32:
    near = people(np.random.default_rng(11), PEOPLE, EACH, DIM)[:600:30]
    near = near + 0.2 * units(np.random.default_rng(12), len(near), DIM)
    return np.asarray(near / np.linalg.norm(near, axis=1, keepdims=True), np.float32)


def hasty(served: Served, timeout_s: float = 3.0) -> Served:
    """The same, by a client that does not wait long."""
    from facesearch.backends.milvus import Milvus

    url, library = served.backend.where, served.library
    uuid_ = library.database.library_uuid()
    return Served(
        library, lambda: Milvus(url, uuid_, (library.collection.id, 0), timeout_s, replicas=1)
    )


def check(served: Served, queries: F32) -> None:
    checked(served, queries, served.open().search_identities(queries, 3))


def checked(served: Served, queries: F32, found: Matches) -> None:
    """The best answer is right, and nearly all that follow: what a graph misses differs by build.

    A score that comes after one that is missed counts as missed, too.
    """
    truth = served.library.truth
    first = Matches(
        found.ids[:, :1],
        found.scores[:, :1],
        found.identity_ids[:, :1],
        np.minimum(found.counts, 1),
    )
    truth.check(first, queries, 1, distinct=True)
    rows = truth.rows()
    scores = rows.vectors.astype(np.float64) @ queries.T.astype(np.float64)
    best = np.full((int(rows.identity_ids.max()) + 1, len(queries)), -np.inf)
    np.maximum.at(best, rows.identity_ids, scores)
    expected = np.sort(best, axis=0)[::-1][: found.scores.shape[1]].T
    assert (np.abs(found.scores - expected) < TOLERANCE).mean() >= 0.9


def test_a_graph_finds_what_brute_force_finds(served: Served, queries: F32) -> None:
    check(served, queries)


def test_nobody_answers(served: Served, queries: F32, milvus_server: milvus.Server) -> None:
    client = hasty(served)
    index = client.open()
    milvus_server.freeze()
    try:
        with pytest.raises(BackendUnreachableError, match="no answer within 3 s"):
            index.search(queries, 3)
        with pytest.raises(BackendUnreachableError):
            index.refresh()
    finally:
        milvus_server.thaw()
    checked(served, queries, index.search_identities(queries, 3))
    client.backend.close()


def test_rows_that_are_lost_are_not_overlooked(served: Served, queries: F32) -> None:
    from pymilvus import MilvusClient

    client = hasty(served)
    state = client.backend.state()
    assert state is not None
    library_id = state.library_id.replace("-", "")
    raw = MilvusClient(served.backend.where, timeout=30)
    raw.delete(f"facesearch_{library_id}_{state.collection_id}s0_{state.name}", ids=[10, 11, 700])
    raw.close()
    with pytest.raises(IncompleteError, match="only 2997 of 3000 faces were searched"):
        client.open().search(queries, 3)
    backend, library = served.backend, served.library
    truth = backend, library.home, library.database, library.collection
    found = [d for d in sync.verify(*truth) if d]
    assert sync.described(found) == ["lacks 3 faces of the database: #10, #11, #700"]
    sync.repair(*truth, found)
    check(served, queries)
    assert not any(sync.verify(*truth))
    client.backend.close()


def test_one_replica_where_two_are_asked_for(served: Served) -> None:
    from facesearch.backends.milvus import Milvus

    library = served.library
    two = Milvus(served.backend.where, str(uuid.uuid4()), (1, 0), 20.0)
    with pytest.raises(BackendError, match=r"fewer query nodes than index\.replicas = 2"):
        sync.build(two, library.home, library.database, library.collection)
    two.close()


def test_killed_while_it_is_filled(
    served: Served,
    queries: F32,
    milvus_server: milvus.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from facesearch.backends import milvus as ours

    monkeypatch.setattr(feed, "BATCH", 500)
    monkeypatch.setattr(ours, "_MARK_ROWS", 500)
    client = hasty(served)
    before = client.backend.state()
    assert isinstance(client.backend, ours.Milvus)
    send = client.backend._client.send
    sent: list[int] = []

    def dying(name: str, rows: FaceRows) -> None:
        if len(sent) == 3:
            milvus_server.kill()
        send(name, rows)
        sent.append(len(rows))

    monkeypatch.setattr(client.backend._client, "send", dying)
    with pytest.raises(BackendUnreachableError):
        client.build()
    client.backend.close()
    milvus_server.start()
    left = served.backend.unfinished()
    assert left is not None
    assert left.filled == 1500
    assert served.backend.state() == before
    served.build()
    state = served.backend.state()
    assert state is not None
    assert (state.name, state.rows, state.filled) == (left.name, 3000, None)
    library = served.library
    assert not any(sync.verify(served.backend, library.home, library.database, library.collection))
    check(served, queries)


def held(served: Served) -> frozenset[object]:
    """Which nodes hold which segments, by Milvus itself."""
    from facesearch.backends.milvus_link import Link

    state = served.backend.state()
    assert state is not None
    link = Link(served.backend.where, "", 60.0)
    library_id = state.library_id.replace("-", "")
    found = link.holders(f"facesearch_{library_id}_{state.collection_id}s0_{state.name}")
    link.close()
    return found


def test_killed_and_started_again(
    served: Served, queries: F32, milvus_server: milvus.Server
) -> None:
    library = served.library
    before = held(served)
    assert before
    assert held(served) == before
    new = library.add(queries[:1], 2000)
    served.push()
    pushed = served.backend.state()
    client = hasty(served)
    index = client.open()
    milvus_server.kill()
    with pytest.raises(BackendUnreachableError):
        index.search(queries, 3)
    library.remove([20])
    with pytest.raises(BackendUnreachableError):
        client.push()
    milvus_server.start()
    assert served.backend.state() == pushed
    found = served.open().search_identities(queries, 3)  # waits until the rows are loaded again
    checked(served, queries, found)
    assert found.ids[0, 0] == new[0]
    assert not before <= held(served)  # a node that is started again is another one
    served.push()
    assert served.open().status().superseded == 0
    check(served, queries)
    client.backend.close()
