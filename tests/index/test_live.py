"""The live index: any mixture of generation, delta and removed faces answers as the oracle does."""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from facesearch.errors import UsageError
from facesearch.index import exact, segment
from facesearch.index.build import build
from facesearch.index.exact import score
from facesearch.index.keys import unpack
from facesearch.index.live import LiveIndex
from facesearch.index.segment import Scope
from facesearch.index.spec import load_recipe
from facesearch.values import F16, F32, Changes
from tests.index.made import DIM, EAGER, EXACT, Truth, faces, home, people, units

SEEDS = st.integers(0, 2**32 - 1)


class Library(RuleBasedStateMachine):
    """A store, its index in one process that reopens, and in one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="facesearch-live-"))
        self.home = home(self.folder / "index")
        self.store = Truth()
        self.first_free = 1
        self.live = LiveIndex(None, DIM)
        self.stubborn = LiveIndex(None, DIM)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(seed=SEEDS, count=st.sampled_from([0, 5, 300]), built=st.booleans())
    def begin(self, seed: int, count: int, built: bool) -> None:
        self.rng = np.random.default_rng(seed)
        # Few distinct vectors: equal scores and identical faces happen.
        self.pool: F16 = units(self.rng, 60).astype(np.float16)
        if count:
            self.add(seed, count, 12)
        if built:
            self.build(eager=True)
            self.reopen()

    @rule(seed=SEEDS, count=st.integers(1, 60), identities=st.integers(0, 12))
    def add(self, seed: int, count: int, identities: int) -> None:
        rng = np.random.default_rng(seed)
        chosen = self.pool[rng.integers(0, len(self.pool), count)]
        given = rng.integers(0, identities + 1, count)
        self.store.upsert(faces(self.first_free, chosen, given))
        self.first_free += count + int(rng.integers(0, 3))

    @precondition(lambda self: self.store.faces)
    @rule(seed=SEEDS, identity=st.integers(0, 12), share=st.sampled_from([0.05, 0.5]))
    def assign(self, seed: int, identity: int, share: float) -> None:
        rows = self.store.rows()
        chosen = np.random.default_rng(seed).random(len(rows)) < share
        given = np.full(chosen.sum(), identity, np.int64)
        self.store.upsert(replace_identity(rows.face_ids[chosen], given, rows.vectors[chosen]))

    @precondition(lambda self: self.store.faces)
    @rule(seed=SEEDS, share=st.sampled_from([0.02, 0.3, 0.3, 1.0]))
    def remove(self, seed: int, share: float) -> None:
        ids = np.array(sorted(self.store.faces))
        chosen = ids[np.random.default_rng(seed).random(len(ids)) < share]
        self.store.remove([*chosen.tolist(), 10**9 + seed])  # and one that was never there

    @rule(eager=st.booleans())
    def build(self, eager: bool) -> None:
        rows = self.store.rows()
        half = len(rows) // 2
        batches = [faces_part(rows, slice(0, half)), faces_part(rows, slice(half, None))]
        build(self.home, EAGER if eager else EXACT, self.store.revision, batches)

    @rule()
    def reopen(self) -> None:
        """In a new process, or after noticing a new generation."""
        self.live = LiveIndex.open(self.home, lambda: self.store.revision)
        assert not self.live.outdated(self.home)

    @rule()
    def repeat_changes(self) -> None:
        """Changes that overlap with those applied before are harmless."""
        self.stubborn.apply(self.store.changes(max(0, self.stubborn.revision - 2)))

    @invariant()
    def answers_as_the_oracle(self) -> None:
        rng = self.rng
        queries, k = int(rng.integers(1, 8)), int(rng.integers(1, 15))
        near = self.pool[rng.integers(0, len(self.pool), queries)].astype(np.float32)
        vectors: F32 = near + np.float32(0.2) * units(rng, queries)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        scope: dict[str, Any] = {}
        if rng.random() < 0.3:
            scope["identities"] = np.flatnonzero(rng.random(15) < rng.random())
        if rng.random() < 0.3:
            scope["faces"] = np.flatnonzero(rng.random(self.first_free + 5) < rng.random())
        for live in (self.live, self.stubborn):
            live.apply(self.store.changes(live.revision))
            for distinct in (False, True):
                call = live.search_identities if distinct else live.search
                self.store.check(
                    call(vectors, k, Scope(**scope)), vectors, k, distinct=distinct, **scope
                )
            named = scope.get("identities")
            enrolled = {identity for identity, _ in self.store.faces.values()} - {0}
            counted = enrolled if named is None else enrolled & set(named.tolist())
            assert live.enrolled(Scope(named))[0] == len(counted)
            status = live.status()
            assert status.revision == self.store.revision
            assert status.rows - status.superseded + status.delta == len(self.store.faces)


def replace_identity(face_ids: Any, identity_ids: Any, vectors: F16) -> Any:
    return type(faces(1, vectors))(face_ids, identity_ids, vectors)


def faces_part(rows: Any, part: slice) -> Any:
    return type(rows)(rows.face_ids[part], rows.identity_ids[part], rows.vectors[part])


TestLibrary = Library.TestCase
TestLibrary.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# --- how the answer is found


@pytest.fixture
def crowd(tmp_path: Path) -> tuple[Truth, LiveIndex]:
    """5,000 faces of 500 people, among them one with 1,000 and 1,000 faces of nobody."""
    rng = np.random.default_rng(5)
    store = Truth(32)
    vectors = people(rng, 500, 6, 32)
    famous = people(rng, 1, 1000, 32)
    nobody = units(rng, 1000, 32)
    given = np.concatenate([np.repeat(np.arange(1, 501), 6), np.full(1000, 501), np.zeros(1000)])
    store.upsert(faces(1, np.concatenate([vectors, famous, nobody]), given.astype(np.int64)))
    place = home(tmp_path / "index", dim=32)
    build(place, EAGER, store.revision, [store.rows()])
    return store, LiveIndex.open(place, lambda: store.revision)


def fetches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows asked of FAISS a query, in order; 0 where brute force answered."""
    seen: list[int] = []
    real_fetch, real_top = segment.Segment._fetch, exact.top_distinct

    def fetch(self: segment.Segment, queries: F32, count: int, *rest: Any) -> Any:
        seen.append(count)
        return real_fetch(self, queries, count, *rest)

    def top_distinct(*args: Any) -> Any:
        seen.append(0)
        return real_top(*args)

    monkeypatch.setattr(segment.Segment, "_fetch", fetch)
    monkeypatch.setattr(segment, "top_distinct", top_distinct)
    return seen


