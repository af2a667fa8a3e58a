"""Brute force against plain float64 arithmetic, over block borders, masks and ties."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.index import exact
from facesearch.index.exact import score, top, top_distinct, widen
from facesearch.index.keys import unpack
from facesearch.values import F16, F32, Matches
from tests.index.made import Truth, faces, units

DIM = 24


def test_widen_is_astype_for_every_finite_float16() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 32)
    assert (widen(finite).view(np.uint32) == finite.astype(np.float32).view(np.uint32)).all()
    assert (widen(finite[::2, ::3]) == finite[::2, ::3].astype(np.float32)).all()
    single = finite.astype(np.float32)
    assert widen(single) is single or (widen(single) == single).all()


def test_a_score_does_not_depend_on_company() -> None:
    """Bit for bit the same alone, among others, and for any number of queries."""
    rng = np.random.default_rng(3)
    for dim in (8, 128, 512):
        vectors, queries = units(rng, 500, dim).astype(np.float16), units(rng, 9, dim)
        rows = np.tile(np.arange(500), (9, 1))
        whole = score(queries, vectors, rows)
        assert (score(queries[4:5], vectors, rows[4:5]) == whole[4:5]).all()
        assert (score(queries, vectors, rows[:, 77:78]) == whole[:, 77:78]).all()
        assert (score(queries[8:], widen(vectors), rows[:1, 3:10]) == whole[8:, 3:10]).all()
        ranked = top(queries, vectors, 500)
        assert (np.sort(ranked, axis=1) == np.sort(whole, axis=1)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rows", [0, 1, 255, 1024, 1025, 5000])
@pytest.mark.parametrize("masked", [False, True])
def test_top_and_top_distinct(
    dtype: type, rows: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_BLOCK_COMPONENTS", 2**14)  # several blocks at this size
    rng = np.random.default_rng(rows)
    stored = faces(1, units(rng, rows, DIM), rng.integers(-1, 40, rows).clip(0))
    truth = Truth(DIM)
    truth.upsert(stored)
    vectors: F16 | F32 = stored.vectors.astype(dtype)
    queries = units(rng, 7, DIM)
    allowed = rng.random(rows) < 0.3 if masked else None
    chosen = stored.face_ids if allowed is None else stored.face_ids[allowed]
    groups = stored.identity_ids
    for distinct in (False, True):
        for k in (1, 10, 60):
            if distinct:
                keys = top_distinct(queries, vectors, groups, k, allowed)
            else:
                keys = top(queries, vectors, k, allowed)
            at, scores = unpack(keys)
            ids = np.where(at < 0, -1, at + 1)
            people = np.where(at < 0, -1, groups[np.maximum(at, 0)] if rows else 0)
            found = Matches(ids, scores, people, (at >= 0).sum(axis=1))
            truth.check(found, queries, k, distinct=distinct, faces=chosen)


def test_equal_scores_come_in_order_of_rows() -> None:
    vectors = np.tile(units(np.random.default_rng(0), 1), (3000, 1)).astype(np.float16)
    rows, _ = unpack(top(vectors[:1].astype(np.float32), vectors, 5))
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_rows_that_get_better_and_better() -> None:
    """The worst order for pruning: every row beats all before it."""
    vectors = np.stack([np.arange(20_000), np.zeros(20_000)], axis=1).astype(np.float32)
    groups = np.arange(20_000) // 100 + 1
    query = np.array([[1, 0]], np.float32)
    assert unpack(top(query, vectors, 3))[0].tolist() == [[19_999, 19_998, 19_997]]
    best = unpack(top_distinct(query, vectors, groups, 3))[0]
    assert best.tolist() == [[19_999, 19_899, 19_799]]
