"""Accuracy on an LFW-style root, on the fast path and in float32, through the whole engine.

    python -m benchmarks.lfw [ROOT]

ROOT is FACESEARCH_EVAL_DATA/lfw-dev unless given. Writes `records/lfw.json`, which the README's
table quotes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.record import evaluation_data, header, write
from facesearch import Engine
from facesearch.evaluate.lfw import as_json, bench_lfw


def main() -> None:
    """Run both, print the figures, write the record."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else evaluation_data() / "lfw-dev"
    head, runs = header(), {}
    for precision in ("auto", "fp32"):
        with tempfile.TemporaryDirectory(prefix="facesearch-lfw-") as folder:
            options = {"embed_precision": precision, "embed_device": "cpu"}
            with Engine.create(folder, **options) as engine:
                result = bench_lfw(root, engine)
        runs[precision] = as_json(result)
        tpir = {f"{p.target:g}": round(p.tpir, 4) for p in result.open_set.points}
        print(
            f"{precision}: verification {result.verification.accuracy:.4f}, "
            f"rank-1 {result.open_set.rank1:.4f}, TPIR {tpir}, {result.seconds:.0f} s"
        )
    print(write("lfw", head, {"root": root.name, "runs": runs}))


if __name__ == "__main__":
    main()
