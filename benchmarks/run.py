"""All benchmarks, one after the other: `make bench`. Keep the machine quiet meanwhile."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "embed",
    "cold",
    "detect",
    "lfw",
    "levers",
    "default_threshold",
    "calibration",
    "probability",
    "ingest",
    "gallery",
    "search",
)


def main() -> None:
    """Run each in a process of its own, so that none inherits the other's threads or caches."""
    for name in BENCHMARKS:
        print(f"--- benchmarks.{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
