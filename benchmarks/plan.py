"""What 10^7 to 10^9 faces would take: arithmetic from named inputs, and simulations that check it.

    python -m benchmarks.plan        # prints the tables of docs/scale.md, writes records/plan.json

Nothing here was run at these sizes. `INPUTS` names every number that is not read from a record of
this project, with where it comes from. Three simulations draw what the formulas state: strangers
(threshold), codes with an error (loss of the compressed scan), workers on one store (hours).
"""

from __future__ import annotations

import heapq
import json
import math
from statistics import NormalDist, median
from typing import Any

import numpy as np

from benchmarks import record
from facesearch.identify.threshold import MEASURED, ImpostorTail

SIZES = 10**7, 10**8, 10**9
DIMS = 128, 512
FPIRS = 0.01, 0.001
RERANK = 768
"""Faces that `scan` scores again exactly."""
BATCH = 64
"""Files that a worker claims and records at a time."""
NORMAL = NormalDist()

INPUTS: dict[str, tuple[float, str]] = {
    "gpu_faces_per_second": (
        3029,
        "published, not ours: ArcFace R50, TensorRT fp16, batch 16, RTX 5090; "
        "huggingface.co/alonsorobots/scrfd_320_batched",
    ),
    "node_gib": (256, "chosen"),
    "usable": (0.8, "chosen: of a node's memory"),
    "replicas": (2, "facesearch's default for Milvus, index.replicas"),
    "hnsw_links": (32, "indexes/milvus/hnsw.toml"),
    "milvus_overhead": (
        1.5,
        "assumed: loaded memory over vectors and links; zilliz.com/sizing-tool states 1.1 GiB for "
        "10^6 x 128 in HNSW",
    ),
    "gpus": (8, "chosen"),
    "store_writers": (8, "chosen: Postgres sessions that store faces at once"),
    "query_cores": (64, "chosen: of a node that scans"),
}


def value(name: str) -> float:
    """An input's number."""
    return INPUTS[name][0]


def bytes_a_face(dim: int) -> dict[str, tuple[float, float]]:
    """Of each index: memory and disk. FAISS's are as measured at 128 (`growth-*.json`)."""
    vector, links = 4 * dim, 2 * 4 * value("hnsw_links")
    return {
        "exact": (vector + 12, 6 * dim + 16),
        "scan": (dim / 4 + 12, dim / 4 + 2 * dim + 16),
        "milvus, HNSW": ((vector + links + 16) * value("milvus_overhead"), vector + links + 16),
        "store (embedding only)": (0, 2 * dim),
    }


def nodes(size: int, memory: float, replicas: float) -> int:
    """Nodes of `node_gib` that hold `size` faces in memory, `replicas` times."""
    return math.ceil(size * memory * replicas / (value("node_gib") * value("usable") * 2**30))


