"""What every `VectorIndex` must do, run on every implementation, before and after a round trip."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import IndexFileError, UsageError
from facesearch.index import faiss_index, gpu
from facesearch.index.disk import creating
from facesearch.index.exact import ExactIndex, VectorIndex, score, top
from facesearch.index.keys import best, unpack
from facesearch.index.spec import IndexSpec, load_recipe
from facesearch.values import F16, F32, I64
from tests.index.made import people, recipe, units

DIM, PEOPLE, PHOTOS = 32, 3000, 4

RECIPES: dict[str, tuple[IndexSpec, float]] = {
    "exact": (load_recipe("exact"), 1.0),
    "hnsw": (replace(load_recipe("hnsw"), value=256), 0.99),
    "ivf": (load_recipe("ivf"), 0.95),
    "fp16": (recipe("SQfp16", train_rows=1000), 1.0),
    "scan": (recipe("PQ16x4fs", train_rows=1000), 0.35),
    "pq": (recipe("PQ16x4", train_rows=1000), 0.35),
    "lists": (
        recipe("IVF{lists},SQ8", lists=64, train_rows=6000, parameter="nprobe", value=32),
        0.9,
    ),
    "transformed": (
        recipe("L2norm,IVF{lists},SQ8", lists=64, train_rows=6000, parameter="nprobe", value=32),
        0.9,
    ),
}
"""Recipes with the recall@10 each must reach; the last five as a user may write them."""


@pytest.fixture(scope="module")
def vectors() -> F16:
    return people(np.random.default_rng(7), PEOPLE, PHOTOS, DIM).astype(np.float16)


@pytest.fixture(scope="module")
def queries(vectors: F16) -> F32:
    rng = np.random.default_rng(8)
    near = vectors[rng.choice(len(vectors), 40)].astype(np.float32) + 0.3 * units(rng, 40, DIM)
    return np.asarray(near / np.linalg.norm(near, axis=1, keepdims=True), np.float32)


def saved(index: faiss_index.FaissIndex, path: Path) -> mmap.mmap:
    with creating(path) as file:
        index.save(file)
    with path.open("rb") as written:
        return mmap.mmap(written.fileno(), 0, prot=mmap.PROT_READ)


@pytest.fixture(scope="module", params=["numpy", "copy", *RECIPES])
def case(
    request: pytest.FixtureRequest, vectors: F16, tmp_path_factory: pytest.TempPathFactory
) -> tuple[VectorIndex, float]:
    if request.param == "numpy":
        return ExactIndex(vectors), 1.0
    if request.param == "copy":
        return copied(vectors), 1.0
    spec, recall = RECIPES[request.param]
    built = faiss_index.build(vectors, spec)
    return faiss_index.load(saved(built, tmp_path_factory.mktemp("i") / "f"), spec), recall


def copied(vectors: F16) -> gpu.OnGpu:
    """What searches on a GPU, with FAISS's exact index in memory for that on a GPU."""

    def copy(rows: F16) -> object:
        flat = faiss_index.faiss.IndexFlatIP(rows.shape[1])
        flat.add(rows.astype(np.float32))
        return flat

    index = gpu.OnGpu(faiss_index.build(vectors, load_recipe("exact")), vectors, copy)
    warm = np.zeros((200, vectors.shape[1]), np.float32)
    index.search(warm, 1, None)
    assert index.cost(1, len(vectors)) < len(vectors) / 100  # it knows that it is fast by now
    return index


def recall(found: I64, truth: I64) -> float:
    hits = sum(len({*a} & {*b}) for a, b in zip(found.tolist(), truth.tolist(), strict=True))
    return hits / truth.size


def test_finds_neighbours(case: tuple[VectorIndex, float], vectors: F16, queries: F32) -> None:
    index, wanted = case
    assert len(index) == len(vectors)
    found = index.search(queries, 10, None)
    assert found.shape == (len(queries), 10)
    assert found.dtype == np.int64
    assert all(len(set(row)) == 10 for row in found.tolist())
    assert recall(found, unpack(top(queries, vectors, 10))[0]) >= wanted


