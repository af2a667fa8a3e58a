"""Templates of people with several faces: one mean, or one a look."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.index.exact import ExactIndex
from facesearch.index.live import LiveIndex
from facesearch.index.templates import looks, templates
from facesearch.values import F32, Changes, FaceRows

DIM = 64


def unit(vectors: F32) -> F32:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def around(rng: np.random.Generator, middle: F32, count: int, spread: float = 0.04) -> F32:
    return unit(middle + spread * rng.normal(size=(count, DIM)).astype(np.float32))


@pytest.fixture
def two_looks() -> tuple[F32, F32, F32]:
    """Two directions, and eight faces: five near the first, three near the second, mixed."""
    rng = np.random.default_rng(0)
    young, old = np.eye(DIM, dtype=np.float32)[:2]
    faces = np.concatenate([around(rng, young, 5), around(rng, old, 3)])
    return young, old, faces[[0, 5, 1, 6, 2, 7, 3, 4]]


def test_faces_that_differ_are_looks_of_their_own(two_looks: tuple[F32, F32, F32]) -> None:
    faces = two_looks[2]
    assert looks(faces).tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    assert looks(faces[:1]).tolist() == [0]
    assert not looks(faces[[0, 2, 4]]).any()


def test_numbers_have_no_gap_and_do_not_hang_on_much(two_looks: tuple[F32, F32, F32]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = looks(two_looks[2][rng.permutation(8)])
        assert sorted(np.bincount(found).tolist()) == [3, 5]


def test_a_person_is_as_similar_as_their_most_similar_look(
    two_looks: tuple[F32, F32, F32],
) -> None:
    young, old, faces = two_looks
    owner = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 3])
    rng = np.random.default_rng(2)
    vectors = np.concatenate([faces, unit(rng.normal(size=(2, DIM)).astype(np.float32))])
    means, starts = templates(vectors, owner, 4, by_look=True)
    assert starts.tolist() == [0, 1, 3, 4]  # the second person has two
    assert len(means) == 5
    np.testing.assert_array_equal(means[0], vectors[8])  # a single face stays as it is
    np.testing.assert_array_equal(means[3], 0.0)  # nobody's faces
    for direction in (young, old):
        assert (means[1:3] @ direction).max() > 0.95
    together, starts = templates(vectors, owner, 4)
    assert starts.tolist() == [0, 1, 2, 3]
    expected = faces.sum(axis=0) / np.linalg.norm(faces.sum(axis=0))
    np.testing.assert_allclose(together[1], expected, atol=1e-6)
    assert together[1] @ old < 0.6


@pytest.mark.parametrize("by_look", [False, True])
def test_the_live_index_scores_by_templates(by_look: bool) -> None:
    """In whatever segment the faces are: equal to templates made of all faces at once."""
    rng = np.random.default_rng(3)
    people, each = 30, 6
    middles = unit(rng.normal(size=(2 * people, DIM)).astype(np.float32))
    vectors = np.concatenate(
        [around(rng, middles[p + people * (n > 3)], 1) for p in range(people) for n in range(each)]
    ).astype(np.float16)
    ids = np.arange(1, people * each + 1)
    owner = np.repeat(np.arange(people), each)
    index = LiveIndex(None, DIM)
    index.apply(Changes(1, FaceRows(ids, owner + 1, vectors), np.zeros(0, np.int64)))
    probes = around(rng, middles[people + 3], 1)
    found = index.search_templates(probes, 5, by_look=by_look)
    means, starts = templates(vectors.astype(np.float32), owner, people, by_look=by_look)
    scores = np.maximum.reduceat(means @ probes[0], starts)
    order = np.argsort(-scores)[:5]
    assert found.identity_ids[0].tolist() == (order + 1).tolist()
    np.testing.assert_allclose(found.scores[0], scores[order], atol=1e-6)
    assert found.identity_ids[0, 0] == 4
    assert (found.scores[0, 0] > 0.8) == by_look
    assert ExactIndex(vectors).search(probes, 1, None)[0, 0] // each == 3
