"""The search bench: what every recipe loses and costs, on generated faces or one's own.

Generated: one template a person enrolled, another photo of the first people as mated probes; the
threshold is the one that gives FPIR 1 % among strangers of the same population.
"""

from __future__ import annotations

import csv
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facesearch.errors import UsageError
from facesearch.evaluate.generate import Population, shipped_statistics
from facesearch.index import faiss_index
from facesearch.index.exact import top
from facesearch.index.keys import unpack
from facesearch.index.measure import Probes
from facesearch.index.segment import Faces, Scope, Segment
from facesearch.index.spec import IndexSpec
from facesearch.index.tune import Measured, Target, Tuning, tune
from facesearch.values import F32, I64

FPIR = 0.01
"""Rate of false alarms that the threshold of a generated gallery keeps."""
STRANGERS = 1000
SELECTIVITIES = (0.5, 0.05, 0.005)
"""Shares of the faces that a filter lets through."""
BY_METADATA, BY_TIME = "metadata", "time"
"""Filters: people anywhere among the faces; faces that were added one after the other."""
_FILTERED = 400
"""Probes searched with each filter."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """A search restricted to some of the faces.

    Attributes:
        by: `BY_METADATA` or `BY_TIME`.
        selectivity: the share of the faces searched.
        identified: probes that exact search within them identifies.
        identification_loss: of these, the share that the index does not.
        single_ms: median time of a query.
    """

    by: str
    selectivity: float
    identified: int
    identification_loss: float
    single_ms: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What `bench search` asks for.

    Attributes:
        size: people enrolled.
        dim: dimensions.
        seed: of the population.
        probes: mated probes, half of them to choose by.
        halving: give up recipes on samples; else build all for the whole gallery.
    """

    size: int
    dim: int = 128
    seed: int = 0
    probes: int = 2000
    halving: bool = True


def bench_search(
    bench: Bench,
    recipes: Sequence[IndexSpec],
    target: Target,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Tuning, list[Filtered]]:
    """Measure recipes on a generated gallery: the tuning, and the choice under filters.

    Raises:
        UsageError: the size is too small, or nothing meets the target.
    """
    with tempfile.TemporaryDirectory(prefix="facesearch-bench-") as folder:
        before = time.perf_counter()
        faces, probes = made(bench, Path(folder) / "vectors.f16")
        tell(
            f"{bench.size:,} faces generated in {time.perf_counter() - before:.1f} s, threshold "
            f"{probes.threshold:.3f}"
        )
        result = tune(faces, probes, recipes, target, halving=bench.halving, tell=tell)
        return result, filtered(faces, probes, result.chosen, bench.seed)


def made(bench: Bench, path: Path | None = None) -> tuple[Faces, Probes]:
    """The generated gallery and its mated probes.

    Args:
        bench: what to generate.
        path: file for the vectors, which is then mapped; None to keep them in memory.

    Raises:
        UsageError: the size is too small.
    """
    if bench.size < 100:
        raise UsageError(f"a gallery of {bench.size} faces shows nothing; at least 100")
    population = Population(shipped_statistics(bench.dim), bench.seed)
    faces = _gallery(population, bench.size, path)
    return faces, _probes(population, faces, min(bench.probes, bench.size))