def test_refining_is_searching_and_scoring(
    case: tuple[VectorIndex, float], vectors: F16, queries: F32
) -> None:
    refined = case[0].refining(vectors)
    if refined is None:
        assert isinstance(case[0], ExactIndex)
        return
    for fetch, keep in ((200, 20), (50, 50), (3, 1), (2 * len(vectors), 5)):
        found = case[0].search(queries, min(fetch, len(vectors)), None)
        keys = best(score(queries, vectors, found), keep)
        # sums are rounded otherwise: where two are equal to 6 digits, either is as good
        rows = refined(queries, fetch, keep)
        assert rows.shape[1] >= keep
        scores = unpack(best(score(queries, vectors, rows), keep))[1]
        np.testing.assert_allclose(scores, unpack(keys)[1], atol=1e-6)


@pytest.mark.parametrize("share", [0.9, 0.1, 0.01])
def test_restricted(
    case: tuple[VectorIndex, float], vectors: F16, queries: F32, share: float
) -> None:
    index, wanted = case
    allowed = np.random.default_rng(9).random(len(vectors)) < share
    found = index.search(queries, 10, allowed)
    assert allowed[found[found >= 0]].all()
    truth = unpack(top(queries, vectors, 10, allowed))[0]
    assert recall(found, truth) >= min(wanted, 0.9) - 0.05


def test_nothing_allowed(case: tuple[VectorIndex, float], vectors: F16, queries: F32) -> None:
    found = case[0].search(queries, 3, np.zeros(len(vectors), np.bool_))
    assert found.tolist() == [[-1] * 3] * len(queries)


def test_more_wanted_than_there_are(
    case: tuple[VectorIndex, float], vectors: F16, queries: F32
) -> None:
    allowed = np.zeros(len(vectors), np.bool_)
    allowed[[5, 500, 5000]] = True
    found = case[0].search(queries[:2], 6, allowed)
    assert found.shape == (2, 6)
    for row in found.tolist():
        real = [one for one in row if one >= 0]
        assert row == real + [-1] * (6 - len(real))  # padding comes last
        assert set(real) <= {5, 500, 5000}
        assert len(set(real)) == len(real)


def test_cost_grows_with_the_batch(case: tuple[VectorIndex, float]) -> None:
    index, _ = case
    assert 0 < index.cost(1, 100) <= index.cost(64, 100)
    assert index.cost(1, len(index)) < index.cost(64, len(index))


def test_threads_share_an_index(case: tuple[VectorIndex, float], queries: F32) -> None:
    index, _ = case
    alone = index.search(queries, 5, None)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: index.search(queries, 5, None), range(16)):
            assert (found == alone).all()


def test_a_saved_index_answers_as_the_built_one(vectors: F16, queries: F32, tmp_path: Path) -> None:
    spec, _ = RECIPES["ivf"]
    built = faiss_index.build(vectors, spec)
    loaded = faiss_index.load(saved(built, tmp_path / "file"), spec)
    assert (built.search(queries, 20, None) == loaded.search(queries, 20, None)).all()


@pytest.mark.parametrize("rows", [0, 1, 50])
@pytest.mark.parametrize("name", ["exact", "hnsw", "ivf", "scan", "transformed"])
def test_tiny(name: str, rows: int, tmp_path: Path) -> None:
    """Too few rows to train on are searched exactly."""
    stored = units(np.random.default_rng(rows), rows, DIM).astype(np.float16)
    spec, _ = RECIPES[name]
    index = faiss_index.load(saved(faiss_index.build(stored, spec), tmp_path / "f"), spec)
    queries = units(np.random.default_rng(99), 4, DIM)
    expected = unpack(top(queries, stored, 5))[0]
    assert (index.search(queries, 5, None) == expected).all()


def test_searching_and_building_leave_global_settings(vectors: F16, queries: F32) -> None:
    import faiss

    before: Callable[[], tuple[int, int]] = lambda: (  # noqa: E731
        faiss.omp_get_max_threads(),
        faiss.cvar.distance_compute_blas_threshold,
    )
    was = before()
    faiss_index.build(vectors, RECIPES["ivf"][0]).search(queries, 3, None)
    assert before() == was


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (recipe("Nonsense7"), "Nonsense7"),
        (recipe("PQ7", train_rows=1000), "PQ7"),
        (recipe("HNSW16,Flat"), "efSearch"),
        (recipe("Flat", parameter="nprobe", value=3), "parameter = ''"),
    ],
)
def test_recipe_that_faiss_cannot_build(spec: IndexSpec, says: str, vectors: F16) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        faiss_index.build(vectors, spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"nonsense" * 100])
def test_bytes_that_are_no_index(data: bytes) -> None:
    with pytest.raises(IndexFileError, match="FAISS"):
        faiss_index.load(data, RECIPES["exact"][0])
