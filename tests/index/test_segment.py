"""Who is in a segment, and grouping when one person fills the nearest rows."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.index import faiss_index
from facesearch.index.exact import ExactIndex
from facesearch.index.keys import unpack
from facesearch.index.segment import Faces, Scope, Segment
from facesearch.index.spec import load_recipe
from tests.index import made
from tests.index.made import DIM, units


@pytest.mark.parametrize("rows", [0, 1, 2, 500])
@pytest.mark.parametrize("gone", [0, 100])
def test_who_is_in_it(rows: int, gone: int) -> None:
    rng = np.random.default_rng(rows)
    people = rng.integers(0, 40, rows) * 3
    ids = np.arange(1, rows + 1)
    whole = Segment(Faces(ids, people, units(rng, rows)), ExactIndex(units(rng, rows)))
    removed = rng.permutation(ids)[:gone]
    segment = whole.without(removed)
    left = set(people[~np.isin(ids, removed)].tolist()) - {0}
    assert segment.enrolled == len(left)
    assert segment.identities.tolist() == sorted(left)
    asked = np.arange(1, 130)
    assert segment.holds(asked).tolist() == [i in left for i in asked.tolist()]
    assert segment.holds(np.zeros(0, np.int64)).tolist() == []
    found, owners = segment.faces.of(asked)
    assert sorted(found.tolist()) == np.flatnonzero(people > 0).tolist()
    assert (people[found] == asked[owners]).all()


def test_a_person_with_all_the_nearest_faces_does_not_hide_the_next() -> None:
    """The best few rows hold one person alone: all that was fetched has to be grouped."""
    rng = np.random.default_rng(0)
    query = units(rng, 1)
    near = query + 0.05 * units(rng, 200)
    far = units(rng, 800)
    vectors = np.concatenate([near, far]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people = np.concatenate([np.full(200, 7), np.arange(100, 900)])

    class Approximate(ExactIndex):
        def cost(self, queries: int, allowed: int) -> float:
            return 0.0

    segment = Segment(Faces(np.arange(1, 1001), people, vectors), Approximate(vectors), rerank=400)
    keys = segment.search_identities(query, 3, Scope())
    rows = unpack(keys)[0][0]
    scores = vectors @ query[0]
    others = 200 + np.argsort(-scores[200:])[:2]
    assert vectors.shape[1] == DIM
    assert rows.tolist() == [int(np.argmax(scores)), *others.tolist()]


@pytest.mark.parametrize("faces_each", [1, 3])
@pytest.mark.parametrize("gone", [0, 200, 6000])
def test_refined_by_faiss_is_what_it_would_be(faces_each: int, gone: int) -> None:
    rng = np.random.default_rng(5)
    vectors = made.people(rng, 12_000 // faces_each, faces_each, DIM).astype(np.float16)
    identities = np.repeat(np.arange(1, 12_000 // faces_each + 1), faces_each)
    index = faiss_index.build(vectors, load_recipe("scan"))
    faces = Faces(np.arange(1, 12_001), identities, vectors)
    whole = Segment(faces, index, rerank=500).without(1 + rng.permutation(12_000)[:gone])
    plain = Segment(faces, index, 500, whole._alive)
    assert whole._refining is not None
    plain._refining = None
    queries = units(rng, 30, DIM)
    for k in (1, 5, 64):
        for found, expected in (
            (whole.search(queries, k, Scope()), plain.search(queries, k, Scope())),
            (
                whole.search_identities(queries, k, Scope()),
                plain.search_identities(queries, k, Scope()),
            ),
        ):
            same = found == expected  # but for ties, where FAISS sums up otherwise
            assert np.mean(same) > (0.999 if gone == 0 else 0.97)
            assert (unpack(found)[1] >= unpack(expected)[1] - 1e-6).all()  # never less is found
