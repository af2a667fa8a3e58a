"""Our choice against other libraries, on the same generated faces in the same run.

    python -m benchmarks.search --size 10000 --size 100000 --size 1000000 [--cache DIR]

Compared at each size: what `bench search` chooses; raw FAISS (IndexFlatIP, HNSW32 with its default
of efSearch 16 and with more, IVF with nprobe 64 and with more); hnswlib and usearch with their
defaults and with more; what autofaiss builds for 10 ms a query. Each answers the same mated probes;
loss and recall are as in `facesearch.index.measure`. The others' ten rows count as if ranked
exactly, which favours them. With `--cache` their indexes are kept in files, so that they can be
built (`--build`) while the machine does other things and timed when it is quiet; how long building
took is kept with them, and how busy the machine was.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
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
TIMED, SECONDS = 200, 2.0

Search = Callable[[F32], I64]
"""(Q, D) queries to (Q, NEAREST) rows, -1 for none."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way to search.

    Attributes:
        name: of it.
        build: its index of (N, D) float32.
        save: the index to a file.
        load: the inverse, for that many dimensions.
        settings: values of its search parameter, the default first.
        search: with one of them.
    """

    name: str
    build: Callable[[F32], Any]
    save: Callable[[Any, str], object]
    load: Callable[[str, int], Any]
    settings: tuple[int, ...]
    search: Callable[[Any, int], Search]


def by_faiss(name: str, factory: str, parameter: str = "", settings: tuple[int, ...] = ()) -> Rival:
    """Raw FAISS, trained on at most 65,536 rows."""

    def build(vectors: F32) -> Any:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:65_536])
        index.add(vectors)
        return index

    def search(index: Any, value: int) -> Search:
        if parameter:
            faiss.ParameterSpace().set_index_parameter(index, parameter, value)
        return lambda queries: np.asarray(index.search(queries, NEAREST)[1])

    def load(path: str, dim: int) -> Any:
        return faiss.read_index(path)

    return Rival(name, build, faiss.write_index, load, settings or (0,), search)


def by_hnswlib() -> Rival:
    """Hnswlib as its README has it: M 16, ef_construction 200, ef 50."""

    def made(dim: int) -> Any:
        hnswlib: Any = importlib.import_module("hnswlib")
        return hnswlib.Index(space="ip", dim=dim)

    def build(vectors: F32) -> Any:
        index = made(vectors.shape[1])
        index.init_index(max_elements=len(vectors), ef_construction=200, M=16)
        index.add_items(vectors)
        return index

    def load(path: str, dim: int) -> Any:
        index = made(dim)
        index.load_index(path)
        return index

    def search(index: Any, value: int) -> Search:
        index.set_ef(value)
        return lambda queries: np.asarray(index.knn_query(queries, NEAREST)[0], np.int64)

    return Rival(
        "hnswlib", build, lambda index, path: index.save_index(path), load, (50, 500), search
    )


def by_usearch() -> Rival:
    """Usearch with its defaults, float32."""

    def made(dim: int) -> Any:
        usearch: Any = importlib.import_module("usearch.index")
        return usearch.Index(ndim=dim, metric="ip", dtype="f32")

    def build(vectors: F32) -> Any:
        index = made(vectors.shape[1])
        index.add(np.arange(len(vectors)), vectors)
        return index

    def load(path: str, dim: int) -> Any:
        index = made(dim)
        index.load(path)
        return index

    def search(index: Any, value: int) -> Search:
        def answer(queries: F32) -> I64:
            if value:
                index.expansion_search = value
            found = index.search(queries, NEAREST)
            return np.asarray(found.keys, np.int64).reshape(len(queries), -1)

        return answer

    return Rival("usearch", build, lambda index, path: index.save(path), load, (0, 1024), search)


def by_autofaiss() -> Rival:
    """What autofaiss builds for 10 ms a query in 4 GB; it sets the search parameter itself."""

    def build(vectors: F32) -> Any:
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
        return index

    plain_faiss = by_faiss("", "")
    return replace(plain_faiss, name="autofaiss", build=build)


def rivals(size: int) -> list[Rival]:
    """Everything that is compared with."""
    lists = max(1, min(4096, size // 39))
    probes = tuple(dict.fromkeys(min(n, lists) for n in (64, lists // 4, lists // 2, lists)))
    return [
        by_faiss("faiss IndexFlatIP", "Flat"),
        by_faiss(f"faiss IVF{lists}", f"IVF{lists},Flat", "nprobe", probes),
        by_faiss("faiss HNSW32", "HNSW32,Flat", "efSearch", (16, 128, 512, 2048)),
        by_autofaiss(),
        by_hnswlib(),
        by_usearch(),
    ]


def index_of(rival: Rival, vectors: F32, cache: Path | None) -> tuple[Any, dict[str, float]]:
    """Its index, built or from the cache, and what building it took."""
    path = (
        cache / f"{rival.name}-{len(vectors)}-{vectors.shape[1]}".replace(" ", "-")
        if cache
        else None
    )
    if path and path.with_suffix(".json").exists():
        return rival.load(str(path), vectors.shape[1]), json.loads(
            path.with_suffix(".json").read_text()
        )
    before = time.perf_counter()
    index = rival.build(vectors)
    took = {
        "build_s": round(time.perf_counter() - before, 3),
        "load_while_building": round(os.getloadavg()[0], 1),
    }
    if path:
        rival.save(index, str(path))
        path.with_suffix(".json").write_text(json.dumps(took))
    return index, took


def measured(search: Search, probes: F32, truth: Truth) -> dict[str, Any]:
    """What one setting of a rival loses and costs."""
    rows = search(probes)
    found = np.full(truth.rows.shape, NEAREST, np.int64)
    for rank in range(NEAREST):
        hit = rows == truth.rows[:, rank : rank + 1]
        found[:, rank] = np.where(hit.any(axis=1), hit.argmax(axis=1), NEAREST)
    missed, trials = int(lost(truth, found, NEAREST).sum()), int(truth.identified.sum())
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(times) < 30 or (len(times) < TIMED and time.perf_counter() < until):
        row = len(times) % len(probes)
        before = time.perf_counter()
        search(probes[row : row + 1])
        times.append(1e3 * (time.perf_counter() - before))
    p50, p95, p99 = np.round(np.percentile(times, (50, 95, 99)), 4).tolist()
    return {
        "identification_loss": missed / trials,
        "loss_interval": clopper_pearson(missed, trials),
        "recall_at_10": round(recall(truth, found, NEAREST), 5),
        "single_ms": {"p50": p50, "p95": p95, "p99": p99},
    }


def compared(
    vectors: F32, probes: F32, truth: Truth, only: list[str], cache: Path | None
) -> Iterator[dict[str, Any]]:
    """A row for each setting of each rival that is installed."""
    for rival in rivals(len(vectors)):
        if only and not any(name in rival.name for name in only):
            continue
        try:
            index, took = index_of(rival, vectors, cache)
        except ImportError as err:
            print(f"{rival.name}: not installed ({err})")
            continue
        for value in rival.settings:
            row = measured(rival.search(index, value), probes, truth)
            yield {"name": rival.name, "setting": value, **row, **took}


def compare(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Our choice and the rivals at one size."""
    chosen = [s for s in recipes() if not given.recipe or s.name in given.recipe]
    tuning, filters = bench_search(bench, chosen, Target(recall10=0.99), print)
    faces, probes = made(bench)
    truth = exact_truth(faces, probes, None)
    vectors = faces.vectors.astype(np.float32)
    rows = []
    for row in compared(vectors, probes.vectors, truth, given.rival, given.cache):
        rows.append(row)
        print(row, flush=True)
    return {"tuning": plain(tuning), "filters": plain(filters), "rivals": rows}


def main() -> None:
    """Compare at every size, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rival", action="append", default=[], help="only these; part of a name")
    parser.add_argument("--recipe", action="append", default=[], help="only these; for all sizes")
    parser.add_argument("--probes", type=int, default=2000)
    parser.add_argument("--cache", type=Path, help="keep the rivals' indexes there")
    parser.add_argument("--build", action="store_true", help="only build them")
    given = parser.parse_args()
    if given.cache:
        given.cache.mkdir(parents=True, exist_ok=True)
    for size in given.size or [10_000, 100_000, 1_000_000]:
        head = record.header()
        bench = Bench(size, given.dim, probes=given.probes)
        if given.build:
            vectors = made(bench)[0].vectors.astype(np.float32)
            for rival in rivals(size):
                if not given.rival or any(name in rival.name for name in given.rival):
                    print(rival.name, index_of(rival, vectors, given.cache)[1], flush=True)
        else:
            print(record.write(f"search-{size}-{given.dim}", head, compare(bench, given)))


if __name__ == "__main__":
    main()
