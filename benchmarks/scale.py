"""Does ingestion stay the same as the archive grows? Memory, and what a second run costs.

    python -m benchmarks.scale                       # writes records/scale.json
    python -m benchmarks.scale --photos 5000         # in a minute or two
    python -m benchmarks.scale --faces 0.1           # one photo in ten has a face: 5 times as fast

Makes that many photos of 64 x 64 pixels, all different, from those of `lfw-dev`; a share of them
may be textures instead, in which there is no face. Two archives, the
whole and a twentieth of it, are ingested into new libraries, twice each, every time in a process of
its own, from importing facesearch to the end. Recorded are the wall and CPU time and the peak of
resident memory of each run.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.record import REPOSITORY, evaluation_data, header, write

SIDE = 64


def make(count: int, folder: Path, share: float = 1.0) -> None:
    """Small photos, all different: five hundred people, and textures, each noised.

    Args:
        count: how many.
        folder: where, a thousand a subfolder.
        share: how many of them show a face.
    """
    sources = sorted((evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    small = []
    for source in random.Random(0).sample(sources, min(500, len(sources))):
        pixels = cv2.imread(str(source))
        assert pixels is not None
        small.append(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    ground = rng.integers(0, 256, (500, SIDE, SIDE, 3)).astype(np.uint8)
    plain = [cv2.GaussianBlur(noise, (0, 0), 4) for noise in ground]
    for i in range(count):
        inside = folder / f"{i // 1000:04}"
        if i % 1000 == 0:
            inside.mkdir(parents=True)
        shown = small if int((i + 1) * share) > int(i * share) else plain
        noise = rng.integers(-3, 4, (SIDE, SIDE, 3))
        pixels = np.clip(np.int16(shown[i % len(shown)]) + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(inside / f"{i:07}.jpg"), pixels)


def ingest(library: Path, album: Path) -> dict[str, Any]:
    """One run, in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--one", str(library), str(album)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": round(time.perf_counter() - began, 2), **result}


def one(library: Path, album: Path) -> None:
    """The other end of `ingest`."""
    from facesearch import Engine

    with Engine.create(library) as engine:
        report = engine.ingest([album])
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "files": report.files,
        "photos": report.photos,
        "faces": report.faces,
        "unchanged": report.unchanged,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
    }
    print(json.dumps(result))


def main() -> None:
    """Run both archives and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--faces", type=float, default=1.0, help="share of photos with a face")
    parser.add_argument("--name", default="scale", help="of the record")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    head = header()
    archives = []
    with tempfile.TemporaryDirectory(prefix="facesearch-scale-") as scratch:
        for count in (options.photos // 20, options.photos):
            album = Path(scratch) / f"album-{count}"
            make(count, album, options.faces)
            library = Path(scratch) / f"library-{count}"
            first, second = ingest(library, album), ingest(library, album)
            archives.append({"photos": count, "first": first, "second": second})
            print(json.dumps(archives[-1]), flush=True)
    small, large = archives
    body = {
        "share_with_faces": options.faces,
        "archives": archives,
        "peak_memory_ratio": round(large["first"]["peak_mib"] / small["first"]["peak_mib"], 3),
        "second_over_first": round(large["second"]["seconds"] / large["first"]["seconds"], 4),
        "second_over_first_cpu": round(
            large["second"]["cpu_seconds"] / large["first"]["cpu_seconds"], 4
        ),
    }
    print(body["peak_memory_ratio"], body["second_over_first"])
    print(write(options.name, head, body))


if __name__ == "__main__":
    main()
