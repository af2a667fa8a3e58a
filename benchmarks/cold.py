"""CPU time of one answer from a cold start: `facesearch identify` in a process of its own.

    python -m benchmarks.cold

On the demo's library and its group photo, next to what any program with torch pays before it does
anything: `import torch`. User and system time of the process, all its threads; interleaved rounds.
Writes `records/cold.json`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.record import header, write
from facesearch import Engine
from facesearch.resources import shipped

ROUNDS = 9


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


def main() -> None:
    """Build the demo's library, run the rounds, write the record."""
    head = header()
    photos = shipped("demo") / "photos"
    with tempfile.TemporaryDirectory(prefix="facesearch-cold-") as folder:
        library = Path(folder) / "library"
        with Engine.create(library, embed_device="cpu") as engine:
            engine.enroll(photos / "people")
            engine.build_index()
        ours = [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), "identify"]
        probes = {
            "identify a portrait": photos / "probes" / "rishi_sunak.jpg",
            "identify three faces": photos / "probes" / "group.jpg",
        }
        commands = {name: [*ours, str(probe), "--json"] for name, probe in probes.items()}
        commands["stats"] = [*ours[:-1], "stats", "--json"]
        commands["import torch"] = [sys.executable, "-c", "import torch"]
        for command in commands.values():
            cpu_seconds(command)  # files into the page cache
        rounds = [
            {name: round(cpu_seconds(command), 3) for name, command in commands.items()}
            for _ in range(ROUNDS)
        ]
    medians = {name: median(each[name] for each in rounds) for name in commands}
    for name, seconds in medians.items():
        print(f"{name}: {seconds:.2f} s of CPU, {seconds / medians['import torch']:.2f} of torch's")
    print(write("cold", head, {"medians": medians, "rounds": rounds}))


if __name__ == "__main__":
    main()