def scan_line(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Milliseconds of a query of `scan`, one thread: fixed, and for a million faces."""
    sizes = [row["rows"] / 1e6 for row in rows]
    slope, fixed = np.polyfit(sizes, [row["single_ms"] for row in rows], 1)
    return float(fixed), float(slope)


def mates_above(scores: dict[str, Any], threshold: float) -> float:
    """Share of the right people's scores at or above a threshold (LFW, one photo enrolled)."""
    bins, shares = np.array(scores["bins"]), np.array(scores["the right person"])
    below = np.concatenate([[0.0], np.cumsum(shares)])
    return float(1.0 - np.interp(threshold, bins, below))


def strangers_ahead(tail: ImpostorTail, size: int, score: float, error: float) -> float:
    """Expected strangers whose code scores above `score`, codes off by `error` (deviation)."""
    deviation = math.hypot(tail.deviation, error)
    return size * NORMAL.cdf(-(score - tail.mean) / deviation)


def lost(tail: ImpostorTail, size: int, score: float, error: float) -> float:
    """The chance that a mate of this score is not among the `RERANK` best codes."""
    # the code's score below which RERANK strangers are expected ahead of it
    deviation = math.hypot(tail.deviation, error)
    needed = tail.mean - deviation * NORMAL.inv_cdf(min(RERANK / size, 0.5))
    return NORMAL.cdf((needed - score) / error)


def recall10(tail: ImpostorTail, size: int, error: float) -> float:
    """Recall of the ten nearest, by the same model."""
    scores = [tail.mean - tail.deviation * NORMAL.inv_cdf(i / size) for i in range(1, 11)]
    return 1.0 - sum(lost(tail, size, score, error) for score in scores) / 10


def error_of_codes(tail: ImpostorTail, size: int, recall: float) -> float:
    """The deviation of the codes' error that gives this recall."""
    low, high = 1e-4, 0.3
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if recall10(tail, size, middle) > recall else (low, middle)
    return high


def hours(size: int, rate: float) -> float:
    """Hours for `size` faces at `rate` a second."""
    return size / rate / 3600


def simulated_fpir(
    tail: ImpostorTail, size: int, threshold: float, probes: int, rng: np.random.Generator
) -> float:
    """Share of strangers whose best score of `size` draws reaches the threshold."""
    # the best of N draws is the quantile at U^(1/N); its distance from 1 keeps the digits
    missing = -np.expm1(np.log(rng.random(probes)) / size)
    best = np.array([tail.mean - tail.deviation * NORMAL.inv_cdf(m) for m in missing.tolist()])
    return float((best >= threshold).mean())


def simulated_loss(
    tail: ImpostorTail,
    size: int,
    score: float,
    error: float,
    probes: int,
    rng: np.random.Generator,
) -> float:
    """Share of mates with `RERANK` or more strangers' codes ahead, strangers counted by chance."""
    codes = score + error * rng.standard_normal(probes)
    ahead = [strangers_ahead(tail, size, code, error) for code in codes.tolist()]
    return float((rng.poisson(np.minimum(ahead, 1e9)) >= RERANK).mean())


def simulated_rate(
    workers: int, rate: float, writers: int, store: float, batches: int, rng: np.random.Generator
) -> float:
    """Faces a second of workers that embed a batch, then wait for a free writer of the store.

    A discrete-event simulation: times to embed vary by a fifth, to store by a half (log-normal).
    """
    embed, write = BATCH / rate, BATCH / store
    ready = [(embed * float(rng.random()), worker) for worker in range(workers)]
    heapq.heapify(ready)
    free = [0.0] * writers
    finished = 0.0
    for _ in range(batches):
        now, worker = heapq.heappop(ready)
        begun = max(now, heapq.heappop(free))
        stored = begun + write * float(rng.lognormal(-0.125, 0.5))
        heapq.heappush(free, stored)
        heapq.heappush(ready, (stored + embed * float(rng.lognormal(-0.02, 0.2)), worker))
        finished = max(finished, stored)
    return batches * BATCH / finished


def main() -> None:
    """Print the tables and write the record."""
    head = record.header()
    records = {
        name: json.loads((record.RECORDS / f"{name}.json").read_text())
        for name in ("plots", "embed", "bulk", *(f"growth-{10**e}-128" for e in (4, 5, 6, 7)))
    }
    grown = [records[f"growth-{10**e}-128"]["rows"][1] for e in (4, 5, 6, 7)]
    assert all(row["recipe"] == "scan" for row in grown)
    (tail,) = (t for (_, how, centred), t in MEASURED.items() if "2 up" in how and centred)
    rng = np.random.default_rng(1)
    cpu = median(records["embed"]["faces_per_second"]["facesearch, auto"])
    store = records["bulk"]["rows_per_second"]["copy"]["64"]
    fixed, slope = scan_line(grown)
    error = error_of_codes(tail, 10**6, grown[2]["recall_at_10"])
    body: dict[str, Any] = {
        "inputs": {
            **{name: {"value": v, "from": where} for name, (v, where) in INPUTS.items()},
            "cpu_faces_per_second": {"value": cpu, "from": "records/embed.json, two cores"},
            "store_faces_per_second": {"value": store, "from": "records/bulk.json, one writer"},
            "scan_ms": {"value": [fixed, slope], "from": "records/growth-*.json, fitted"},
            "code_error": {"value": error, "from": "recall@10 at 10^6, growth-1000000-128.json"},
            "strangers": {
                "value": [tail.mean, tail.deviation, tail.lowest_fmr],
                "from": "records/default_threshold.json",
            },
        },
        "memory": [],
        "thresholds": [],
        "hours": [],
        "checks": [],
    }

    print("| index | dim | bytes a face: memory, disk |", *(f"{s:.0e} |" for s in SIZES))
    for dim in DIMS:
        for index, (memory, disk) in bytes_a_face(dim).items():
            replicas = value("replicas") if "milvus" in index else 1
            row = {"index": index, "dim": dim, "memory": memory, "disk": disk}
            cells = []
            for size in SIZES:
                gib = size * memory * replicas / 2**30
                count = nodes(size, memory, replicas)
                row[f"{size:.0e}"] = {"gib": round(gib, 1), "nodes": count}
                cells.append(f"{gib:,.0f} GiB, {count} |" if memory else f"{size * disk:.1e} B |")
            body["memory"].append(row)
            print(f"| {index} | {dim} | {memory:.0f}, {disk:.0f} |", *cells)

    print("\n| people | FPIR | threshold | mates above | loss of scan | scan ms, one thread |")
    for size in (10**6, *SIZES):
        for fpir in FPIRS:
            threshold = tail.threshold(size, fpir)
            row = {
                "people": size,
                "fpir": fpir,
                "threshold": threshold,
                "mates_above": mates_above(records["plots"]["scores"], threshold),
                "scan_loss_at_threshold": lost(tail, size, threshold, error),
                "scan_ms": fixed + slope * size / 1e6,
                "extrapolated": size > tail.supports(fpir),
            }
            body["thresholds"].append(row)
            print(
                f"| {size:.0e} | {fpir:.1%} | {threshold:.3f} | {row['mates_above']:.3f} | "
                f"{row['scan_loss_at_threshold']:.1e} | {row['scan_ms']:,.0f} |"
            )
            seen = simulated_fpir(tail, size, threshold, 200_000, rng)
            sigma = math.sqrt(fpir * (1 - fpir) / 200_000)
            _check(body, f"FPIR at {size:.0e}", fpir, seen, 4 * sigma)
        # where a loss can be seen: a mate that stands among the nearest few strangers
        low = tail.mean - tail.deviation * NORMAL.inv_cdf(100 / size)
        stated, seen = (
            lost(tail, size, low, error),
            simulated_loss(tail, size, low, error, 20_000, rng),
        )
        _check(body, f"loss of a mate at rank 100 of {size:.0e}", stated, seen, 0.02)

    # fitted at 10^6, held to what was measured at 10^7
    stated = recall10(tail, 10**7, error)
    _check(body, "recall@10 at 10^7, measured", stated, grown[3]["recall_at_10"], 0.01)

    gpus, writers = int(value("gpus")), int(value("store_writers"))
    embedding = gpus * value("gpu_faces_per_second")
    print("\n| faces | one GPU, h | 8 GPUs, h | two cores, h | stored by 1, h | by 8 writers, h |")
    for size in SIZES:
        spent: dict[str, float] = {
            "faces": size,
            "gpu": hours(size, value("gpu_faces_per_second")),
            "gpus": hours(size, embedding),
            "two_cores": hours(size, cpu),
            "store": hours(size, store),
            "stores": hours(size, store * writers),
        }
        body["hours"].append(spent)
        print("|", " | ".join(f"{v:,.1f}" if v < 1e6 else f"{v:.0e}" for v in spent.values()), "|")
    for label, count in (("one writer", 1), ("8 writers", writers)):
        # 4 workers a GPU share it: while one stores, the others embed
        seen = simulated_rate(
            4 * gpus, value("gpu_faces_per_second") / 4, count, store, 60_000, rng
        )
        stated = min(embedding, store * count)
        _check(body, f"faces a second, 8 GPUs, {label}", stated, seen, 0.05 * stated)

    print("\n| check | formula | simulated | allowed |")
    for check in body["checks"]:
        print(
            f"| {check['what']} | {check['formula']:.4g} | {check['simulated']:.4g} | "
            f"{check['allowed']:.2g} |"
        )
    print(record.write("plan", head, body))
    assert all(check["holds"] for check in body["checks"]), "a simulation contradicts the formula"


def _check(body: dict[str, Any], what: str, formula: float, seen: float, allowed: float) -> None:
    holds = bool(abs(formula - seen) <= allowed)
    body["checks"].append(
        {
            "what": what,
            "formula": formula,
            "simulated": seen,
            "allowed": allowed,
            "holds": holds,
        }
    )


if __name__ == "__main__":
    main()
