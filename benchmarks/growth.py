"""How the cost of searching grows with the number of faces: latency, memory, build time, loss.

    python -m benchmarks.growth --size 10000 --size 100000 --size 1000000
    python -m benchmarks.growth --plot        # docs/growth.svg, of all sizes recorded

At each size and for each recipe: exact float32 search, and what `index build` takes without tuning
from 131,072 faces on. Latency is the median of single queries through facesearch, re-ranking and
grouping included. Vectors are generated to a file and mapped; a record a size, so that sizes can be
run one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from facesearch.evaluate.plot import Axis, Series, chart
from facesearch.evaluate.search import Bench, made
from facesearch.index import faiss_index, measure
from facesearch.index.segment import Segment
from facesearch.index.spec import load_recipe

RECIPES = ("exact", "scan")
SECONDS = 3.0
RESIDENT, IDS = 12, 16
"""Bytes a face besides FAISS's file: in memory (see `facesearch.index.tune`), on the disk."""
PLOT = record.REPOSITORY / "docs" / "growth.svg"
SHOWN = (
    ("single_ms", "ms a query", 1.0),
    ("build_s", "s to build", 1.0),
    ("ram_mib", "MiB of memory", 1.0),
)


def measured(bench: Bench) -> list[dict[str, Any]]:
    """A row for each recipe at one size."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="facesearch-growth-") as folder:
        faces, probes = made(bench, Path(folder) / "vectors.f16")
        truth = measure.exact_truth(faces, probes, None)
        for name in RECIPES:
            spec = load_recipe(name)
            if spec.train_rows and len(faces) < faiss_index.SMALL:
                continue
            before = time.perf_counter()
            index = faiss_index.build(np.asarray(faces.vectors), spec)
            build_s = time.perf_counter() - before
            found = measure.places(index, probes, truth, spec.rerank, None)
            missed, trials = measure.lost(truth, found, spec.rerank).sum(), truth.identified.sum()
            segment = Segment(faces, index, spec.rerank)
            single = measure.latency(segment, probes.vectors, SECONDS)
            size = faiss_index.size(index)
            row = {
                "recipe": name,
                "rows": bench.size,
                "dim": bench.dim,
                "single_ms": single.p50,
                "single_p99_ms": single.p99,
                "batch_qps": measure.throughput(segment, probes.vectors),
                "build_s": round(build_s, 3),
                "ram_mib": round((size + RESIDENT * bench.size) / 2**20, 2),
                "bytes_per_face_ram": round(size / bench.size + RESIDENT, 2),
                "bytes_per_face_disk": round(size / bench.size + 2 * bench.dim + IDS, 2),
                "identified": int(trials),
                "identification_loss": float(missed / max(1, trials)),
                "loss_interval": measure.clopper_pearson(int(missed), int(trials)),
                "recall_at_10": round(measure.recall(truth, found, spec.rerank), 5),
                "load": round(os.getloadavg()[0], 1),
            }
            rows.append(row)
            print(row, flush=True)
            del index, segment
    return rows


def exponent(sizes: list[float], values: list[float]) -> float:
    """The b of value = a N^b by least squares on logarithms, over all sizes."""
    x, y = np.log(sizes), np.log(np.maximum(values, 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def recorded(dim: int) -> list[dict[str, Any]]:
    """The rows of every record of that dimension."""
    rows: list[dict[str, Any]] = []
    for path in sorted(record.RECORDS.glob(f"growth-*-{dim}.json")):
        rows += json.loads(path.read_text(encoding="utf-8"))["rows"]
    return sorted(rows, key=lambda row: row["rows"])


def plot(dim: int) -> str:
    """Every cost against N, both axes logarithmic, with the fitted exponents."""
    rows, series, said = recorded(dim), [], []
    for name in RECIPES:
        own = [row for row in rows if row["recipe"] == name]
        for key, label, scale in SHOWN:
            xs = [float(row["rows"]) for row in own]
            ys = [max(1e-3, row[key] * scale) for row in own]
            slope = exponent(xs, ys)
            said.append(f"{name}, {label}: N^{slope:.2f}")
            series.append(Series(f"{name}: {label}, N^{slope:.2f}", xs, ys, dots=True))
    print("\n".join(said))
    sizes = [row["rows"] for row in rows]
    values = [y for one in series for y in one.y]
    axes = (
        Axis("faces", min(sizes), max(sizes), True, lambda v: f"{v:,.0f}"),
        Axis(
            "cost",
            10.0 ** np.floor(np.log10(min(values))),
            10.0 ** np.ceil(np.log10(max(values))),
            True,
            "{:g}".format,
        ),
    )
    return chart(f"Cost of searching {dim}-d faces", "; ".join(said), axes, series)


def _standalone(svg: str) -> str:
    """The picture with its name space, its colours and a white ground."""
    colours = ("#1f6fb2", "#c4501b", "#2c8a4b", "#8e5ea2", "#a87400", "#4d4d4d")
    css = "svg{background:#fff;font-family:sans-serif}text{font-size:13px;fill:#1c2128}"
    css += ".grid{stroke:#d8dde3}.axis{stroke:#59636e;fill:none}.line{fill:none;stroke-width:2}"
    for number, colour in enumerate(colours):
        css += f".s{number}.line{{stroke:{colour}}}.s{number}.fill{{fill:{colour}}}"
    head = '<svg xmlns="http://www.w3.org/2000/svg"' if "xmlns" not in svg else "<svg"
    start = svg.index(">") + 1
    return svg[:start].replace("<svg", head, 1) + f"<style>{css}</style>" + svg[start:] + "\n"


def main() -> None:
    """Measure and write the records, or plot them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--probes", type=int, default=2000)
    parser.add_argument("--plot", action="store_true", help="only plot what is recorded")
    given = parser.parse_args()
    if given.plot:
        PLOT.write_text(_standalone(plot(given.dim)), encoding="utf-8")
        print(PLOT)
        return
    for size in given.size or [10_000, 30_000, 100_000, 300_000, 1_000_000]:
        head = record.header()
        rows = measured(Bench(size, given.dim, probes=given.probes))
        record.write(f"growth-{size}-{given.dim}", head, {"rows": rows})


if __name__ == "__main__":
    main()
