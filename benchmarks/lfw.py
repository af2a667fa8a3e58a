"""Accuracy on an LFW-style root, with and without the levers, through the whole engine.

    python -m benchmarks.lfw [ROOT]

ROOT is FACESEARCH_EVAL_DATA/lfw-dev unless given. Writes `records/lfw.json`, which the README's
table quotes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import evaluation_data, header, write
from facesearch import Engine
from facesearch.cli.evaluate import NO_LEVERS
from facesearch.evaluate.lfw import as_json, bench_lfw

RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "none": NO_LEVERS,
    "none, fp32": NO_LEVERS | {"embed_precision": "fp32"},
}
"""Settings by name: as it ships, without the accuracy levers, and so in float32."""


def main() -> None:
    """Run each, print the figures, write the record."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else evaluation_data() / "lfw-dev"
    head, runs = header(), {}
    for name, options in RUNS.items():
        with (
            tempfile.TemporaryDirectory(prefix="facesearch-lfw-") as folder,
            Engine.create(folder, embed_device="cpu", **options) as engine,
        ):
            result = bench_lfw(root, engine)
        runs[name] = as_json(result)
        print(f"{name}: verification {result.verification.accuracy:.4f}, {result.seconds:.0f} s")
        for enrolled in (result.open_set, result.open_set_3):
            tpir = {f"{p.target:g}": round(p.tpir, 4) for p in enrolled.points}
            print(f"  rank-1 {enrolled.rank1:.4f}, TPIR {tpir}", flush=True)
    print(write("lfw", head, {"root": root.name, "runs": runs}))


if __name__ == "__main__":
    main()
