"""Searching on a GPU: when, and what happens when it fails; how well, the contract says."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.index import faiss_index, gpu
from facesearch.index.segment import EVERYTHING, Faces, Scope, Segment
from facesearch.index.spec import load_recipe
from facesearch.values import F16
from tests.index.made import people, units

DIM = 32


@pytest.fixture(scope="module")
def vectors() -> F16:
    return people(np.random.default_rng(1), 600, 2, DIM).astype(np.float16)


def flat(vectors: F16) -> object:
    index = faiss_index.faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.astype(np.float32))
    return index


def segments(vectors: F16, copied: object) -> tuple[Segment, Segment]:
    """Without and with a copy."""
    ids = np.arange(1, len(vectors) + 1)
    faces = Faces(ids, (ids + 1) // 2, vectors)
    index = faiss_index.build(vectors, load_recipe("exact"))
    return Segment(faces, index), Segment(faces, gpu.OnGpu(index, vectors, copied), gpu.RERANK)  # type: ignore[arg-type]


def test_none_is_used_where_faiss_sees_none(vectors: F16) -> None:
    index = faiss_index.build(vectors, load_recipe("exact"))
    if gpu.gpus():
        assert isinstance(gpu.on_gpu(index, vectors, 2**40), gpu.OnGpu)
    else:
        assert gpu.on_gpu(index, vectors, 2**40) is index
    assert gpu.on_gpu(index, vectors, vectors.nbytes) is index  # nothing left to work in


def test_the_copy_is_made_once_much_was_asked_and_answers_alike(vectors: F16) -> None:
    made = []

    def copied(rows: F16) -> object:
        made.append(len(rows))
        return flat(rows)

    plain, moved = segments(vectors, copied)
    rng = np.random.default_rng(2)
    some = Scope(np.arange(1, 300))
    for number in range(10):
        queries = units(rng, 40, DIM).astype(np.float32)
        for scope in (EVERYTHING, some):
            np.testing.assert_array_equal(
                moved.search_identities(queries, 5, scope),
                plain.search_identities(queries, 5, scope),
            )
            np.testing.assert_array_equal(
                moved.search(queries, 7, scope), plain.search(queries, 7, scope)
            )
        assert len(made) == (number > 0)  # 40 queries twice are too few, 40 four times enough
    assert made == [len(vectors)]


def test_a_gpu_that_fails_is_done_without(vectors: F16) -> None:
    tried = []

    def broken(rows: F16) -> object:
        tried.append(len(rows))
        raise RuntimeError("CUDA error 2: out of memory")

    plain, moved = segments(vectors, broken)
    queries = units(np.random.default_rng(3), 200, DIM).astype(np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(
            moved.search(queries, 5, EVERYTHING), plain.search(queries, 5, EVERYTHING)
        )
    assert len(tried) == 1  # and not tried again
