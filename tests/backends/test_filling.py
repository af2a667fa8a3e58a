"""A build into Milvus that is interrupted goes on where it was, and ends as if it had not been."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facesearch.backends import milvus, sync
from facesearch.backends.backend import TRIAL, State
from facesearch.backends.milvus import Milvus
from facesearch.errors import IncompleteError
from facesearch.store import feed
from facesearch.values import FaceRows
from tests.backends.made import DIES, DIM, Served
from tests.index.made import people, units

FACES, BATCH = 1000, 100


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BATCH", BATCH)
    monkeypatch.setattr(milvus, "_MARK_ROWS", 2 * BATCH)


def client_of(site: Served) -> Milvus:
    assert isinstance(site.backend, Milvus)
    return site.backend


def interrupted(site: Served, monkeypatch: pytest.MonkeyPatch, batches: int) -> State:
    """Build until so many batches are sent; what is left."""
    send = client_of(site)._client.send
    sent: list[int] = []

    def broken(name: str, rows: FaceRows) -> None:
        if len(sent) == batches:
            raise KeyboardInterrupt
        sent.append(len(rows))
        send(name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(client_of(site)._client, "send", broken)
        with pytest.raises(KeyboardInterrupt):
            site.build()
    left = site.backend.unfinished()
    assert left is not None
    return left


def built(site: Served, monkeypatch: pytest.MonkeyPatch) -> int:
    """Build to the end; how many faces were sent for it."""
    send = client_of(site)._client.send
    sent: list[int] = []

    def counting(name: str, rows: FaceRows) -> None:
        sent.append(len(rows))
        send(name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(client_of(site)._client, "send", counting)
        site.build()
    return sum(sent)


def as_in_the_store(site: Served) -> None:
    """The server has what the store has, says so, and nothing else lies there."""
    library = site.library
    given = site.backend, library.home, library.database, library.collection
    assert not any(sync.verify(*given))
    state = site.backend.state()
    assert state is not None
    assert (state.rows, state.filled) == (len(library.truth.faces), None)
    assert client_of(site)._names() == [client_of(site)._name(state)]
    queries = units(np.random.default_rng(2), 4)
    found = site.open()
    assert found.status().delta == 0
    library.truth.check(found.search(queries, 5), queries, 5, distinct=False)


@DIES
@pytest.mark.parametrize("site", ["milvus-lite", "milvus"], indirect=True)
class TestFilling:
    """Milvus Lite and Milvus itself."""

    def test_goes_on_where_it_was(self, site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        library = site.library
        vectors = people(np.random.default_rng(1), FACES // 2, 2, DIM)
        ids = library.add(vectors[: FACES // 2], np.arange(1, FACES // 2 + 1))
        site.build()
        served = site.backend.state()
        ids += library.add(vectors[FACES // 2 :])
        left = interrupted(site, monkeypatch, 7)
        assert left.filled == ids[6 * BATCH - 1]  # 7 batches are there, the mark comes every two
        assert site.backend.state() == served  # nothing has changed for those who search
        queries = vectors[:3]
        library.truth.check(site.open().search(queries, 4), queries, 4, distinct=False)

        # what changed meanwhile, among what is there, what may be there, and what is not
        library.remove([ids[3], ids[6 * BATCH + 5], ids[FACES - 2]])
        library.enroll([ids[10], ids[6 * BATCH + 10], ids[FACES - 1]], 4000)
        library.add(units(np.random.default_rng(3), 5), 4001)
        assert interrupted(site, monkeypatch, 1).name == left.name  # and once more
        sent = built(site, monkeypatch)
        assert sent == FACES - 6 * BATCH - 2 + 1 + 5  # the rest, one that changed, the new ones
        state = site.backend.state()
        assert state is not None
        assert (state.name, state.created) == (left.name, left.created)
        assert site.backend.unfinished() is None
        as_in_the_store(site)
        assert built(site, monkeypatch) == FACES - 3 + 5  # the next begins anew
        as_in_the_store(site)

    def test_all_was_sent(self, site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        library = site.library
        ids = library.add(units(np.random.default_rng(1), 3 * BATCH + 10))
        with monkeypatch.context() as patch:
            patch.setattr(client_of(site)._client, "counted", _interrupts)
            with pytest.raises(KeyboardInterrupt):
                site.build()
        left = site.backend.unfinished()
        assert left is not None
        assert left.filled == ids[-1]
        assert site.backend.state() is None
        library.remove(ids[:2])
        assert built(site, monkeypatch) == 0
        as_in_the_store(site)

    def test_what_is_wrong_is_not_gone_on_with(
        self, site: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library, client = site.library, client_of(site)
        client._client.timeout_s = 3.0
        ids = library.add(units(np.random.default_rng(1), 5 * BATCH))
        left = interrupted(site, monkeypatch, 4)
        strays = FaceRows(
            np.array([10**6]), np.array([0]), units(np.random.default_rng(5), 1).astype(np.float16)
        )
        client._client.send(client._name(left), strays)
        with pytest.raises(IncompleteError, match=f"holds {len(ids) + 1} faces, expected"):
            site.build()
        assert site.backend.unfinished() is None
        assert built(site, monkeypatch) == len(ids)
        as_in_the_store(site)

    def test_who_is_removed_is_in_no_rest(
        self, site: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library, client = site.library, client_of(site)
        ids = library.add(units(np.random.default_rng(1), 5 * BATCH))
        site.build()
        interrupted(site, monkeypatch, 4)
        library.add(units(np.random.default_rng(2), 1))
        site.push()
        assert site.backend.unfinished() is not None
        library.remove(ids[:1])
        site.push()
        assert site.backend.unfinished() is None
        interrupted(site, monkeypatch, 4)
        state = site.backend.state()
        assert state is not None
        site.backend.lay_out(replace(state, name=f"{TRIAL}a"), [library.truth.rows()])
        given = site.backend, library.home, library.database, library.collection
        sync.push(*given, erased=True)
        assert client._client.names(client._prefix) == [client._name(state)]
        as_in_the_store(site)

    def test_another_models_is_swept(self, site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        site.library.add(units(np.random.default_rng(1), 5 * BATCH))
        left = interrupted(site, monkeypatch, 4)
        client = client_of(site)
        client._mark(client._name(left), replace(left, contract="another"))
        assert built(site, monkeypatch) == 5 * BATCH
        as_in_the_store(site)


def _interrupts(name: str, rows: int) -> None:
    raise KeyboardInterrupt
