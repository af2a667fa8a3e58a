"""What facesearch adds to the call of FAISS that answers a query.

    python -m benchmarks.overhead --library DIR     # made there if need be: a million people

Scan: FAISS's `search(queries, rerank)` on the centred queries, with the index that facesearch
itself has loaded. Call: what facesearch asks FAISS for, the same scan and FAISS's exact scores of
the rows found (`IndexRefine`), of which the best 5 are returned: everybody has one face here.
Engine: embeddings as they leave the model to candidates with names and photos, as `identify` asks
for them (5 a face): is the index up to date (file and database), centring, that call, scores of
what it returns, one face an identity, and the names from the database.

All answer the same queries in turn, in changing order, single and in batches of 256. Stated are
medians of the times and the medians of the ratios, query by query. Where memory happens to lie
moves them by several points, so the library is opened several times; recorded is the opening whose
single queries had the median overhead, beside the overheads of all.
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


Ask = Callable[[int], object]


def compared(scan: Ask, call: Ask, engine: Ask, rounds: int) -> Any:
    """Milliseconds of each, and how much more the engine takes, over rounds that alternate."""
    asked = (scan, call, engine)
    times = np.empty((rounds, 3))
    for number in range(-3, rounds):
        for turn in range(3):
            which = (turn + number) % 3
            before = time.perf_counter()
            asked[which](number)
            times[number, which] = time.perf_counter() - before

    def more(base: int) -> dict[str, Any]:
        ratios = times[:, 2] / times[:, base] - 1
        medians = np.median(times, axis=0)
        return {
            "median": round(float(np.median(ratios)), 4),
            "of_medians": round(float(medians[2] / medians[base] - 1), 4),
            "quartiles": np.round(np.percentile(ratios, (25, 75)), 4).tolist(),
        }

    percentiles = np.round(1e3 * np.percentile(times, (5, 50, 95), axis=0).T, 3).tolist()
    return {
        "rounds": rounds,
        **dict(zip(("scan_ms", "call_ms", "engine_ms"), percentiles, strict=True)),
        "over_scan": more(0),
        "over_call": more(1),
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
        refining: Any = index.generation.index.refining(index.generation.vectors)
        probes: F32 = population().faces(0, 16_384, photo=1)
        queries = index.compared(probes)
        query: Query = engine._query("default", TOP, None, None, None)

        def part(of: F32, number: int, size: int) -> F32:
            start = size * number % (len(of) - size)
            return np.ascontiguousarray(of[start : start + size])

        def ways(size: int) -> tuple[Ask, Ask, Ask]:
            return (
                lambda number: raw.search(part(queries, number, size), spec.rerank),
                lambda number: refining(part(queries, number, size), spec.rerank, TOP),
                lambda number: query.search(part(probes, number, size)),
            )

        return {
            "people": people,
            "recipe": spec.name,
            "rerank": spec.rerank,
            "top": TOP,
            "template": query.template,
            "single": compared(*ways(1), singles),
            "batch_256": compared(*ways(256), batches),
        }


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, help="where the library is, or is made")
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--singles", type=int, default=1500)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--opens", type=int, default=5)
    given = parser.parse_args()
    head = record.header()
    with tempfile.TemporaryDirectory(prefix="facesearch-overhead-") as folder:
        library = given.library or Path(folder) / "library"
        results = [
            measure(library, given.people, given.singles, given.batches) for _ in range(given.opens)
        ]
    results.sort(key=lambda one: one["single"]["over_call"]["median"])
    result = results[len(results) // 2]
    for kind in ("single", "batch_256"):
        result[kind]["over_call"]["of_all"] = [one[kind]["over_call"]["median"] for one in results]
    for name in ("single", "batch_256"):
        print(name, result[name])
    print(record.write("overhead", head, result))


if __name__ == "__main__":
    main()
