"""Our choice against other libraries, on the same generated faces in the same run.

    python -m benchmarks.search --size 10000 --size 100000 --size 1000000

Compared at each size: what `bench search` chooses; raw FAISS (IndexFlatIP, HNSW32 with its
defaults, IVF with nprobe 64); hnswlib and usearch with their defaults; what autofaiss builds for
10 ms a query. Each answers the same mated probes; loss and recall are as in
`facesearch.index.measure`. The others' ten rows count as if ranked exactly, which favours them.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss as _faiss
import numpy as np

from benchmarks import record
from facesearch.cli.common import plain
from facesearch.evaluate.search import Bench, bench_search, made
from facesearch.index.measure import NEAREST, Truth, clopper_pearson, exact_truth, lost, recall
from facesearch.index.spec import recipes
from facesearch.index.tune import Target
from facesearch.values import F32, I64

faiss: Any = _faiss
TIMED = 200

Search = Callable[[F32], I64]
"""(Q, D) queries to (Q, NEAREST) rows, -1 for none."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way to search: how its index is built from (N, D) float32."""

    name: str
    build: Callable[[F32], Search]


def by_faiss(factory: str, **parameters: int) -> Callable[[F32], Search]:
    """Raw FAISS, trained on at most 65,536 rows."""

    def build(vectors: F32) -> Search:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:65_536])
        index.add(vectors)
        for name, value in parameters.items():
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        return lambda queries: np.asarray(index.search(queries, NEAREST)[1])

    return build


def by_hnswlib(vectors: F32) -> Search:
    """Hnswlib as its README has it: M 16, ef_construction 200, ef 50."""
    hnswlib: Any = importlib.import_module("hnswlib")
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=200, M=16)
    index.add_items(vectors)
    index.set_ef(50)
    return lambda queries: np.asarray(index.knn_query(queries, NEAREST)[0], np.int64)


def by_usearch(vectors: F32) -> Search:
    """Usearch with its defaults, float32."""
    usearch: Any = importlib.import_module("usearch.index")
    index = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)

    def search(queries: F32) -> I64:
        found = index.search(queries, NEAREST)
        return np.asarray(found.keys, np.int64).reshape(len(queries), -1)

    return search


def by_autofaiss(vectors: F32) -> Search:
    """What autofaiss builds for 10 ms a query in 4 GB."""
    autofaiss: Any = importlib.import_module("autofaiss")
    index, _ = autofaiss.build_index(
        embeddings=vectors,
        save_on_disk=False,
        metric_type="ip",
        max_index_query_time_ms=10.0,
        max_index_memory_usage="4GB",
        current_memory_available="8GB",
        verbose=40,
    )
    return lambda queries: np.asarray(index.search(queries, NEAREST)[1])


def rivals(size: int) -> list[Rival]:
    """Everything that is compared with."""
    lists = max(1, min(4096, size // 39))
    return [
        Rival("faiss IndexFlatIP", by_faiss("Flat")),
        Rival("faiss HNSW32", by_faiss("HNSW32,Flat")),
        Rival(f"faiss IVF{lists} nprobe 64", by_faiss(f"IVF{lists},Flat", nprobe=min(64, lists))),
        Rival("hnswlib", by_hnswlib),
        Rival("usearch", by_usearch),
        Rival("autofaiss", by_autofaiss),
    ]


def measured(rival: Rival, vectors: F32, probes: F32, truth: Truth) -> dict[str, Any]:
    """One rival's row."""
    before = time.perf_counter()
    search = rival.build(vectors)
    build_s = time.perf_counter() - before
    rows = search(probes)
    found = np.full(truth.rows.shape, NEAREST, np.int64)
    for rank in range(NEAREST):
        hit = rows == truth.rows[:, rank : rank + 1]
        found[:, rank] = np.where(hit.any(axis=1), hit.argmax(axis=1), NEAREST)
    missed, trials = int(lost(truth, found, NEAREST).sum()), int(truth.identified.sum())
    times = []
    for number in range(TIMED):
        row = number % len(probes)
        before = time.perf_counter()
        search(probes[row : row + 1])
        times.append(1e3 * (time.perf_counter() - before))
    p50, p95, p99 = np.round(np.percentile(times, (50, 95, 99)), 4).tolist()
    return {
        "name": rival.name,
        "identification_loss": missed / trials,
        "loss_interval": clopper_pearson(missed, trials),
        "recall_at_10": round(recall(truth, found, NEAREST), 5),
        "single_ms": {"p50": p50, "p95": p95, "p99": p99},
        "build_s": round(build_s, 3),
    }


def compare(size: int, dim: int, only: list[str]) -> dict[str, Any]:
    """Our choice and the rivals at one size."""
    bench = Bench(size, dim)
    tuning, filters = bench_search(bench, recipes(), Target(recall10=0.99), print)
    faces, probes = made(bench)
    truth = exact_truth(faces, probes, None)
    vectors = faces.vectors.astype(np.float32)
    rows = []
    for rival in rivals(size):
        if only and not any(name in rival.name for name in only):
            continue
        try:
            rows.append(measured(rival, vectors, probes.vectors, truth))
        except ImportError as err:
            print(f"{rival.name}: not installed ({err})")
            continue
        print(rows[-1])
    return {"tuning": plain(tuning), "filters": plain(filters), "rivals": rows}


def main() -> None:
    """Compare at every size, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rival", action="append", default=[], help="only these; part of a name")
    given = parser.parse_args()
    head = record.header()
    sizes = given.size or [10_000, 100_000, 1_000_000]
    body = {str(size): compare(size, given.dim, given.rival) for size in sizes}
    print(record.write(f"search-{given.dim}", head, {"sizes": body}))


if __name__ == "__main__":
    main()