def test_an_ordinary_query_asks_once(
    crowd: tuple[Truth, LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, live = crowd
    query = store.rows([7]).vectors.astype(np.float32)
    seen = fetches(monkeypatch)
    store.check(live.search_identities(query, 5), query, 5, distinct=True)
    assert seen == [20]


def test_a_person_with_many_faces_does_not_hide_others(
    crowd: tuple[Truth, LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, live = crowd
    query = store.rows([3001]).vectors.astype(np.float32)
    seen = fetches(monkeypatch)
    found = live.search_identities(query, 5)
    store.check(found, query, 5, distinct=True)
    assert found.identity_ids[0, 0] == 501
    assert seen == [20, 160, 1280]
    monkeypatch.setattr(segment, "_MOST_ROWS", 1000)
    store.check(live.search_identities(query, 5), query, 5, distinct=True)
    assert seen[3:] == [20, 160, 0]


def test_fewer_people_than_wanted_end_the_search(
    crowd: tuple[Truth, LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, live = crowd
    query = store.rows([3001]).vectors.astype(np.float32)
    only = np.array([501, 12, 999])
    seen = fetches(monkeypatch)
    found = live.search_identities(query, 3, Scope(only[:1]))
    assert found.identity_ids.tolist() == [[501, -1, -1]]
    assert seen == [12]
    store.check(
        live.search_identities(query, 3, Scope(only)), query, 3, distinct=True, identities=only
    )


def test_large_batches_and_small_filters_are_answered_exactly(
    crowd: tuple[Truth, LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, live = crowd
    queries = store.rows(list(range(1, 200))).vectors.astype(np.float32)
    seen = fetches(monkeypatch)
    store.check(live.search_identities(queries, 3), queries, 3, distinct=True)
    assert seen == [0]
    few = np.arange(1, 20)
    found = live.search_identities(queries[:1], 3, Scope(few))
    store.check(found, queries[:1], 3, distinct=True, identities=few)
    assert seen == [0, 0]


@pytest.mark.parametrize("name", ["hnsw", "ivf"])
def test_approximate_indexes_state_exact_scores(name: str, tmp_path: Path) -> None:
    """What they find is scored as the oracle scores it, and they find nearly everything."""
    rng = np.random.default_rng(21)
    store = Truth(32)
    vectors = people(rng, 4000, 3, 32)
    store.upsert(faces(1, vectors, np.repeat(np.arange(1, 4001), 3)))
    place = home(tmp_path / "index", dim=32)
    spec = load_recipe(name)
    build(place, replace(spec, value=min(spec.value, 32)), store.revision, [store.rows()])
    live = LiveIndex.open(place, lambda: store.revision)
    store.upsert(faces(20_001, people(rng, 10, 1, 32), np.arange(5001, 5011)))
    store.remove(list(range(1, 600, 3)))
    live.apply(store.changes(live.revision))
    rows = store.rows()
    right = 0
    for face in range(2, 400, 2):
        query = rows.vectors[face : face + 1].astype(np.float32)
        found = live.search_identities(query, 5)
        assert found.counts.tolist() == [5]
        assert len(set(found.identity_ids[0].tolist())) == 5
        at = np.searchsorted(rows.face_ids, found.ids)
        assert (rows.face_ids[at] == found.ids).all()
        assert (unpack(score(query, rows.vectors, at))[1] == found.scores).all()
        assert (np.diff(found.scores) <= 0).all()
        right += found.ids[0, 0] == rows.face_ids[face]
    assert right >= 195


def test_a_search_sees_one_state_while_changes_come_in(tmp_path: Path) -> None:
    """Faces come and go in pairs of opposite vectors; a search finds both of a pair or none."""
    rng = np.random.default_rng(31)
    store = Truth()
    store.upsert(faces(1, units(rng, 50), 1))
    place = home(tmp_path / "index")
    build(place, EXACT, store.revision, [store.rows()])
    live = LiveIndex.open(place, lambda: store.revision)
    axis = units(rng, 1)
    done = threading.Event()

    def look() -> int:
        looked = 0
        while not done.is_set() or looked < 20:
            found = live.search(np.concatenate([axis, -axis]), 1)
            assert (found.scores[0, 0] > 0.999) == (found.scores[1, 0] > 0.999)
            looked += 1
        return looked

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(look) for _ in range(3)]
        for first in range(100, 400, 2):
            store.upsert(faces(first, np.concatenate([axis, -axis]), 2))
            live.apply(store.changes(live.revision))
            store.remove([first, first + 1])
            live.apply(store.changes(live.revision))
        done.set()
        assert all(reader.result() >= 20 for reader in readers)


def test_older_changes_are_ignored() -> None:
    live = LiveIndex(None, DIM)
    rng = np.random.default_rng(0)
    live.apply(Changes(5, faces(1, units(rng, 3)), np.zeros(0, np.int64)))
    live.apply(Changes(5, faces(10, units(rng, 3)), np.zeros(0, np.int64)))
    live.apply(Changes(4, faces(20, units(rng, 3)), np.zeros(0, np.int64)))
    assert live.revision == 5
    assert live.status().delta == 3
    assert live.status().generation is None


def test_a_face_both_changed_and_removed_is_removed() -> None:
    live = LiveIndex(None, DIM)
    live.apply(Changes(1, faces(1, units(np.random.default_rng(0), 3)), np.array([2])))
    found = live.search(units(np.random.default_rng(1), 1), 5)
    assert sorted(found.ids[0].tolist()) == [-1, -1, -1, 1, 3]


def test_outdated(tmp_path: Path) -> None:
    place = home(tmp_path / "index")
    live = LiveIndex(None, DIM)
    assert not live.outdated(place)
    build(place, EXACT, 0, [])
    assert live.outdated(place)
    live = LiveIndex.open(place, lambda: 0)
    assert not live.outdated(place)
    build(place, EXACT, 0, [])
    assert live.outdated(place)


@pytest.mark.parametrize(
    "queries",
    [np.zeros(DIM), np.zeros((1, DIM + 1)), np.full((1, DIM), np.nan), np.full((1, DIM), np.inf)],
)
def test_queries_that_make_no_sense(queries: F32) -> None:
    with pytest.raises(UsageError, match="expected finite"):
        LiveIndex(None, DIM).search(queries.astype(np.float32), 1)


@pytest.mark.parametrize("k", [0, -1])
def test_no_results_wanted(k: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        LiveIndex(None, DIM).search_identities(np.zeros((1, DIM), np.float32), k)


def test_no_queries() -> None:
    live = LiveIndex(None, DIM)
    live.apply(Changes(1, faces(1, units(np.random.default_rng(0), 3)), np.zeros(0, np.int64)))
    assert live.search(np.zeros((0, DIM), np.float32), 4).ids.shape == (0, 4)
    assert live.search_identities(np.zeros((0, DIM), np.float32), 4).ids.shape == (0, 4)