def filtered(faces: Faces, probes: Probes, chosen: Measured, seed: int) -> list[Filtered]:
    """The chosen index, restricted to a half, a twentieth, a two-hundredth of the faces.

    The people whom the probes show are added to what a filter lets through.
    """
    index = faiss_index.build(np.asarray(faces.vectors, np.float16), chosen.spec)
    segment = Segment(faces, index, chosen.spec.rerank)
    vectors, mates = probes.vectors[:_FILTERED], probes.identities[:_FILTERED]
    rng = np.random.default_rng(seed)
    rows = []
    for share in SELECTIVITIES:
        scopes = {
            BY_METADATA: _some_people(faces, mates, share, rng),
            BY_TIME: _some_time(faces, mates, share, rng),
        }
        for by, scope in scopes.items():
            exact = top(vectors, faces.vectors, 1, faces.among(scope))
            best, scores = (part[:, 0] for part in unpack(exact))
            right = (faces.identity_ids[best] == mates) & (scores >= probes.threshold)
            found = np.full(len(vectors), -1, np.int64)
            times = []
            for number in range(len(vectors)):
                before = time.perf_counter()
                keys = segment.search_identities(vectors[number : number + 1], 5, scope)
                times.append(1e3 * (time.perf_counter() - before))
                found[number] = unpack(keys)[0][0, 0]
            again = faces.identity_ids[np.maximum(found, 0)] == mates
            lost = float(np.mean(~again[right])) if right.any() else 0.0
            median = round(float(np.median(times)), 4)
            rows.append(Filtered(by, share, int(right.sum()), lost, median))
    return rows


def _some_people(faces: Faces, mates: I64, share: float, rng: np.random.Generator) -> Scope:
    """Random people, as metadata might single them out."""
    people = np.unique(faces.identity_ids[faces.identity_ids > 0])
    some = rng.choice(people, max(1, round(share * len(people))), replace=False)
    return Scope(np.union1d(some, mates))


def _some_time(faces: Faces, mates: I64, share: float, rng: np.random.Generator) -> Scope:
    """Faces added one after the other, as those of a span of time are."""
    rows = max(1, round(share * len(faces)))
    start = int(rng.integers(len(faces) - rows + 1))
    theirs = faces.face_ids[np.isin(faces.identity_ids, mates)]
    return Scope(faces=np.union1d(faces.face_ids[start : start + rows], theirs))


def as_csv(result: Tuning) -> str:
    """A line a measured index."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _fields(result.chosen), lineterminator="\n")
    writer.writeheader()
    for row in (*result.indexes, *result.dropped):
        writer.writerow(_fields(row) | {"chosen": row == result.chosen})
    return out.getvalue()


def _fields(row: Measured) -> dict[str, object]:
    low, high = row.loss_interval
    return {
        "recipe": row.recipe,
        "params": " ".join(f"{key}={value}" for key, value in row.params.items()),
        "rows": row.rows,
        "identification_loss": row.identification_loss,
        "loss_low": low,
        "loss_high": high,
        "recall_at_10": row.recall_at_10,
        "p50_ms": row.single_ms.p50,
        "p95_ms": row.single_ms.p95,
        "p99_ms": row.single_ms.p99,
        "batch_qps": row.batch_qps,
        "build_s": row.build_s,
        "bytes_per_face_disk": row.bytes_per_face_disk,
        "bytes_per_face_ram": row.bytes_per_face_ram,
        "meets_target": row.meets_target,
        "pareto": row.pareto,
        "chosen": True,
    }


def _gallery(population: Population, size: int, path: Path | None) -> Faces:
    """One photo of each person, float16, in a mapped file or in memory."""
    ids: I64 = np.arange(1, size + 1)
    if path is None:
        parts = [part.astype(np.float16) for part in population.stream(size)]
        return Faces(ids, ids, np.concatenate(parts))
    with path.open("wb") as file:
        for part in population.stream(size):
            file.write(part.astype("<f2").data.cast("B"))
    return Faces(ids, ids, np.memmap(path, "<f2", "r", shape=(size, population.dim)))


def _probes(population: Population, faces: Faces, count: int) -> Probes:
    """Another photo of the first people, and the threshold that strangers ask for."""
    strangers = population.faces(len(faces), len(faces) + STRANGERS)
    scores: F32 = unpack(top(strangers, faces.vectors, 1))[1][:, 0]
    threshold = float(np.quantile(scores, 1.0 - FPIR))
    origin = f"generated; threshold of FPIR {FPIR:.0%} among {STRANGERS:,} generated strangers"
    return Probes(
        population.faces(0, count, photo=1), faces.identity_ids[:count], threshold, origin
    )
