"""What facesearch adds to the call of FAISS that answers a query.

    python -m benchmarks.overhead --library DIR     # made there if need be: a million people

Raw: `faiss_index.search(queries, rerank)` on the centred queries, with the index that facesearch
itself has loaded, and all that FAISS does. Engine: embeddings as they leave the model to candidates
with names and photos, as `identify` asks for them (5 a face): is the index up to date (file and
database), centring, the same call of FAISS, exact scores of the `rerank` rows from the mapped
vectors, one face an identity, means of people with several, and the names from the database.

Both answer the same queries in turn, in changing order, single and in batches of 256. Stated are
medians of the times and the median of the ratios, query by query.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.people import make, population
from facesearch.identify.query import Query
from facesearch.values import F32

TOP = 5


def compared(raw: Callable[[int], object], ours: Callable[[int], object], rounds: int) -> Any:
    """Milliseconds of both, and how much more ours takes, over rounds that alternate."""
    times = np.empty((rounds, 2))
    for number in range(-3, rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            before = time.perf_counter()
            (raw, ours)[which](number)
            times[number, which] = time.perf_counter() - before
    ratios = times[:, 1] / times[:, 0] - 1
    return {
        "rounds": rounds,
        "raw_ms": np.round(1e3 * np.percentile(times[:, 0], (5, 50, 95)), 3).tolist(),
        "engine_ms": np.round(1e3 * np.percentile(times[:, 1], (5, 50, 95)), 3).tolist(),
        "overhead": round(float(np.median(ratios)), 4),
        "overhead_of_medians": round(float(np.divide(*np.median(times, axis=0)[::-1]) - 1), 4),
        "overhead_quartiles": np.round(np.percentile(ratios, (25, 75)), 4).tolist(),
    }


def measure(library: Path, people: int, singles: int, batches: int) -> dict[str, Any]:
    """Overheads at one size."""
    with make(library, people) as engine:
        collection = engine.collection()
        index = engine.live(collection)
        if index.generation is None:
            engine.build_index()
            index = engine.live(collection)
        assert index.generation is not None
        spec = index.generation.manifest.spec
        raw: Any = index.generation.index._index
        probes: F32 = population().faces(0, 16_384, photo=1)
        queries = index.compared(probes)
        query: Query = engine._query("default", TOP, None, None, None)

        def part(of: F32, number: int, size: int) -> F32:
            start = size * number % (len(of) - size)
            return np.ascontiguousarray(of[start : start + size])

        def pair(size: int) -> tuple[Callable[[int], object], Callable[[int], object]]:
            return (
                lambda number: raw.search(part(queries, number, size), spec.rerank),
                lambda number: query.search(part(probes, number, size)),
            )

        return {
            "people": people,
            "recipe": spec.name,
            "rerank": spec.rerank,
            "top": TOP,
            "template": query.template,
            "single": compared(*pair(1), singles),
            "batch_256": compared(*pair(256), batches),
        }


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, help="where the library is, or is made")
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--singles", type=int, default=1500)
    parser.add_argument("--batches", type=int, default=40)
    given = parser.parse_args()
    head = record.header()
    with tempfile.TemporaryDirectory(prefix="facesearch-overhead-") as folder:
        library = given.library or Path(folder) / "library"
        result = measure(library, given.people, given.singles, given.batches)
    for name in ("single", "batch_256"):
        print(name, result[name])
    print(record.write("overhead", head, result))


if __name__ == "__main__":
    main()
