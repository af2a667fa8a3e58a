"""Who is in a segment, and grouping when one person fills the nearest rows."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.index.exact import ExactIndex
from facesearch.index.keys import unpack
from facesearch.index.segment import Faces, Scope, Segment
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
